"""Reads the bodies of requests within limits: of bytes, of nodes, of time, and of what a process holds at once.

A wire first authenticates the user, and then reads the body. What is left of a body that was refused is discarded, and
that has a time limit too.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

import orjson
from flask import Response, request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.wsgi import get_input_stream

from lib.domain.errors import InvalidRequest, TooLarge, TooSlow, UnsupportedMediaType
from lib.runtime.settings import Settings
from lib.serving.quota import Quota, Share
from lib.wires import nodes
from lib.wires.connection import Deadlines

RETRY_SECONDS = 1  # and not two, when the server closes idle connections: a client would meet that moment
LINGER_SECONDS = 0.5  # for each piece of the rest of a body that nobody reads
_PIECE_BYTES = 256 << 10


class Bodies:
    """The request bodies that this process is receiving and holding."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._deadlines = Deadlines()
        self._uploads = Quota(
            settings.max_live_generations,
            settings.viewers,
            code="too_many_uploads",
            message=f"You are sending {settings.max_live_generations} bodies at once, which is the limit. Send fewer.",
            retry_seconds=RETRY_SECONDS,
        )
        self._bytes = Quota(
            settings.max_request_bytes,
            settings.max_held_bytes,
            code="too_many_bytes",
            message=f"Your requests have more than {settings.max_request_bytes} bytes together, which is the limit for "
            "what is sent at once. Send one after the other.",
            retry_seconds=RETRY_SECONDS,
        )

    @contextmanager
    def json(self, user: str) -> Iterator[bytes]:
        """The current request's JSON, which counts as held until the block is left.

        Errors: `UnsupportedMediaType`, `TooLarge`, `TooManyRequests`, `TooSlow`, `InvalidRequest`.
        """
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("Send the body as it is, without 'Content-Encoding'.")
        if request.mimetype != "application/json":
            raise UnsupportedMediaType("Send the body as JSON, with 'Content-Type: application/json'.")
        with self._bytes.take(user, 0) as held:
            with self._uploads.take(user):
                body = self._receive(held)
            limit = self._settings.max_request_nodes
            if nodes.exceed(body, limit):
                raise InvalidRequest(
                    f"The JSON has more than {limit} values and names, which is the limit here (MAX_REQUEST_NODES). "
                    "Send fewer and larger ones: join texts, or leave out old messages.",
                    code="too_many_nodes",
                )
            yield body

    def kept(self, user: str, size: int, kind: str = "read back") -> Share:
        """Counts at most `size` bytes as held that are not a body: of an earlier request, or of what is shown of one.

        Close it, or use it as a context manager. A user's limit is for each kind apart, since a request may need a body
        and both kinds at once, and one of each always fits. Errors: `TooManyRequests`.
        """
        return self._bytes.take((user, kind), min(size, self._settings.max_request_bytes))

    def reading(self, user: str) -> Reading:
        """What one request reads of the user's earlier ones. Close it, or use it as a context manager."""
        return Reading(self, user, self._settings)

    def _receive(self, held: Share) -> bytes:
        pieces, whole = [], True
        limit = request.max_content_length = self._settings.max_request_bytes
        with self._deadlines.limit(self._settings.upload_seconds) as deadline:
            try:
                while not deadline.passed and (piece := request.stream.read(_PIECE_BYTES)):
                    held.add(len(piece))
                    pieces.append(piece)
            except ClientDisconnected:
                whole = False
            except RequestEntityTooLarge as error:
                raise TooLarge(
                    f"The body is larger than {limit} bytes, which is the limit here (MAX_REQUEST_BYTES). Send less: "
                    "make pictures smaller, or leave out old messages."
                ) from error
        if deadline.passed:
            raise TooSlow(
                f"The body did not come within {self._settings.upload_seconds:g} s, the limit here. Send it again, "
                "over a faster connection or in a smaller size."
            )
        body = b"".join(pieces)
        if not whole or len(body) < (request.content_length or 0):
            raise InvalidRequest("The body ended before it was complete. Send it again.", code="incomplete_body")
        return body

    def discard(self, response: Response) -> Response:
        """Discards the rest of the request's body, so that a client that is still sending sees the response.

        It does so for as long as the body comes quickly, and up to the largest size. The server and functions-framework
        would wait for all of it without a limit.
        """
        rest = get_input_stream(request.environ)
        for _ in range(0, self._settings.max_request_bytes, _PIECE_BYTES):
            with self._deadlines.limit(LINGER_SECONDS) as deadline, suppress(OSError, ClientDisconnected):
                if rest.read(_PIECE_BYTES) and not deadline.passed:
                    continue
            break
        request.environ["wsgi.input"] = io.BytesIO()
        return response


class Reading:
    """What one request reads of its user's earlier ones: it counts as held, and has the limits of one body."""

    def __init__(self, bodies: Bodies, user: str, settings: Settings):
        self.user = user
        self._bodies = bodies
        self._settings = settings
        self._held = ExitStack()
        self._bytes = Counter[str]()
        self._nodes = 0

    def hold(self, size: int, kind: str) -> None:
        """Counts at most `size` bytes, before they are read. What is read alone is within the limit.

        Errors: `InvalidRequest` if this request reads too much, `TooManyRequests` if others of the user do so now.
        """
        limit, read = self._settings.max_request_bytes, self._bytes[kind]
        if read and read + size > limit:
            raise self._too_large(f"{limit} bytes", "MAX_REQUEST_BYTES")
        self._bytes[kind] += size
        self._held.enter_context(self._bodies.kept(self.user, size, kind))

    def parsed(self, text: bytes) -> Any:
        """Parses JSON that is held. Errors: `InvalidRequest`, as `hold`."""
        limit, read = self._settings.max_request_nodes, self._nodes
        found = nodes.count(text, limit)
        if read and read + found > limit:
            raise self._too_large(f"{limit} values and names", "MAX_REQUEST_NODES")
        self._nodes += found
        return orjson.loads(text)

    def _too_large(self, most: str, setting: str) -> InvalidRequest:
        return InvalidRequest(
            f"What this request names of earlier ones has more than {most}, which is the limit here ({setting}). "
            "Begin a new conversation, or name fewer items.",
            code="conversation_too_large",
        )

    def close(self) -> None:
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def object_in(body: bytes) -> dict[str, Any]:
    """The fields of a body that must be a JSON object. Errors: `InvalidRequest`."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error.msg}.", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_body")
    return fields
