"""A fake Google Cloud project, for running deploy.sh and checking what it creates.

gcloud is `fake_gcloud.py`. A local server answers deploy.sh's own HTTPS requests (to the API of Firebase's rules and to
the functions), to which curl's configuration redirects them. The script, bash, curl and Python are real, but Python is
started once for all questions (`warm_python.py`).
"""

from __future__ import annotations

import compileall
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from local.token import PROJECT
from tests.deploy.fake_gcloud import answering
from tests.deploy.warm_python import warm

ROOT = Path(__file__).resolve().parents[2]
DEPLOYED = ("main.py", "lib", "requirements.txt")
NEEDED = ("deploy.sh", "deploy", "operations", "firestore.rules", "firestore.indexes.json", ".gcloudignore", *DEPLOYED)
TOOLS = ("bash", "env", "dirname", "cat", "tr", "sed", "curl")  # and no other: what deploy.sh needs is what it says
NUMBER = "123456789012"
TOKEN, KEY = "ya29.canary-token", "sk-canary-key"
SECONDS = 120.0
RULES, DOCUMENTS = "firebaserules.googleapis.com", "firestore.googleapis.com"
HOME, AWAY = "us-central1", "us-east4"  # where it is deployed unless REGION says otherwise, and another region
HOST = f"{PROJECT}.iam.gserviceaccount.com"
API, WORKER, INVOKER, BUILDER = (f"holdfast-{name}@{HOST}" for name in ("api", "worker", "invoker", "builder"))
EMPTY: dict[str, Any] = {
    "project": PROJECT,
    "number": NUMBER,
    "login": TOKEN,
    "enabled": ["serviceusage.googleapis.com"],
    "accounts": {},
    "databases": {},
    "queues": {},
    "secrets": {},
    "services": {},
    "deployed": {},
    "policies": {},
    "releases": {},
    "rulesets": {},
    "made": 0,
    "faults": {},
    "tasks": {},
    "young": {},  # how often each thing will not be known yet
    "lag": 0,  # how often a thing that is new will not be known
    "building": 0,  # how often an index that is new will not be ready
    "released": False,  # whether a new database comes with rules
    "quota": 20,  # vCPU
    "policy": {"allValues": "ALLOW"},  # of resource locations; None: not for this login
    "no_global": False,  # what that policy comes to
    "domain_restricted": False,
    "silent": [],  # the regions that a list of all regions' services is without
    "paused": False,  # the queue
    "worker": 200,  # what it answers to a token that is right
}
SETTINGS = {
    "GOOGLE_CLOUD_PROJECT": PROJECT,
    "UPSTREAM_BASE_URL": "https://api.example/v1",
    "UPSTREAM_MODELS": "*",
    "UPSTREAM_API_KEY": KEY,
}


@dataclass(frozen=True)
class Done:
    """What a run of deploy.sh came to. `calls` are gcloud's words, in order, and `asked` those of HTTPS."""

    code: int
    out: str
    err: str
    calls: list[list[str]]
    environs: list[dict[str, str]]
    asked: list[tuple[str, str]]

    @property
    def changes(self) -> list[str]:
        """What was changed: the commands, without flags."""
        words = [[word for word in call if not word.startswith("--")] for call in self.calls]
        reads = ("list", "get-iam-policy", "describe", "access", "print-access-token", "create-http-task")
        return [" ".join(each) for each in words if not set(reads) & set(each)]


