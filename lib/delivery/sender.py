"""What a delivery is sent with: one HTTP exchange, all of it within a bound."""

from __future__ import annotations

import threading
from typing import Protocol

from lib.dialects.protocol import Outgoing
from lib.domain.generation import Generation
from lib.runtime.catalog import Deadlines, Upstream
from lib.upstream.call import Call, Session
from lib.upstream.credential import Credential
from lib.upstream.fault import UpstreamFault

CONNECT_SECONDS = 5.0
ALL_SECONDS = 20.0  # for one exchange, from the connect on; the specification of webhooks advises 15 to 30
DEADLINES = Deadlines(connect=CONNECT_SECONDS, first_byte=ALL_SECONDS, idle=ALL_SECONDS, total=ALL_SECONDS)


class Undelivered(Exception):
    """A receiver did not take a delivery. `cause` is a word for the log, `final` means that it never will."""

    def __init__(self, cause: str, *, status: int | None = None, final: bool = False):
        super().__init__(cause)
        self.cause = cause
        self.status = status
        self.final = final


class Sender(Protocol):
    """One channel's way to tell of a generation's end."""

    def send(self, generation: Generation) -> int:
        """Returns how many receivers took it. Errors: `Undelivered`; `Unreachable`."""
        ...


def post(
    session: Session,
    server: Upstream,
    credential: Credential,
    outgoing: Outgoing,
    *,
    most: int = 0,
    seconds: float = ALL_SECONDS,
) -> tuple[int, bytes]:
    """The status and about the first `most` bytes of the body that a server answers with. Redirects are not followed.

    Errors: `Undelivered`, if there is no answer within so many seconds.
    """
    call = Call(session, server, credential, outgoing)
    bound = threading.Timer(seconds, call.cut)
    bound.daemon = True
    bound.start()
    body = b""
    try:
        status = call.open().status
        while len(body) < most and (piece := call.read()):
            body += piece
    except UpstreamFault as fault:
        if fault.reason == "upstream_encoding":  # which is said of a 2xx alone, and what it has is not wanted
            return 200, b""
        cause = "timeout" if fault.reason == "cancelled" else fault.reason.removeprefix("upstream_")
        raise Undelivered(cause) from fault
    finally:
        bound.cancel()
        call.close()
    return status, body
