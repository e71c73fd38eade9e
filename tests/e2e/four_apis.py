"""A stack whose demo upstream is four: each model is named like the API that its upstream speaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.ports import HOST, Ports
from local.stack import Stack
from tests.conftest import STRICT

RENDERED = ("chat_completions", "messages", "gemini")
APIS = (*RENDERED, "responses")


@contextmanager
def four_apis(folder: Path) -> Iterator[Stack]:
    """The stack, whose catalog is written into `folder`."""
    ports = Ports.free()
    url = f"http://{HOST}:{ports.upstream_port}/v1"
    catalog = folder / "upstreams.toml"
    catalog.write_text(
        "".join(f'[{api}]\nbase_url = "{url}"\nmodels = ["{api}"]\nspeaks = ["{api}"]\n' for api in APIS)
    )
    settings = {"UPSTREAMS_FILE": str(catalog), "KEEPALIVE_SECONDS": "0.5", "MAX_LIVE_GENERATIONS": "60"}
    with Stack(ports, settings, strict=STRICT) as running:
        yield running