class Cloud:
    """A folder with a copy of what deploy.sh needs, a PATH of its own, and the state of the project that is played."""

    def __init__(self, folder: Path, needed: Path, gcloud: str, python: str, port: int):
        self.folder = folder
        self.root = folder / "root"
        # No test changes a file that is in a folder of it, and copies would take as long as a short run does.
        shutil.copytree(needed, self.root, copy_function=lambda file, to: copied(needed, file, to))
        self._bin = folder / "bin"
        self._bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, f"There is no {tool} on this machine, and deploy.sh needs it: install it."
            (self._bin / tool).symlink_to(found)
        self._program("gcloud", gcloud)
        self._program("python", python)
        self._program("sleep", f'#!/bin/sh\necho "$1" >>"{folder}/slept"\n')
        (folder / ".curlrc").write_text(f'cacert = "{certificate(folder)}"\nconnect-to = "::127.0.0.1:{port}"\n')
        self._environ = {
            "PATH": str(self._bin),
            "HOME": str(folder),
            "CURL_HOME": str(folder),
            "PYTHON": str(self._bin / "python"),
        }
        self.state = deepcopy(EMPTY)
        self.firestore = ""  # host:port of the emulator that has the documents, if any

    def _program(self, name: str, text: str) -> None:
        path = self._bin / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    @property
    def state(self) -> dict[str, Any]:
        """All that there is in the project."""
        state: dict[str, Any] = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        return state

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        (self.folder / "state.json").write_text(json.dumps(state), encoding="utf-8")

    def change(self, **values: Any) -> None:
        self.state = {**self.state, **values}

    def without(self, tool: str) -> None:
        (self._bin / tool).unlink()

    def command(self, *arguments: str) -> list[str]:
        return [str(self._bin / "bash"), str(self.root / "deploy.sh"), *arguments]

    def environ(self, settings: Mapping[str, str]) -> dict[str, str]:
        return {**self._environ, **settings}

    def run(self, *arguments: str, stdin: str = "", settings: Mapping[str, str] = SETTINGS, **more: str) -> Done:
        """Runs deploy.sh to its end. `settings`, and `more` of them, are its variables."""
        for name in ("calls", "asked", "slept"):
            (self.folder / name).unlink(missing_ok=True)
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environ({**settings, **more}),
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
        calls = [json.loads(line) for line in self.lines("calls")]
        asked = [tuple(json.loads(line)) for line in self.lines("asked")]
        return Done(
            done.returncode,
            done.stdout,
            done.stderr,
            [call["argv"] for call in calls],
            [call["environ"] for call in calls],
            asked,
        )

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def deployed(self, name: str, region: str = HOME) -> dict[str, str]:
        """The flags that a service was last deployed with; of those given twice, the last."""
        flags = self.state["deployed"][f"{region}/holdfast-{name}"]["flags"]
        return {flag: values[-1] for flag, values in flags.items()}


def copied(needed: Path, file: str, to: str) -> None:
    (shutil.copy2 if Path(file).parent == needed else os.link)(file, to)


def copy_needed(to: Path) -> Path:
    """Copies what deploy.sh needs, with its Python compiled: deploy.sh starts Python thirty times and saves nothing."""
    to.mkdir()
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, to / name)
    compileall.compile_dir(to, quiet=1)
    return to


@contextmanager
def clouds(folder: Path) -> Iterator[type[Cloud] | Any]:
    """Makes clouds, each in a folder of its own; all share the servers."""
    certificate(folder)
    needed = copy_needed(folder / "needed")
    made: dict[str, Cloud] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_PATCH(self) -> None:
            self._answer()

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            cloud = made["current"]
            with (cloud.folder / "asked").open("a", encoding="utf-8") as asked:
                asked.write(json.dumps([self.command, f"{self.headers['Host']}{self.path}"]) + "\n")
            host = self.headers["Host"]
            if host == RULES:
                status, answer = rules(cloud, self.command, self.path, dict(self.headers), body)
            elif host == DOCUMENTS:
                status, answer = documents(cloud, self.command, self.path, dict(self.headers), body)
            else:
                status, answer = function(cloud, host, self.path), {}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def make(name: str) -> Cloud:
        (folder / name).mkdir()
        for file in ("certificate.pem", "key.pem"):
            shutil.copy2(folder / file, folder / name / file)
        made["current"] = Cloud(folder / name, needed, program(folder / name), python, server.server_address[1])
        return made["current"]

    with answering() as program, warm(str(Path(sys.executable).resolve()), needed) as python:
        try:
            yield make
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def rules(
    cloud: Cloud, method: str, path: str, headers: Mapping[str, str], body: bytes
) -> tuple[int, dict[str, Any] | None]:
    """The Firebase Rules API, as far as it is used: https://firebase.google.com/docs/reference/rules/rest"""
    state = cloud.state
    name = path.removeprefix("/v1/").partition("?")[0]
    if headers["Authorization"] != f"Bearer {TOKEN}" or headers["X-Goog-User-Project"] != PROJECT:
        return 401, {"error": {"message": "Request had invalid authentication credentials."}}
    if RULES not in state["enabled"]:
        return 403, {"error": {"message": "SERVICE_DISABLED"}}
    if not ripe(cloud, f"api {RULES}"):
        return 403, {"error": {"message": "Firebase Rules API has not been used in project before."}}
    given = json.loads(body) if body else None
    match method, name.removeprefix(f"projects/{PROJECT}/").partition("/")[0]:
        case "GET", "releases":
            found = [{"name": each, "rulesetName": ruleset} for each, ruleset in state["releases"].items()]
            return 200, {"releases": found} if found else {}
        case "GET", "rulesets":
            return 200, {"name": name, **state["rulesets"][name]}
        case "POST", "rulesets":
            if "service" not in given["source"]["files"][0]["content"]:
                return 400, {"error": {"message": "Line 1: missing 'service' at 'not'", "status": "INVALID_ARGUMENT"}}
            made = f"{name}/{len(state['rulesets']) + 1}"
            cloud.change(rulesets={**state["rulesets"], made: given})
            return 200, {"name": made}
        case "POST", "releases":
            if given["name"] in state["releases"]:
                return 409, {"error": {"message": "Requested entity already exists"}}
            release = given
        case "PATCH", "releases":
            release = given["release"]
            if name not in state["releases"] or release["name"] != name:
                return 404, {"error": {"message": "Requested entity was not found."}}
        case _:
            return 404, {"error": {"message": "no such method"}}
    if release["rulesetName"] not in state["rulesets"]:
        return 404, {"error": {"message": "Requested entity was not found."}}
    cloud.change(releases={**state["releases"], release["name"]: release["rulesetName"]})
    return 200, release


