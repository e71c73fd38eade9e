"""A client like an application's: it asks, reads frames as they arrive, may leave, and comes back with a cursor.

For the demo, the tests and the fault matrix. It must know only the public protocol, not what is behind it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from local.token import id_token

WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a stream. `id` is its cursor, or None, and `name` is empty for most."""

    id: int | None
    data: str
    name: str = ""

    @classmethod
    def parse(cls, raw: str) -> Self:
        """Parses one frame without its final blank line. Comments are skipped."""
        number, name = None, ""
        data = []
        for line in raw.split("\n"):
            field, _, value = line.partition(": ")
            if field == "id":
                number = int(value)
            elif field == "event":
                name = value
            elif field == "data":
                data.append(value)
        return cls(number, "\n".join(data), name)

    @property
    def text(self) -> str:
        """The visible text it adds to the first choice."""
        chunk = json.loads(self.data)
        return "".join(
            choice["delta"].get("content") or "" for choice in chunk.get("choices", ()) if choice["index"] == 0
        )


class Stream:
    """A streaming response. `leave` drops the connection, like a phone that locks."""

    def __init__(self, response: requests.Response):
        self.response = response

    @property
    def generation(self) -> str:
        return self.response.headers["X-Generation-Id"]

    def frames(self) -> Iterator[Frame]:
        """The frames until the end of the response, including `[DONE]`. Comments are skipped."""
        rest = b""
        for piece in self.response.iter_content(None):
            *frames, rest = (rest + piece).split(b"\n\n")
            for frame in frames:
                if frame.strip(b"\n"):  # or it was two empty lines, which mean nothing
                    yield Frame.parse(frame.decode())

    def leave(self) -> None:
        self.response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


class Client:
    """One user of the service at `url`."""

    def __init__(self, url: str, user: str):
        self.url = url
        self.user = user
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy leads to this machine, and no login of .netrc's is a user's
        # A function that ends closes its idle connections; a request that meets this moment is retried.
        again = Retry(total=3, connect=0, status=0, allowed_methods={"GET"})
        self.session.mount("http://", HTTPAdapter(max_retries=again))
        self.session.headers["Authorization"] = f"Bearer {id_token(user)}"

    def request(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", WAIT_SECONDS)
        return self.session.request(method, self.url + path, **kwargs)

    def complete(self, body: Mapping[str, Any], **headers: str) -> requests.Response:
        """Asks for a unary answer. Headers are written with underscores: `X_Chat_Id`."""
        return self.request("POST", "/v1/chat/completions", json={"model": "demo", **body}, headers=_named(headers))

    def stream(self, body: Mapping[str, Any], **headers: str) -> Stream:
        """Asks for a streamed answer."""
        asked = {"model": "demo", "stream": True, **body}
        return Stream(self.request("POST", "/v1/chat/completions", json=asked, headers=_named(headers), stream=True))

    def resume(self, generation: str, after: int) -> Stream:
        """Streams the rest of an answer, after event `after`."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        return Stream(self.request("GET", f"/v1/generations/{generation}", headers=headers, stream=True))

    def show(self, generation: str) -> dict[str, Any]:
        """The generation's JSON."""
        shown: dict[str, Any] = self.request("GET", f"/v1/generations/{generation}").json()
        return shown

    def wait_until_ended(self, generation: str, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """Waits until the generation has ended, and returns its JSON. Errors: `TimeoutError`."""
        deadline = time.monotonic() + seconds
        while not (shown := self.show(generation))["finishedAt"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"generation {generation} is still {shown['state']}")
            time.sleep(0.05)
        return shown

    def list(self, **filters: Any) -> Iterator[dict[str, Any]]:
        """The user's generations that match, newest first, from all pages. Errors: `requests.HTTPError`."""
        cursor = None
        while True:
            listed = self.request("GET", "/v1/generations", params={**filters, "limit": 100, "cursor": cursor})
            listed.raise_for_status()
            page = listed.json()
            yield from page["data"]
            cursor = page["next"]
            if cursor is None:
                return


def question(text: str, tokens: int, **demo: Any) -> dict[str, Any]:
    """A request for an answer of `tokens` tokens. `demo` sets how the demo upstream sends it."""
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "demo": demo}


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
