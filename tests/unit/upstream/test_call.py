"""The call to the upstream: its bytes as they came, its faults by their kind, and a cancel that wakes who waits.

Where bytes on a socket matter, a server of a few lines sends exactly them; it goes on only when the test has seen what
came before, so that what arrives is not a matter of time.
"""

from __future__ import annotations

import queue
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from urllib3.exceptions import MaxRetryError, NameResolutionError

from lib.runtime.catalog import Deadlines, Upstream
from lib.upstream.call import ERROR_BODY_BYTES, Call, UpstreamFault, new_session

WAIT_SECONDS = 20.0  # for what is sure to come; nothing is asserted of it
BODY = b'{"model":"gpt","messages":[{"role":"user","content":"d\xc3\xada"}]}'
BASE_URL = "http://upstream.example/v1"
URL = f"{BASE_URL}/chat/completions"


class Peer:
    """One connection of a server, as its script sees it."""

    def __init__(self, connection: socket.socket, go_on: threading.Event):
        self._connection = connection
        self._go_on = go_on

    def request(self) -> bytes:
        """The next request, head and body."""
        got = b""
        while b"\r\n\r\n" not in got:
            got += self._read()
        head, _, body = got.partition(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l"))
        while len(body) < length:
            body += self._read()
        return head + b"\r\n\r\n" + body

    def _read(self) -> bytes:
        got = self._connection.recv(65536)
        if not got:
            raise ConnectionError
        return got

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def reset(self) -> None:
        """Ends the connection with a RST in the place of a FIN."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()

    def wait(self) -> None:
        """Waits until the test has seen what was sent."""
        assert self._go_on.wait(WAIT_SECONDS)
        self._go_on.clear()


class Server:
    """Listens on a port of its own and runs its script once a connection."""

    def __init__(self, script: Callable[[Peer], None], tls: ssl.SSLContext | None = None):
        self._tls = tls
        self.requests: queue.Queue[bytes] = queue.Queue()
        self.connections = 0
        self._go_on = threading.Event()
        self._script = script
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._listening.getsockname()[1]}/v1"

    def go_on(self) -> None:
        self._go_on.set()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(connection)
            self.connections += 1
            try:
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                    self._open.append(connection)
                peer = Peer(connection, self._go_on)
                while True:
                    self.requests.put(peer.request())
                    self._script(peer)
            except OSError:
                pass
            finally:
                connection.close()

    def close(self) -> None:
        self._go_on.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._thread.join(WAIT_SECONDS)


Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and its self-made certificate for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(private + made.public_bytes(pem))
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """What a server speaks TLS with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with new_session() as session:
        yield session


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(script: Callable[[Peer], None], tls: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(script, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def web() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as web:
        yield web


def call(
    session: requests.Session, base_url: str = BASE_URL, key: str | None = None, silence: float = WAIT_SECONDS
) -> Call:
    deadlines = Deadlines(connect=WAIT_SECONDS, first_byte=silence, idle=silence)
    return Call(session, Upstream(name="one", base_url=base_url, deadlines=deadlines), key, BODY)


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def fault_of(made: Call) -> UpstreamFault:
    """The fault that opening or reading a call ends with."""

    def exchange() -> None:
        made.open()
        for _ in made.pieces():
            pass

    with pytest.raises(UpstreamFault) as raised:
        exchange()
    made.close()
    return raised.value


# What is sent


def test_the_body_is_sent_as_it_is_to_the_upstream_s_address_with_its_key(
    session: requests.Session, serve: Serve
) -> None:
    server = serve(lambda peer: peer.send(head("Content-Length: 0")))
    made = call(session, server.base_url, key="sk-secret")
    made.open()
    made.close()
    sent, _, body = server.requests.get(timeout=WAIT_SECONDS).partition(b"\r\n\r\n")
    line, *fields = sent.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert body == BODY
    assert headers["content-type"] == "application/json"
    assert headers["authorization"] == "Bearer sk-secret"
    assert "text/event-stream" in headers["accept"]
    assert "application/json" in headers["accept"]


@pytest.mark.parametrize("key", ["sk-secret", None])
def test_a_netrc_never_takes_the_authorization_over(
    session: requests.Session, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1\nlogin mallory\npassword guess\ndefault login mallory password guess\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve(lambda peer: peer.send(head("Content-Length: 0")))
    made = call(session, server.base_url, key=key)
    made.open()
    made.close()
    sent = server.requests.get(timeout=WAIT_SECONDS)
    assert (b"Authorization: Bearer sk-secret\r\n" in sent) is (key is not None)
    assert b"Basic" not in sent


@pytest.mark.parametrize("key", ["sk-secret\n", " sk-secret\r\n"])
def test_a_key_is_sent_without_the_line_end_of_the_file_it_came_from(
    session: requests.Session, serve: Serve, key: str
) -> None:
    server = serve(lambda peer: peer.send(head("Content-Length: 0")))
    made = call(session, server.base_url, key=key)
    made.open()
    made.close()
    assert b"Authorization: Bearer sk-secret\r\n" in server.requests.get(timeout=WAIT_SECONDS)


@pytest.mark.parametrize("key", ["sk-se\ncret", "sk-€"])
def test_a_key_that_no_header_can_hold_is_a_fault_that_does_not_tell_the_key(
    session: requests.Session, key: str
) -> None:
    fault = fault_of(call(session, "http://127.0.0.1:1", key=key))
    assert not fault.passing
    assert "sk-" not in f"{fault} {fault.__cause__}"


# What comes back


@pytest.mark.parametrize(
    ("header", "media_type"),
    [
        ("Content-Type: text/event-stream", "text/event-stream"),
        ("Content-Type: Text/Event-Stream; charset=utf-8", "text/event-stream"),
        ("content-type:application/json ;x=y", "application/json"),
        ("Content-Type: text/html", "text/html"),
        ("X-Other: 1", ""),
    ],
)
def test_the_media_type_is_given_as_it_is_and_decides_nothing_here(
    session: requests.Session, serve: Serve, header: str, media_type: str
) -> None:
    server = serve(lambda peer: peer.send(head(header, "Content-Length: 2") + b"ok"))
    made = call(session, server.base_url)
    assert made.open() == media_type
    assert b"".join(made.pieces()) == b"ok"
    made.close()


PIECES = [b"data: a\n", b"\n", "data: dí".encode()[:-1], b"\xad\n\n", b"x" * 200_000, b"data: [DONE]\n\n"]


def in_chunks(piece: bytes) -> bytes:
    return chunked(piece)


def as_is(piece: bytes) -> bytes:
    return piece


@pytest.mark.parametrize(
    ("header", "framed", "end"),
    [
        ("Transfer-Encoding: chunked", in_chunks, b"0\r\n\r\n"),
        (f"Content-Length: {sum(map(len, PIECES))}", as_is, b""),
        ("Connection: close", as_is, b""),
    ],
    ids=["chunked", "content-length", "until close"],
)
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
def test_each_piece_of_a_body_arrives_before_the_next_one_is_sent(
    session: requests.Session, serve: Serve, header: str, framed: Callable[[bytes], bytes], end: bytes, compressed: bool
) -> None:
    compress = zlib.compressobj(wbits=31)
    encoded = [compress.compress(piece) + compress.flush(zlib.Z_SYNC_FLUSH) for piece in PIECES]
    encoded[-1] += compress.flush()
    on_the_wire = encoded if compressed else PIECES
    if header.startswith("Content-Length"):
        header = f"Content-Length: {sum(map(len, on_the_wire))}"

    def script(peer: Peer) -> None:
        peer.send(head(header, *(["Content-Encoding: gzip"] if compressed else [])))
        for piece in on_the_wire:
            peer.send(framed(piece))
            peer.wait()
        peer.send(end)
        raise ConnectionError

    server = serve(script)
    made = call(session, server.base_url)
    made.open()
    arrived = b""
    pieces = made.pieces()
    for number, _ in enumerate(PIECES, 1):
        expected = b"".join(PIECES[:number])
        while len(arrived) < len(expected):
            arrived += next(pieces)
        assert arrived == expected
        server.go_on()
    assert list(pieces) == []
    made.close()


def test_a_body_of_nothing_is_no_fault(session: requests.Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head("Content-Length: 0")))
    made = call(session, server.base_url)
    made.open()
    assert list(made.pieces()) == []
    made.close()


def test_a_connection_whose_answer_was_read_to_its_end_is_used_again(session: requests.Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head("Transfer-Encoding: chunked") + chunked(b"ok") + b"0\r\n\r\n"))
    for _ in range(3):
        made = call(session, server.base_url)
        made.open()
        assert b"".join(made.pieces()) == b"ok"
        made.close()
    assert server.connections == 1


def test_the_environment_is_asked_once_an_address(
    session: requests.Session, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = requests.Session.merge_environment_settings

    def counted(self: requests.Session, url: str, *more: Any) -> Any:
        asked.append(url)
        return ask(self, url, *more)

    monkeypatch.setattr(requests.Session, "merge_environment_settings", counted)
    servers = [serve(lambda peer: peer.send(head("Content-Length: 0"))) for _ in range(2)]
    for server in servers * 3:
        made = call(session, server.base_url)
        made.open()
        made.close()
    assert asked == [f"{server.base_url}/chat/completions" for server in servers]


def test_a_connection_whose_answer_was_not_read_to_its_end_is_not_used_again(
    session: requests.Session, serve: Serve
) -> None:
    server = serve(lambda peer: peer.send(head("Transfer-Encoding: chunked") + chunked(b"ok")))
    for _ in range(2):
        made = call(session, server.base_url)
        made.open()
        assert next(iter(made.pieces())) == b"ok"
        made.close()
    assert server.connections == 2


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_what_has_arrived_is_taken_without_waiting_for_more(
    session: requests.Session,
    serve: Serve,
    certificate: Path,
    tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    over_tls: bool,
) -> None:
    def script(peer: Peer) -> None:
        peer.send(head("Transfer-Encoding: chunked"))
        peer.wait()
        peer.send(chunked(b"one") + chunked(b"two") + b"64\r\nth")
        peer.wait()
        peer.send(b"x" * 98 + b"\r\n0\r\n\r\n")
        peer.wait()

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    server = serve(script, tls if over_tls else None)
    made = call(session, server.base_url)
    made.open()

    def taken_until(size: int) -> bytes:
        got = b""
        while len(got) < size:
            assert made.wait(WAIT_SECONDS)
            got += b"".join(made.arrived())
        return got

    assert (list(made.arrived()), made.ended) == ([], False)
    assert not made.wait(0.05)
    server.go_on()
    assert taken_until(8) == b"onetwoth"
    assert (list(made.arrived()), made.ended) == ([], False)
    assert not made.wait(0.05), "it says that there is something where there is nothing"
    server.go_on()
    assert taken_until(98) == b"x" * 98
    assert made.ended
    assert list(made.arrived()) == []
    made.close()


def test_what_was_read_together_with_the_head_is_part_of_the_body(session: requests.Session, serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.send(head("Transfer-Encoding: chunked") + chunked(b"x" * 3000))
        peer.wait()

    made = call(session, serve(script).base_url)
    made.open()
    assert made.wait(0.0)
    got = b""
    while len(got) < 3000:
        got += b"".join(made.arrived())
    assert got == b"x" * 3000
    made.close()


@pytest.mark.parametrize(("sent", "cancelled"), [(b"ok and more", False), (b"ok", True)], ids=["surplus", "cancelled"])
def test_a_connection_on_which_more_came_than_the_answer_or_a_cancel_is_not_used_again(
    session: requests.Session, serve: Serve, sent: bytes, cancelled: bool
) -> None:
    server = serve(lambda peer: peer.send(head("Content-Length: 2") + sent))
    for _ in range(2):
        made = call(session, server.base_url)
        made.open()
        assert b"".join(made.pieces()) == b"ok"
        if cancelled:
            made.cancel()
        made.close()
    assert server.connections == 2


# A body that breaks off


@pytest.mark.parametrize(
    "sent",
    [
        head("Content-Length: 100") + b"data: a\n\n",
        head("Transfer-Encoding: chunked") + chunked(b"data: a\n\n"),
        head("Transfer-Encoding: chunked") + b"64\r\ndata: a\n\n",
        head("Transfer-Encoding: chunked") + chunked(b"data: a\n\n") + b"zz\r\n",
    ],
    ids=["content-length", "between chunks", "in a chunk", "no chunk"],
)
def test_a_body_that_breaks_off_is_a_fault_after_all_that_came(
    session: requests.Session, serve: Serve, sent: bytes
) -> None:
    def script(peer: Peer) -> None:
        peer.send(sent)
        raise ConnectionError

    made = call(session, serve(script).base_url)
    made.open()
    arrived: list[bytes] = []
    with pytest.raises(UpstreamFault) as broken:
        arrived.extend(made.pieces())
    made.close()
    assert (broken.value.reason, broken.value.passing, broken.value.status) == ("upstream_disconnected", True, None)


def test_what_came_before_the_break_is_given_first(session: requests.Session, serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.send(head("Connection: close") + b"data: a\n\ndata: b")
        peer.wait()
        peer.reset()
        raise ConnectionError

    server = serve(script)
    made = call(session, server.base_url)
    made.open()
    pieces = made.pieces()
    arrived = b""
    while len(arrived) < 16:
        arrived += next(pieces)
    assert arrived == b"data: a\n\ndata: b"
    server.go_on()
    with pytest.raises(UpstreamFault) as broken:
        next(pieces)
    made.close()
    assert broken.value.reason == "upstream_disconnected"
    assert broken.value.passing
    assert "reset by peer" not in broken.value.message


def test_a_body_that_is_not_in_the_encoding_it_says_is_a_fault(session: requests.Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head("Content-Encoding: gzip", "Content-Length: 6") + b"nogzip"))
    assert fault_of(call(session, server.base_url)).reason == "upstream_disconnected"


def test_a_body_that_falls_silent_is_a_fault_in_the_end(session: requests.Session, serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.send(head("Transfer-Encoding: chunked") + chunked(b"data: a\n\n"))
        peer.wait()

    fault = fault_of(call(session, serve(script).base_url, silence=0.2))
    assert (fault.reason, fault.passing) == ("upstream_disconnected", True)


# An answer that is none


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422])
def test_a_refusal_is_a_fault_that_will_not_pass(
    session: requests.Session, web: responses.RequestsMock, status: int
) -> None:
    web.post(URL, status=status, body=b'{"error":{"message":"No."}}', content_type="application/json; charset=utf-8")
    fault = fault_of(call(session))
    assert (fault.reason, fault.status, fault.passing) == ("upstream_status", status, False)
    assert fault.body == b'{"error":{"message":"No."}}'
    assert fault.content_type == "application/json; charset=utf-8"
    assert fault.retry_after == 0
    assert "No." not in fault.message


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520, 529])
def test_a_status_of_trouble_is_a_fault_that_can_pass(
    session: requests.Session, web: responses.RequestsMock, status: int
) -> None:
    web.post(URL, status=status, body=b"busy", content_type="text/plain")
    fault = fault_of(call(session))
    assert (fault.reason, fault.status, fault.body, fault.passing) == ("upstream_status", status, b"busy", True)


@pytest.mark.parametrize("status", [501, 505, 507, 521, 523, 530, 599])
def test_any_other_5xx_is_a_fault_that_can_pass_too(
    session: requests.Session, web: responses.RequestsMock, status: int
) -> None:
    web.post(URL, status=status, body=b"busy")
    fault = fault_of(call(session))
    assert (fault.status, fault.passing) == (status, True)


@pytest.mark.parametrize(
    ("value", "at_least", "at_most"),
    [
        ("7", 7, 7),
        (" 7 ", 7, 7),
        ("0", 0, 0),
        (format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True), 3600, 7200),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0, 0),
        ("-7", 0, 0),
        ("soon", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_retry_after_is_seconds_or_a_date(
    session: requests.Session, web: responses.RequestsMock, value: str, at_least: float, at_most: float
) -> None:
    web.post(URL, status=429, headers={"Retry-After": value}, body=b"slow down")
    fault = fault_of(call(session))
    assert at_least <= fault.retry_after <= at_most
    assert (fault.status, fault.passing) == (429, True)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent", "304 Not"])
def test_a_redirect_is_never_followed_and_the_key_stays_here(
    session: requests.Session, serve: Serve, status: str
) -> None:
    server = serve(lambda peer: peer.send(head("Location: /elsewhere", "Content-Length: 0", status=status)))
    fault = fault_of(call(session, server.base_url, key="sk-secret"))
    assert (fault.reason, fault.status, fault.passing) == ("upstream_status", 502, False)
    assert server.requests.qsize() == 1


def test_of_a_very_long_refusal_the_beginning_is_kept(session: requests.Session, web: responses.RequestsMock) -> None:
    web.post(URL, status=400, body=b"x" * (3 * ERROR_BODY_BYTES))
    assert fault_of(call(session)).body == b"x" * ERROR_BODY_BYTES


def test_of_a_refusal_that_breaks_off_the_status_and_what_came_are_kept(
    session: requests.Session, serve: Serve
) -> None:
    def script(peer: Peer) -> None:
        peer.send(head("Content-Length: 100", status="503 Unavailable"))
        peer.send(b"try later")
        raise ConnectionError

    fault = fault_of(call(session, serve(script).base_url))
    assert (fault.status, fault.passing, fault.body) == (503, True, b"try later")


def test_a_connection_that_is_refused_is_a_fault_that_can_pass(session: requests.Session) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    fault = fault_of(call(session, f"http://127.0.0.1:{port}/v1"))
    assert (fault.reason, fault.status, fault.passing) == ("upstream_unreachable", 502, True)
    assert "127.0.0.1" not in fault.message


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n"])
def test_a_connection_that_ends_without_an_answer_is_a_fault_that_can_pass(
    session: requests.Session, serve: Serve, answer: bytes
) -> None:
    def script(peer: Peer) -> None:
        peer.send(answer)
        raise ConnectionError

    fault = fault_of(call(session, serve(script).base_url))
    assert (fault.reason, fault.status, fault.passing) == ("upstream_unreachable", 502, True)


@pytest.mark.parametrize(
    ("error", "reason", "status", "passing"),
    [
        (
            requests.ConnectionError(
                MaxRetryError(
                    None,  # type: ignore[arg-type]
                    URL,
                    NameResolutionError("upstream.example", None, socket.gaierror(-2, "unknown")),  # type: ignore[arg-type]
                )
            ),
            "upstream_unreachable",
            502,
            True,
        ),
        (requests.ConnectTimeout("10.0.0.1"), "upstream_unreachable", 504, True),
        (requests.ReadTimeout("10.0.0.1"), "upstream_timeout", 504, True),
        (requests.exceptions.ProxyError("10.0.0.1"), "upstream_unreachable", 502, True),
        (requests.exceptions.InvalidURL("10.0.0.1"), "upstream_unreachable", 502, False),
    ],
    ids=["name", "connect", "read", "proxy", "url"],
)
def test_what_keeps_an_upstream_from_being_reached_is_told_by_its_kind(
    session: requests.Session,
    web: responses.RequestsMock,
    error: requests.RequestException,
    reason: str,
    status: int,
    passing: bool,
) -> None:
    web.post(URL, body=error)
    fault = fault_of(call(session))
    assert (fault.reason, fault.status, fault.passing) == (reason, status, passing)
    assert "10.0.0.1" not in fault.message
    assert fault.__cause__ is error


def test_a_certificate_that_nobody_trusts_is_a_fault_that_will_not_pass(
    session: requests.Session, serve: Serve, tls: ssl.SSLContext
) -> None:
    fault = fault_of(call(session, serve(Peer.wait, tls).base_url))
    assert (fault.reason, fault.status, fault.passing) == ("upstream_tls", 502, False)


def test_an_upstream_that_does_not_begin_to_answer_is_a_fault_that_can_pass(
    session: requests.Session, serve: Serve
) -> None:
    fault = fault_of(call(session, serve(Peer.wait).base_url, silence=0.2))
    assert (fault.reason, fault.status, fault.passing) == ("upstream_timeout", 504, True)


# Cancelling


class Reader(threading.Thread):
    """Makes a call on a thread of its own and keeps what became of it."""

    def __init__(self, made: Call):
        super().__init__(daemon=True)
        self._made = made
        self.arrived: queue.Queue[bytes] = queue.Queue()
        self.fault: UpstreamFault | None = None
        self.opened = False
        self.start()

    def run(self) -> None:
        try:
            self._made.open()
            self.opened = True
            for piece in self._made.pieces():
                self.arrived.put(piece)
        except UpstreamFault as fault:
            self.fault = fault
        finally:
            self._made.close()

    def ends(self) -> bool:
        self.join(WAIT_SECONDS)
        return not self.is_alive()


@pytest.mark.parametrize(
    "sent",
    [
        head("Transfer-Encoding: chunked") + chunked(b"data: a\n\n"),
        head("Transfer-Encoding: chunked") + b"64\r\ndata: a\n\n",
        head("Content-Length: 100") + b"data: a\n\n",
        head("Connection: close") + b"data: a\n\n",
    ],
    ids=["between chunks", "in a chunk", "content-length", "until close"],
)
def test_a_cancel_wakes_who_reads_a_body_that_is_silent(session: requests.Session, serve: Serve, sent: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.send(sent)
        peer.wait()

    made = call(session, serve(script).base_url, silence=10 * WAIT_SECONDS)
    reader = Reader(made)
    assert reader.arrived.get(timeout=WAIT_SECONDS) == b"data: a\n\n"
    reader.join(0.1)
    assert reader.is_alive()
    made.cancel()
    assert reader.ends()
    assert reader.arrived.empty()
    assert reader.fault is None or reader.fault.reason == "upstream_disconnected"


def test_a_cancel_wakes_who_reads_over_tls(
    session: requests.Session,
    serve: Serve,
    certificate: Path,
    tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def script(peer: Peer) -> None:
        peer.send(head("Transfer-Encoding: chunked") + chunked(b"data: a\n\n"))
        peer.wait()

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    made = call(session, serve(script, tls).base_url, silence=10 * WAIT_SECONDS)
    reader = Reader(made)
    assert reader.arrived.get(timeout=WAIT_SECONDS) == b"data: a\n\n"
    reader.join(0.1)
    made.cancel()
    assert reader.ends()
    assert reader.arrived.empty()


def test_a_call_that_is_cancelled_while_it_waits_for_headers_is_abandoned(
    session: requests.Session, serve: Serve
) -> None:
    def script(peer: Peer) -> None:
        peer.wait()
        peer.send(head("Content-Type: text/event-stream", "Connection: close") + b"data: a\n\n")

    server = serve(script)
    made = call(session, server.base_url)
    reader = Reader(made)
    server.requests.get(timeout=WAIT_SECONDS)
    made.cancel()
    server.go_on()
    assert reader.ends()
    assert not reader.opened
    assert reader.fault is not None
    assert (reader.fault.reason, reader.fault.passing) == ("cancelled", False)
    assert reader.arrived.empty()


def test_a_cancel_before_the_call_and_after_its_end_does_no_harm(session: requests.Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head("Content-Length: 2") + b"ok"))
    early = call(session, server.base_url)
    early.cancel()
    assert fault_of(early).reason == "cancelled"
    late = call(session, server.base_url)
    late.open()
    assert b"".join(late.pieces()) == b"ok"
    late.cancel()
    late.close()
    late.cancel()


def test_a_cancel_of_a_call_that_has_ended_leaves_the_next_one_on_its_connection_alone(
    session: requests.Session, serve: Serve
) -> None:
    answers = iter([b"ok", b"data: a\n\n"])

    def script(peer: Peer) -> None:
        answer = next(answers)
        peer.send(head("Transfer-Encoding: chunked") + chunked(answer))
        if answer != b"ok":
            peer.wait()
        peer.send(b"0\r\n\r\n")

    server = serve(script)
    ended = call(session, server.base_url)
    ended.open()
    assert b"".join(ended.pieces()) == b"ok"
    ended.close()
    following = call(session, server.base_url)
    following.open()
    pieces = following.pieces()
    assert next(pieces) == b"data: a\n\n"
    ended.cancel()
    server.go_on()
    assert list(pieces) == []
    following.close()
    assert server.connections == 1


def test_closing_a_call_that_was_never_made_does_no_harm(session: requests.Session) -> None:
    made = call(session)
    made.close()
    made.cancel()
