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

from aiohttp import web

from local import auth_emulator
from local.firestore_emulator import EmulatorMissing
from local.ports import HOST, PortFault, Ports
from local.process import ProcessFault
from local.stack import ROOT, Stack
from local.token import PROJECT

_EXAMPLES = ROOT / "examples"
PAGES = {"/": _EXAMPLES / "web", "/usechat/": _EXAMPLES / "usechat"}  # the folder of each page
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
            command = [npm, "run", "--silent", "build", "--", f"--outfile={folder}/app.js"]
            built = subprocess.run(command, cwd=page, capture_output=True, encoding="utf-8")
            if built.returncode:
                raise BuildFault(f"A page could not be built. Has './local/setup.sh web' been run?\n{built.stderr}")
            for file in Path(folder).iterdir():
                file.replace(page / "public" / file.name)


def application(api_url: str, model: str = "demo") -> web.Application:
    """The pages for the API at this URL. `model` is what they ask for: the demo upstream's has a length and a speed."""
    config = {"apiUrl": api_url, "project": PROJECT, "model": model}
    headers = {
        # Only the pages' own files, this origin (for sign-in) and the API are allowed, so no CDN can be used by
        # mistake. A model's picture is in its answer: fetching one would tell its server what the answer says.
        "Content-Security-Policy": (
            f"default-src 'self'; img-src 'self' data:; connect-src 'self' {api_url}; frame-ancestors 'none'"
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
    for path in sorted(PAGES, reverse=True):  # the root's files last, since their route takes any path
        app.add_routes([web.get(path, page), web.static(path, PAGES[path] / "public")])
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
    """Serves the pages in the foreground until a signal. Returns the exit code."""
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
    options = parser.parse_args(argv)
    return run(os.environ, options.port, options.api_url)


if __name__ == "__main__":
    sys.exit(main())
