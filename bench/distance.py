"""A TCP proxy that is far away: what arrives on one side of a connection leaves on the other half a round trip later.

It must not read what passes. The distance can be changed at its HTTP port, for what arrives from then on.

    python -m bench.distance --target HOST:PORT --seconds 0.04
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections import deque
from typing import cast

from aiohttp import web

from local.ports import HOST


class Distance:
    """`seconds` are there and back."""

    def __init__(self, seconds: float):
        self.seconds = seconds


class Side(asyncio.Protocol):
    """One side of a connection. What it receives, `other` sends when it is due. An end is passed on in the same way."""

    def __init__(self, distance: Distance):
        self.other: Side | None = None
        self._distance = distance
        self._transport: asyncio.Transport | None = None
        self._under_way: deque[tuple[float, bytes | None]] = deque()  # when due, what; None: the connection is lost
        self._ended = False  # this side sends no more, but may receive
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._pass(data)

    def eof_received(self) -> bool:
        self._ended = True
        self._pass(b"")
        return True  # it still receives

    def connection_lost(self, _: Exception | None) -> None:
        self._pass(None)

    def _pass(self, what: bytes | None) -> None:
        due = asyncio.get_running_loop().time() + self._distance.seconds / 2
        self._under_way.append((due, what))
        self.deliver()

    def deliver(self) -> None:
        """Has the other side send what is due, once there is one, and comes back for the rest."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.other is None:
            return
        while self._under_way and self._under_way[0][0] <= loop.time():
            self.other.send(self._under_way.popleft()[1])
        if self._under_way:
            self._timer = loop.call_at(self._under_way[0][0], self.deliver)

    def send(self, what: bytes | None) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if what:
            self._transport.write(what)
        elif what is None or self._ended:
            self._transport.close()
        else:
            self._transport.write_eof()


class Near(Side):
    """The client's side, which opens the other one."""

    def __init__(self, distance: Distance, target: tuple[str, int]):
        super().__init__(distance)
        self._target = target

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        far = Side(self._distance)
        far.other = self
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, *self._target)
        except OSError:
            self.send(None)
        else:
            self.other = far
            self.deliver()


async def serve(target: str, seconds: float) -> None:
    """Serves until SIGTERM or SIGINT, and prints its addresses when it is ready."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    distance = Distance(seconds)
    host, _, port = target.rpartition(":")

    async def change(request: web.Request) -> web.Response:
        distance.seconds = float((await request.json())["seconds"])
        return web.Response()

    app = web.Application()
    app.router.add_post("/", change)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    server = await loop.create_server(lambda: Near(distance, (host, int(port))), HOST, 0)
    try:
        await web.TCPSite(runner, HOST, 0).start()
        there = server.sockets[0].getsockname()[1]
        print(f"ready tcp={HOST}:{there} http=http://{HOST}:{runner.addresses[0][1]}/", flush=True)
        await stop.wait()
    finally:
        server.close()
        await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.distance", description="A host that is far away.")
    parser.add_argument("--target", required=True, metavar="HOST:PORT", help="the host")
    parser.add_argument("--seconds", type=float, required=True, help="there and back")
    options = parser.parse_args()
    asyncio.run(serve(options.target, options.seconds))


if __name__ == "__main__":
    main()
