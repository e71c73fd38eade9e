"""The proxy as a command. Its side port takes `GET` and `POST /faults`, with the fields of `Faults` as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from dataclasses import asdict

from aiohttp import web

from local.firestore_proxy.faults import Faults
from local.firestore_proxy.strict import StrictFirestore
from local.json_option import fields_of
from local.ports import HOST


def _side_port(firestore: StrictFirestore) -> web.Application:
    async def show(_: web.Request) -> web.Response:
        now = {"building": firestore.building, "committing": firestore.committing}
        shown = {**asdict(firestore.faults), "made": firestore.made, **now}
        return web.json_response(shown)

    async def change(request: web.Request) -> web.Response:
        try:
            firestore.fault(**await request.json())
        except (TypeError, ValueError) as error:
            return web.Response(status=400, text=json.dumps({"error": str(error)}), content_type="application/json")
        return await show(request)

    app = web.Application()
    app.router.add_get("/faults", show)
    app.router.add_post("/faults", change)
    return app


async def _serve(target: str, port: int, http_port: int, faults: Faults) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    firestore = StrictFirestore(target, faults)
    runner = web.AppRunner(_side_port(firestore), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, http_port).start()
        with firestore.serving(port) as address:
            print(f"ready grpc={address} http=http://{HOST}:{runner.addresses[0][1]}", flush=True)
            await stop.wait()
    finally:
        await runner.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="firestore_proxy", description="Firestore's emulator, as strict as Firestore."
    )
    parser.add_argument("--target", required=True, metavar="HOST:PORT", help="the emulator")
    parser.add_argument("--port", type=int, default=0, help="gRPC; 0 takes a free one")
    parser.add_argument("--http-port", type=int, default=0, help="faults; 0 takes a free one")
    parser.add_argument(
        "--faults", type=fields_of(Faults), default=Faults(), metavar="JSON", help='such as {"reads": 0.01}'
    )
    try:
        asyncio.run(_serve(**vars(parser.parse_args())))
    except (OSError, RuntimeError) as error:
        print(f"firestore_proxy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
