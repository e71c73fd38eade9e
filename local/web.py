"""Serves the web example: the page, its configuration, and sign-in.

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

from aiohttp import web

from local import auth_emulator
from local.firestore_emulator import EmulatorMissing
from local.ports import HOST, PortFault, Ports
from local.process import ProcessFault
from local.stack import ROOT, Stack
from local.token import PROJECT

EXAMPLE = ROOT / "examples" / "web"
_PUBLIC = EXAMPLE / "public"
_WATCH_SECONDS = 0.2


class BuildFault(Exception):
    """The page could not be built. The message is the bundler's output."""


def build() -> None:
    """Bundles the page's modules and Firebase's packages into one file. Errors: `BuildFault`."""
    npm = shutil.which("npm")
    if npm is None:
        raise BuildFault("There is no npm, which builds the page: install Node.js 20 or newer.")
    # The bundler truncates a file before it writes it, and another server may just be reading the last one.
    with tempfile.TemporaryDirectory(prefix=".build-", dir=EXAMPLE) as folder:
        command = [npm, "run", "--silent", "build", "--", f"--outfile={folder}/app.js"]
        built = subprocess.run(command, cwd=EXAMPLE, capture_output=True, encoding="utf-8")
        if built.returncode:
            raise BuildFault(f"The page could not be built. Has './local/setup.sh web' been run?\n{built.stderr}")
        for file in Path(folder).iterdir():
            file.replace(_PUBLIC / file.name)


def application(api_url: str, model: str = "demo") -> web.Application:
    """The page for the API at this URL. `model` is what it asks for; the demo upstream's sets a length and a speed."""
    config = {"apiUrl": api_url, "project": PROJECT, "model": model}
    headers = {
        # Only the page's own files, this origin (for sign-in) and the API are allowed, so no CDN can be used by
        # mistake.
        "Content-Security-Policy": f"default-src 'self'; connect-src 'self' {api_url}; frame-ancestors 'none'",
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
    }

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(headers)

    async def page(_: web.Request) -> web.FileResponse:
        return web.FileResponse(_PUBLIC / "index.html")

    async def configuration(_: web.Request) -> web.Response:
        return web.json_response(config)

    app = web.Application()
    app.on_response_prepare.append(add_headers)
    app.add_routes([web.get("/", page), web.get("/config.json", configuration), *auth_emulator.routes()])
    app.router.add_static("/", _PUBLIC)
    return app


@asynccontextmanager
async def serving(app: web.Application, port: int) -> AsyncIterator[str]:
    """Serves until the block ends, and yields the URL. Port 0 picks a free port. Raises OSError if it is taken."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _serve_until_ended(app: web.Application, port: int, stack: Stack | None) -> int:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serving(app, port) as url:
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


def run(environ: Mapping[str, str], port: int, api_url: str | None) -> int:
    """Serves the page in the foreground until a signal. Returns the exit code."""
    settings = {name: environ[name] for name in ("UPSTREAM_BASE_URL", "UPSTREAM_API_KEY") if environ.get(name)}
    with ExitStack() as running:
        stack = None
        try:
            build()
            ports = Ports.from_env(environ)
            if api_url is None:
                api_url = f"http://{HOST}:{ports.api_port}"
                if not _is_up(api_url):
                    stack = running.enter_context(Stack(ports, settings, environ))
            app = application(api_url, environ.get("WEB_MODEL") or "demo")
            return asyncio.run(_serve_until_ended(app, port, stack))
        except (BuildFault, PortFault, EmulatorMissing, ProcessFault) as fault:
            print(fault, file=sys.stderr)
        except OSError as error:
            print(f"The page can't be served at port {port} ({error.strerror}): set WEB_PORT.", file=sys.stderr)
    return 1


def _is_up(api_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=5):
            return True
    except OSError:
        return False


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m local.web", description="The web example.")
    parser.add_argument("--port", type=int, default=int(os.environ.get("WEB_PORT") or 8000), help="(%(default)s)")
    parser.add_argument("--api-url", help="the API, where no local stack is to be used")
    options = parser.parse_args(argv)
    return run(os.environ, options.port, options.api_url)


if __name__ == "__main__":
    sys.exit(main())
