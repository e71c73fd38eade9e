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
TRUSTING = "trusting"  # a model of an upstream in Responses, which takes any id of its account


@contextmanager
def four_apis(stack: Stack, folder: Path) -> Iterator[Stack]:
    """Such a stack beside another, with its catalog in `folder`."""
    ports = Ports.free()
    url = f"http://{HOST}:{ports.upstream_port}/v1"
    catalog = folder / "upstreams.toml"
    tables = [f'[{api}]\nbase_url = "{url}"\nmodels = ["{api}"]\nspeaks = ["{api}"]\n' for api in APIS]
    tables.append(
        f'[{TRUSTING}]\nbase_url = "{url}"\nmodels = ["{TRUSTING}"]\nspeaks = ["responses"]\naccount_ids = true\n'
    )
    catalog.write_text("".join(tables))
    settings = {
        "UPSTREAMS_FILE": str(catalog),
        "KEEPALIVE_SECONDS": "0.5",
        "MAX_LIVE_GENERATIONS": "60",
        "MAX_USER_STARTS": "60",
    }
    with Stack(ports, settings, strict=STRICT, beside=stack) as running:
        yield running
