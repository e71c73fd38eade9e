"""How the demo upstream sends an answer: at the requested pace, streamed or unary, with the requested fault.

All code that handles a response's bytes is in this module. Faults must be deterministic, and the schedule must not
drift: late tokens are sent at once, each still in its own event. `demo_text` defines what an answer says, and
`demo_faults` what a request may ask for.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
import zlib
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from local.demo_faults import Fault, Order
from local.demo_framing import framing
from local.demo_hold import Hold
from local.demo_json import dumps
from local.demo_text import Json

_WRITE_SIZE = 16 << 10
_PAGE = "<!doctype html><html><head><title>Sign in</title></head><body><h1>Please sign in.</h1></body></html>"
_MARK = "漢"  # in an event that a fault cuts or corrupts


@dataclass(kw_only=True)
class Call:
    """One call, as `GET /demo/calls` shows it. `ended` is null while it runs, and `seed` if the request is invalid.

    `prompt_tokens` and `completion_tokens` are what the answer says that it takes, if it comes to its end.
    `started` and `ended` are Unix seconds. `path` has the query behind it. `headers` has lower-case names.
    """

    path: str = ""
    seed: str | None = None
    model: str | None = None
    stream: bool | None = None
    status: int | None = None
    tokens_sent: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finished: bool = False
    client_gone: bool = False
    started: float = field(default_factory=time.time)
    ended: float | None = None
    method: str = "POST"
    request: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class Pace:
    """The schedule of an answer: step k is due at start + k / rate, so a late step does not delay others.

    `clock` gives monotonic seconds. With a rate of 0, all steps are due at once.
    """

    def __init__(self, rate: float, clock: Callable[[], float]):
        self._rate = rate
        self._clock = clock
        self._start = clock()

    def wait(self, step: int) -> float:
        """The seconds until the step is due, or 0 or less if it is."""
        return self._start + step / self._rate - self._clock() if self._rate else 0.0

    async def hold(self, pause: Awaitable[None]) -> None:
        """Waits for a pause, and postpones the rest of the schedule by its length."""
        began = self._clock()
        await pause
        self._start += self._clock() - began


class Wire:
    """A response's body. Combines what is due into one write, and compresses or splits it if a fault requires that.

    `record` gets the time of each token's write, in nanoseconds on the monotonic clock.
    """

    def __init__(
        self,
        request: web.Request,
        response: web.StreamResponse,
        call: Call,
        fault: Fault | None,
        record: array[int] | None = None,
    ):
        self.response = response
        self._request = request
        self._call = call
        self._record = record
        self._gathered = bytearray()
        self._tokens = 0
        self._piece = fault.bytes if fault and fault.kind == "split" else None
        gzip = fault is not None and fault.kind == "gzip"
        self._gzip = zlib.compressobj(wbits=16 + zlib.MAX_WBITS) if gzip else None

    async def put(self, data: bytes, tokens: int = 0) -> None:
        """Adds data to the next flush, which is automatic when much has been added."""
        if len(self._gathered) >= _WRITE_SIZE:
            await self.flush()
            await asyncio.sleep(0)  # an answer without a pace would block the event loop
        self._gathered += data
        self._tokens += tokens

    async def flush(self) -> None:
        """Writes the data added so far. Its tokens count as sent from now on."""
        if self._gathered:
            data = bytes(self._gathered)
            self._gathered.clear()
            if self._record is not None:
                self._record.extend([time.monotonic_ns()] * self._tokens)
            await self._write(self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH) if self._gzip else data)
        self._call.tokens_sent += self._tokens
        self._tokens = 0

    async def finish(self) -> None:
        """Writes the rest. The body's end follows when the handler returns."""
        await self.flush()
        if self._gzip:
            await self._write(self._gzip.flush())

    async def break_off(self, *, reset: bool) -> None:
        """Sends what was written, then closes the connection: in order, or with a reset."""
        await self.flush()
        transport = self._request.transport
        if transport is None:
            return
        if reset:
            while transport.get_write_buffer_size():
                await asyncio.sleep(0.001)
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.close()

    async def _write(self, data: bytes) -> None:
        step = self._piece or len(data)
        for start in range(0, len(data), step):
            if start:
                await asyncio.sleep(0)
            await self.response.write(data[start : start + step])


