"""The catalog of a stage: for each dialect an upstream that is asked for the rest of an answer, and one that is not."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.dialects import DIALECTS, Dialect
from chaos.question import model


def upstreams(url: str, idle: float) -> str:
    """The TOML file, with the demo upstream at `url`. `idle` is in seconds."""
    return "\n\n".join("\n".join(_table(url, idle, each, can)) for each in DIALECTS for can in (False, True))


def _table(url: str, idle: float, dialect: Dialect, resumable: bool) -> Iterator[str]:
    yield f"[{model(dialect, resumable)}]"
    yield f'base_url = "{url}{dialect.base}"'
    yield f'models = ["{model(dialect, resumable)}"]'
    yield f'speaks = ["{dialect.name}"]'
    yield f"idle_seconds = {idle}"
    if resumable and dialect.background:
        yield "background = true"
    elif resumable:
        yield 'continue = "prefill"'
        yield f'prefill_style = "{dialect.prefill or "openrouter"}"'
