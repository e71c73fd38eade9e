"""A client as an app has one: it asks, reads frames as they come, leaves when it likes, and comes back with a cursor.

For the demo, the tests and the fault matrix. It knows the wire and nothing of what is behind it.
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
    """One event of a stream; `id` is its cursor, None where it has none."""

    id: int | None
    data: str

    @classmethod
    def parse(cls, raw: str) -> Self:
        """One frame as it is on the wire, without the blank line that ends it; comments are passed over."""
        number = None
        data = []
        for line in raw.split("\n"):
            field, _, value = line.partition(": ")
            if field == "id":
                number = int(value)
            elif field == "data":
                data.append(value)
        return cls(number, "\n".join(data))

    @property
    def text(self) -> str:
        """The visible text it adds to the first choice."""
        chunk = json.loads(self.data)
        return "".join(
            choice["delta"].get("content") or "" for choice in chunk.get("choices", ()) if choice["index"] == 0
        )


class Stream:
    """A response that is being read. `leave` tears the connection down, as a phone that locks does."""

    def __init__(self, response: requests.Response):
        self.response = response

    @property
    def generation(self) -> str:
        return self.response.headers["X-Generation-Id"]

    def frames(self) -> Iterator[Frame]:
        """The frames up to the end of the response, `[DONE]` included; comments are passed over."""
        rest = b""
        for piece in self.response.iter_content(None):
            *frames, rest = (rest + piece).split(b"\n\n")
            for frame in frames:
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
        # gunicorn closes a kept connection after two seconds; what was asked on it at that moment is asked again.
        again = Retry(total=3, connect=0, status=0, allowed_methods={"GET"})
        self.session.mount("http://", HTTPAdapter(max_retries=again))
        self.session.headers["Authorization"] = f"Bearer {id_token(user)}"

    def request(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", WAIT_SECONDS)
        return self.session.request(method, self.url + path, **kwargs)

    def complete(self, body: Mapping[str, Any], **headers: str) -> requests.Response:
        """An answer in one piece. Headers are named with underscores: `X_Chat_Id`."""
        return self.request("POST", "/v1/chat/completions", json={"model": "demo", **body}, headers=_named(headers))

    def stream(self, body: Mapping[str, Any], **headers: str) -> Stream:
        """An answer as it comes."""
        asked = {"model": "demo", "stream": True, **body}
        return Stream(self.request("POST", "/v1/chat/completions", json=asked, headers=_named(headers), stream=True))

    def resume(self, generation: str, after: int) -> Stream:
        """The rest of an answer, after event `after`."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        return Stream(self.request("GET", f"/v1/generations/{generation}", headers=headers, stream=True))

    def show(self, generation: str) -> dict[str, Any]:
        """The generation's JSON."""
        shown: dict[str, Any] = self.request("GET", f"/v1/generations/{generation}").json()
        return shown

    def wait_until_ended(self, generation: str, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """The generation's JSON once it has ended. Errors: `TimeoutError`."""
        deadline = time.monotonic() + seconds
        while not (shown := self.show(generation))["finishedAt"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"generation {generation} is still {shown['state']}")
            time.sleep(0.05)
        return shown

    def list(self, **filters: Any) -> Iterator[dict[str, Any]]:
        """All the user's generations that fit, newest first."""
        cursor = None
        while True:
            page = self.request("GET", "/v1/generations", params={**filters, "limit": 100, "cursor": cursor}).json()
            yield from page["data"]
            cursor = page["next"]
            if cursor is None:
                return


def question(text: str, tokens: int, **demo: Any) -> dict[str, Any]:
    """A request whose answer has so many tokens; `demo` says how the demo upstream is to send it."""
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "demo": demo}


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
