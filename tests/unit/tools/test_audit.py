"""The audit with the real pip-audit and a local stand-in for PyPI."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from local.ports import HOST, free_port
from operations.audit import audit

PYPI = "pypi.org"
FLAW = {"id": "PYSEC-1", "aliases": [], "summary": "It is bad.", "details": "", "fixed_in": ["1.1"], "withdrawn": None}

Advisories = dict[str, list[dict[str, Any]]]


class Pypi(BaseHTTPRequestHandler):
    """A proxy that is PyPI itself, whatever it is asked to connect to."""

    tls: ssl.SSLContext
    advisories: Advisories
    status = 200

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.connection = self.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def do_GET(self) -> None:
        package = self.path.split("/")[2]
        status = self.status if package in self.advisories else 404
        body = json.dumps({"vulnerabilities": self.advisories.get(package, [])}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pypi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Starts a PyPI with these advisories, by package; it has no package but these."""
    servers = []

    def start(advisories: Advisories, status: int = 200) -> None:
        certificate = certified(tmp_path)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        handler = type("Handler", (Pypi,), {"tls": tls, "advisories": advisories, "status": status})
        servers.append(ThreadingHTTPServer((HOST, 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        for name, value in {
            "HTTPS_PROXY": f"http://{HOST}:{servers[-1].server_address[1]}",
            "REQUESTS_CA_BUNDLE": str(certificate),
            "NO_PROXY": "",
            "no_proxy": "",
        }.items():
            monkeypatch.setenv(name, value)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def certified(folder: Path) -> Path:
    """A key and a certificate that says it is PyPI's, in one file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, PYPI)])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(PYPI)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    file = folder / "pypi.pem"
    file.write_bytes(private + certificate.public_bytes(pem))
    return file


@pytest.fixture
def audited(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Audits two packages."""
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("".join(f"{name}==1.0 --hash=sha256:{'0' * 64}\n" for name in ("good", "other")))

    def audited(text: str | None = None, **more: Any) -> tuple[int, str]:
        if text is not None:
            requirements.write_text(text)
        return audit(requirements, ["--cache-dir", str(tmp_path / "cache")], **more)

    return audited


def test_a_known_vulnerability_fails_and_says_what_mends_it(
    pypi: Callable[..., None], audited: Callable[..., tuple[int, str]]
) -> None:
    pypi({"good": [], "other": [FLAW]})
    status, said = audited()
    assert status == 1
    assert said.splitlines()[:2] == [
        "2 of the 2 deployed packages were audited, with vulnerabilities:",
        "other 1.0: PYSEC-1, mended in 1.1",
    ]


def test_where_there_is_none_it_says_how_many_packages_that_is_true_of(
    pypi: Callable[..., None], audited: Callable[..., tuple[int, str]]
) -> None:
    pypi({"good": [], "other": []})
    assert audited() == (0, "2 of the 2 deployed packages were audited, and no vulnerability is known.")


def test_an_unknown_package_is_not_called_audited(
    pypi: Callable[..., None], audited: Callable[..., tuple[int, str]]
) -> None:
    pypi({"good": []})
    assert audited() == (0, "1 of the 2 deployed packages were audited (not other), and no vulnerability is known.")


def test_a_pypi_without_any_advisories_is_no_audit(
    pypi: Callable[..., None], audited: Callable[..., tuple[int, str]]
) -> None:
    pypi({})
    assert audited() == (0, "Nothing was audited: PyPI gave no advisories for any of the 2 packages.")


def test_where_pypi_fails_nothing_was_audited(
    pypi: Callable[..., None], audited: Callable[..., tuple[int, str]]
) -> None:
    pypi({"good": [], "other": []}, status=500)
    status, said = audited()
    assert (status, said.partition(" (")[0]) == (0, "Nothing was audited: PyPI could not be asked")


def test_without_a_network_nothing_was_audited(
    monkeypatch: pytest.MonkeyPatch, audited: Callable[..., tuple[int, str]]
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{HOST}:{free_port()}")
    status, said = audited()
    assert (status, said.partition(" (")[0]) == (0, "Nothing was audited: PyPI could not be asked")


def test_a_pypi_that_does_not_answer_is_not_waited_for(audited: Callable[..., tuple[int, str]]) -> None:
    assert audited(seconds=0.01) == (0, "Nothing was audited: PyPI did not answer within 0.01 s.")


def test_a_lock_file_without_hashes_fails(audited: Callable[..., tuple[int, str]]) -> None:
    status, said = audited("good==1.0\n")
    assert status == 1
    assert said.startswith("pip-audit failed:")
    assert "hash" in said
