"""A metadata server like Google's, for tokens of a service account.

https://cloud.google.com/compute/docs/metadata/querying-metadata
"""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from local.ports import HOST

ACCOUNTS = "instance/service-accounts"
ACCOUNT = "worker@demo.iam.gserviceaccount.com"


class MetadataServer(ThreadingHTTPServer):
    """Serves from a thread of its own. Each token is another one. `fetched` has what was asked for.

    `seconds` is how long tokens live. `is_away`: it answers nothing but errors.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Handler)
        self.fetched: list[str] = []
        self.seconds = 3600
        self.is_away = False
        self._thread = threading.Thread(target=self.serve_forever, args=[0.1])
        self._thread.start()

    @property
    def environ(self) -> dict[str, str]:
        """What google-auth has to be told."""
        address = f"{HOST}:{self.server_address[1]}"
        return {"GCE_METADATA_HOST": address, "GCE_METADATA_IP": address, "GCE_METADATA_TIMEOUT": "1"}

    def server_close(self) -> None:
        self.shutdown()
        self._thread.join(30)
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    server: MetadataServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = url.path.removeprefix("/computeMetadata/v1/").rstrip("/")
        if self.server.is_away or self.headers["Metadata-Flavor"] != "Google":
            self._say(503 if self.server.is_away else 403, "")
        elif path in (f"{ACCOUNTS}/default", f"{ACCOUNTS}/{ACCOUNT}"):
            self._say(200, {"email": ACCOUNT, "aliases": ["default"], "scopes": ["cloud-platform"]})
        elif path.endswith("/token"):
            token = f"access-{self._fetch('access')}"
            self._say(200, {"access_token": token, "expires_in": self.server.seconds, "token_type": "Bearer"})
        elif path.endswith("/identity"):
            audience = parse_qs(url.query)["audience"][0]
            self._say(200, _id_token(audience, self._fetch(audience), self.server.seconds))
        elif path == "universe/universe-domain":
            self._say(200, "googleapis.com")
        elif path == "project/project-id":
            self._say(200, "demo")
        else:
            self._say(200 if path in ("", "/") else 404, "")

    def _fetch(self, what: str) -> int:
        self.server.fetched.append(what)
        return len(self.server.fetched)

    def _say(self, status: int, what: Any) -> None:
        body = what.encode() if isinstance(what, str) else json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "application/text" if isinstance(what, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def _id_token(audience: str, number: int, seconds: int) -> str:
    """A token in its form; its signature is none, since only the upstream would look at that."""
    now = int(time.time())
    claims = {"aud": audience, "email": ACCOUNT, "iat": now, "exp": now + seconds, "jti": str(number)}
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT", "kid": "k"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (*parts, b"signature"))