def ripe(cloud: Cloud, key: str) -> bool:
    """Whether what is new is known here by now."""
    left = cloud.state["young"].get(key, 0)
    if left:
        cloud.change(young={**cloud.state["young"], key: left - 1})
    return not left


def documents(cloud: Cloud, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
    """Firestore's documents: those of the emulator, or none."""
    database = unquote(path).partition("/databases/")[2].partition("/")[0]
    if headers["Authorization"] != f"Bearer {TOKEN}":
        return 401, {"error": {"message": "Request had invalid authentication credentials."}}
    if database not in cloud.state["databases"]:
        return 404, {"error": {"message": f"The database {database} does not exist"}}
    if not cloud.firestore:
        return 200, [{"readTime": "2026-01-01T00:00:00Z"}]
    request = urllib.request.Request(f"http://{cloud.firestore}{path}", body or None, method=method)
    request.add_header("Authorization", "Bearer owner")  # whom no rules bind
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def function(cloud: Cloud, host: str, path: str) -> int:
    """What a function answers somebody who is not logged in: Cloud Run says 403, Holdfast 401."""
    state = cloud.state
    name, _, rest = host.partition(f"-{state['number']}.")
    name = f"{rest.partition('.')[0]}/{name}"  # with its region
    if name not in state["services"]:
        return 404
    policy = state["policies"].get(f"run services {name}", [])
    flags = state["deployed"][name]["flags"]
    if flags["ingress"] != ["all"]:
        return 404
    if "no-invoker-iam-check" not in flags and (
        not any("allUsers" in binding["members"] for binding in policy)
        or not ripe(cloud, f"run services {name} roles/run.invoker allUsers")
    ):
        return 403
    return 401 if path == "/v1/models" else 404


def certificate(folder: Path) -> Path:
    """A certificate of the names that deploy.sh calls, for a day, made where there is none yet."""
    path = folder / "certificate.pem"
    if path.exists():
        return path
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "played")])
    hosts = [x509.DNSName(host) for host in (RULES, DOCUMENTS, *(f"*.{each}.run.app" for each in (HOME, AWAY)))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def real_gcloud(folder: Path) -> tuple[str, dict[str, str]] | None:
    """The real gcloud, and an environment in which it knows nobody and asks nothing; None where there is none."""
    found = shutil.which("gcloud")
    if found is None:
        return None
    settings = {
        "CONFIG": str(folder / "config"),
        "CORE_DISABLE_PROMPTS": "1",
        "CORE_CHECK_GCE_METADATA": "0",  # on a machine of Google's it would find a login there
        "CORE_DISABLE_USAGE_REPORTING": "1",
        "COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
    }
    environ = {f"CLOUDSDK_{name}": value for name, value in settings.items()}
    return found, {"PATH": os.environ["PATH"], "HOME": str(folder), **environ}
