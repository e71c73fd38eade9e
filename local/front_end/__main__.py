"""The front end as a command."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from aiohttp import web

from local.front_end.limits import Limits
from local.front_end.server import FrontEnd
from local.json_option import fields_of
from local.ports import HOST


async def _serve(target: str, port: int, limits: Limits) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = FrontEnd(target, limits).runner()
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port, backlog=1024).start()
        print(f"ready http=http://{HOST}:{runner.addresses[0][1]}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(prog="front_end", description="What stands before a Cloud Run service.")
    parser.add_argument("--target", required=True, metavar="URL", help="the function")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--limits", type=fields_of(Limits), default=Limits(), metavar="JSON", help='such as {"idle_seconds": 60}'
    )
    try:
        asyncio.run(_serve(**vars(parser.parse_args())))
    except OSError as error:
        print(f"front_end: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
