"""Serves the web examples: the pages, their configuration, and sign-in.

`python -m local.web` runs it in the foreground until Ctrl-C. It starts the local stack, or uses one that is running.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from local import auth_emulator
from local.firestore_emulator import EmulatorMissing
from local.ports import HOST, PortFault, Ports, free_port
from local.process import ProcessFault
from local.push import PushService
from local.stack import ROOT, Stack
from local.token import PROJECT

_EXAMPLES = ROOT / "examples"
PAGES = {"/": _EXAMPLES / "web", "/usechat/": _EXAMPLES / "usechat"}  # the folder of each page
FIREBASE = {"apiKey": "local", "projectId": PROJECT, "appId": "1:0:web:0", "messagingSenderId": "000000000000"}
_WATCH_SECONDS = 0.2


class BuildFault(Exception):
    """A page could not be built. The message is the bundler's output."""


def build() -> None:
    """Bundles each page's modules and packages into one file. Errors: `BuildFault`."""
    npm = shutil.which("npm")
    if npm is None:
        raise BuildFault("There is no npm, which builds the pages: install Node.js 20 or newer.")
    for page in PAGES.values():
        # The bundler truncates a file before it writes it, and another server may just be reading the last one.
        with tempfile.TemporaryDirectory(prefix=".build-", dir=page) as folder:
            command = [npm, "run", "--silent", "build", "--", f"--outdir={folder}"]
            built = subprocess.run(command, cwd=page, capture_output=True, encoding="utf-8")
            if built.returncode:
                raise BuildFault(f"A page could not be built. Has './local/setup.sh web' been run?\n{built.stderr}")
            for file in Path(folder).iterdir():
                file.replace(page / "public" / file.name)


def application(
    api_url: str, model: str = "demo", firestore: str | None = None, push: PushService | None = None
) -> web.Application:
    """The pages for the API at this URL. `model` is what they ask for: the demo upstream's has a length and a speed.

    With `push`, which the service tells of answers, the page offers notifications, and registers at the emulator
    `firestore`, a host and port.
    """
    config: dict[str, Any] = {"apiUrl": api_url, "firebase": FIREBASE, "model": model}
    config["push"] = {"emulator": f"http://{firestore}"} if push is not None else None
    reached = f"{api_url} http://{firestore}" if push is not None else api_url
    headers = {
        # Only the pages' own files, this origin (for sign-in) and the API are allowed, so no CDN can be used by
        # mistake. A model's picture is in its answer: fetching one would tell its server what the answer says.
        "Content-Security-Policy": (
            f"default-src 'self'; img-src 'self' data:; connect-src 'self' {reached}; frame-ancestors 'none'"
        ),
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
    }

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(headers)

    async def page(request: web.Request) -> web.FileResponse:
        return web.FileResponse(PAGES[request.path] / "public" / "index.html")

    async def configuration(_: web.Request) -> web.Response:
        return web.json_response(config)

    app = web.Application()
    app.on_response_prepare.append(add_headers)
    app.add_routes([web.get("/config.json", configuration), *auth_emulator.routes()])
    app.add_routes(push.for_pages() if push is not None else [])
    for path in sorted(PAGES, reverse=True):  # the root's files last, since their route takes any path
        app.add_routes([web.get(path, page), web.static(path, PAGES[path] / "public")])
    return app


@asynccontextmanager
async def serving(app: web.Application, port: int) -> AsyncIterator[str]:
    """Serves until the block ends, and yields the URL. Port 0 picks a free port. Raises OSError if it is taken."""
    # A stream whose page has gone must not take what comes for the next one.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _serve_until_ended(
    app: web.Application, port: int, stack: Stack | None, push: web.Application, push_port: int
) -> int:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serving(push, push_port), serving(app, port) as url:
        print(f"ready {url}", flush=True)
        while not ended.is_set():
            if stack is not None and (dead := stack.dead()) is not None:
                print(f"{dead.name} ended unexpectedly. {dead.said()}", file=sys.stderr)
                return 1
            try:
                await asyncio.wait_for(ended.wait(), _WATCH_SECONDS)
            except TimeoutError:
                pass
    return 0


def run(
    environ: Mapping[str, str], port: int, api_url: str | None, firestore: str | None = None, fcm_port: int = 0
) -> int:
    """Serves the pages in the foreground until a signal. Returns the exit code.

    `firestore` is the emulator of an API whose `FCM_URL` is `fcm_port`. A stack that is started here has both.
    """
    settings = {name: environ[name] for name in ("UPSTREAM_BASE_URL", "UPSTREAM_API_KEY") if environ.get(name)}
    with ExitStack() as running:
        stack = None
        try:
            build()
            ports, push = Ports.from_env(environ), PushService()
            fcm_port = fcm_port or free_port()
            if api_url is None:
                api_url = f"http://{HOST}:{ports.api_port}"
                if not _is_up(api_url):
                    settings |= push.settings(f"{HOST}:{fcm_port}")
                    stack = running.enter_context(Stack(ports, settings, environ))
                    firestore = stack.firestore_host
            model = environ.get("WEB_MODEL") or "demo"
            app = application(api_url, model, firestore, push if firestore else None)
            return asyncio.run(_serve_until_ended(app, port, stack, push.for_worker(), fcm_port))
        except (BuildFault, PortFault, EmulatorMissing, ProcessFault) as fault:
            print(fault, file=sys.stderr)
        except OSError as error:
            print(f"The pages can't be served at port {port} ({error.strerror}): set WEB_PORT.", file=sys.stderr)
    return 1


def _is_up(api_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=5):
            return True
    except OSError:
        return False


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m local.web", description="The web examples.")
    parser.add_argument("--port", type=int, default=int(os.environ.get("WEB_PORT") or 8000), help="(%(default)s)")
    parser.add_argument("--api-url", help="the API, where no local stack is to be used")
    parser.add_argument("--firestore", help="host:port of that API's Firestore emulator, for notifications")
    parser.add_argument("--fcm-port", type=int, default=0, help="the port of that API's FCM_URL")
    options = parser.parse_args(argv)
    return run(os.environ, options.port, options.api_url, options.firestore, options.fcm_port)


if __name__ == "__main__":
    sys.exit(main())