class _UntilClosed(web.StreamResponse):
    """A body without length or chunks, which ends with the connection."""

    _length_check = False


class Tongue(Protocol):
    """The API in which one order is answered. `opens` is in each event of a delta, and ends in a bracket."""

    path: str
    opens: bytes

    def opening(self) -> list[bytes]: ...
    def delta(self, choice: int, delta: Json, /) -> list[bytes]: ...
    def closing(self) -> list[bytes]: ...
    def whole(self) -> Json: ...
    def name_of(self, payload: bytes, /) -> bytes: ...
    def error(self, status: int, message: str, code: str | None = None, param: str | None = None) -> Json: ...


class Log(Protocol):
    """The events of an answer that is generated in the background. Each has the number of its tokens.

    `opening` is how many come before the first token, and `over` whether no more come.
    """

    events: list[tuple[bytes, int]]
    opening: int
    over: bool

    async def change(self) -> None: ...


class Delivery:
    """Sends one order: as a stream, as a JSON body, or as a fault requires instead.

    With a `log`, its events from `after` on are sent, instead of any that are made here. `hold` may hold a stream.
    """

    def __init__(
        self,
        request: web.Request,
        call: Call,
        order: Order,
        tongue: Tongue,
        record: array[int] | None = None,
        *,
        hold: Hold | None = None,
        log: Log | None = None,
        after: int = 0,
    ):
        self._request = request
        self._tongue = tongue
        self._call = call
        self._order = order
        self._record = record
        self._hold = hold
        self._log = log
        self._after = after
        self._answer = order.spoken
        self._fault = order.fault
        self._kind = order.fault.kind if order.fault else ""
        self._strike = order.fault.place(self._answer.steps) if order.fault else -1
        self._framed = framing(self._kind)

    async def run(self) -> web.StreamResponse:
        """Sends the response. All of the returned response's body is written already, except its end."""
        await asyncio.sleep(self._order.first_byte_delay)
        if self._fault and (instead := _instead(self._fault, self._tongue)):
            return instead
        flipped = self._kind == ("json_despite_stream" if self._order.stream else "stream_despite_json")
        return await (self._stream() if self._order.stream != flipped else self._whole())

    async def _open(self, content_type: str, length: int | None = None) -> Wire:
        until_closed = self._kind == "no_content_length"
        response = _UntilClosed() if until_closed else web.StreamResponse()
        response.headers.update({"Content-Type": content_type, "Cache-Control": "no-cache"})
        if until_closed:
            response.force_close()
        elif self._kind == "gzip":
            response.headers["Content-Encoding"] = "gzip"
        elif self._kind != "close":
            response.content_length = length
        self._call.status = response.status
        await response.prepare(self._request)
        return Wire(self._request, response, self._call, self._fault, self._record)

    async def _stream(self) -> web.StreamResponse:
        wire = await self._open("text/event-stream; charset=utf-8")
        if self._log is not None:
            await self._send_log(wire, self._log)
            return wire.response
        await asyncio.sleep(self._order.first_token_delay)
        for event in self._tongue.opening():
            await wire.put(self._frame(event))
        if await self._send_tokens(wire):
            await self._send_end(wire)
        return wire.response

    async def _send_tokens(self, wire: Wire) -> bool:
        """Sends every delta when it is due. Returns False if a fault ended the body."""
        pace = Pace(self._order.rate, asyncio.get_running_loop().time)
        choices = (self._answer.deltas(choice) for choice in range(self._answer.choices))
        for step, deltas in enumerate(zip(*choices, strict=True)):
            while (early := pace.wait(step)) > 0:
                await wire.flush()
                await asyncio.sleep(early)
            if self._hold is not None and self._hold.holds(step):
                await wire.flush()
                await pace.hold(self._hold.over(step))
            if step == self._strike and not await self._struck(wire, pace):
                return False
            for choice, delta in enumerate(deltas):
                await wire.put(b"".join(map(self._frame, self._tongue.delta(choice, delta))), tokens=1)
        return self._strike != self._answer.steps or await self._struck(wire, pace)

    async def _send_log(self, wire: Wire, log: Log) -> None:
        """Sends the log's events as they come. A fault's place is counted in the tokens that this call sends."""
        at, sent, struck = self._after, 0, False
        while True:
            while at < len(log.events):
                event, tokens = log.events[at]
                if sent == self._strike and not struck and at >= log.opening:
                    struck = True
                    if not await self._struck(wire, Pace(0.0, time.monotonic), self._frame(event)):
                        return
                await wire.put(self._frame(event), tokens=tokens)
                at, sent = at + 1, sent + tokens
            await wire.flush()
            if log.over:
                break
            await log.change()
        await wire.finish()
        self._call.finished = True

    async def _send_end(self, wire: Wire) -> None:
        for event in self._tongue.closing():
            await wire.put(self._frame(event))
        await wire.finish()
        self._call.finished = True

    def _frame(self, payload: bytes) -> bytes:
        return self._framed(payload, self._tongue.name_of(payload))

    async def _struck(self, wire: Wire, pace: Pace, event: bytes = b"") -> bool:
        """Executes the fault. Returns False if it ends the body. `event` is the frame to break off in, if given."""
        match self._fault:
            case Fault(kind="stall", seconds=seconds):
                await wire.flush()
                await pace.hold(asyncio.sleep(seconds))
            case Fault(kind="malformed_json"):
                await wire.put(self._marked().replace(self._tongue.opens, self._tongue.opens[:-1]))
            case Fault(kind="invalid_utf8"):
                await wire.put(self._marked().replace(_MARK.encode(), b"\xff\xc3("))
            case Fault(kind="break", reset=reset):
                cut = event[: len(event) // 2] or self._marked().rpartition(_MARK.encode())[0] + _MARK.encode()[:1]
                await wire.put(cut)
                await wire.break_off(reset=reset)
                return False
            case Fault(kind="close"):
                await wire.finish()
                return False
            case Fault(kind="error_event"):
                await wire.put(self._frame(dumps(self._error())))
                await wire.finish()
                return False
        return True

    def _marked(self) -> bytes:
        """The frames of a delta that the fault cuts or corrupts."""
        return b"".join(map(self._frame, self._tongue.delta(0, {"content": _MARK})))

    def _error(self) -> Json:
        return self._tongue.error(500, "The server had an error while processing your request.", "server_error")

    async def _whole(self) -> web.StreamResponse:
        generating = self._answer.steps / self._order.rate if self._order.rate else 0.0
        await asyncio.sleep(self._order.first_token_delay + generating)
        body = self._body()
        wire = await self._open("application/json", len(body))
        middle = _inside_a_character(body, len(body) // 2)
        if self._kind in ("stall", "break", "close"):
            await wire.put(body[:middle])
            await wire.flush()
        match self._fault:
            case Fault(kind="break", reset=reset):
                await wire.break_off(reset=reset)
                return wire.response
            case Fault(kind="close"):
                return wire.response
            case Fault(kind="stall", seconds=seconds):
                await asyncio.sleep(seconds)
                body = body[middle:]
        await wire.put(body, tokens=self._answer.steps * self._answer.choices)
        await wire.finish()
        self._call.finished = True
        return wire.response

    def _body(self) -> bytes:
        if self._kind == "error_event":
            return dumps(self._error())
        body = dumps(self._tongue.whole())
        if self._kind == "malformed_json":
            return body + b"}"
        if self._kind == "invalid_utf8":
            return body.replace(b'"role":', b'"note":"\xff\xc3(","role":', 1)
        return body


def _instead(fault: Fault, tongue: Tongue) -> web.Response | None:
    """The response of a fault that replaces the answer."""
    match fault:
        case Fault(kind="refuse", status=status, retry_after=retry_after):
            headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
            return web.json_response(_refusal(status, tongue), status=status, headers=headers)
        case Fault(kind="html"):
            return web.Response(text=_PAGE, content_type="text/html")
        case Fault(kind="redirect", status=status, location=location):
            return web.Response(status=status, headers={"Location": location})
    return None


def _refusal(status: int, tongue: Tongue) -> Json:
    if status == 429:
        return tongue.error(status, "Rate limit reached for requests.", "rate_limit_exceeded")
    if status >= 500:
        return tongue.error(status, "The server is overloaded or not ready yet.")
    return tongue.error(status, f"The request was refused with status {status}.", "refused")


def _inside_a_character(body: bytes, start: int) -> int:
    """The first position from `start` on that is inside a multi-byte character, or `start` if there is none."""
    return next((place + 1 for place in range(start, len(body)) if body[place] >= 0xC0), start)
