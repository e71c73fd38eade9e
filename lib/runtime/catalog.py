"""The upstreams there are, and which of them serves a model.

Pure values, from a TOML file or from the environment. The key itself is not here: an upstream names the variable that
has it, and only the worker reads that.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lib.domain.errors import ConfigurationError, InvalidRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadlines:
    """How long an upstream may take, in seconds: to connect, until its status line, between two pieces of its body, and
    in all."""

    connect: float = 10.0
    first_byte: float = 300.0
    idle: float = 120.0
    total: float = 1500.0


class Prefill(StrEnum):
    """How an upstream is asked to go on with an answer that broke off."""

    OPENROUTER = "openrouter"
    ANTHROPIC = "anthropic"
    VLLM = "vllm"


class Usage(StrEnum):
    """Whether an upstream is asked to tell a stream's usage: always, or only where the client asks for it."""

    ASK = "ask"
    AS_ASKED = "as_asked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Upstream:
    """A server that speaks one or more model APIs at `base_url`.

    `speaks` names their dialects. `models` are exact names, prefixes that end in `*`, or `*` for all; `key_env` names
    the variable that has the key; `usage` is `as_asked` where the server refuses to be asked for a stream's usage;
    `prefill` is there where a broken-off answer is to be continued.
    """

    name: str
    base_url: str
    models: tuple[str, ...] = ("*",)
    speaks: tuple[str, ...] = ("chat_completions",)
    key_env: str | None = None
    usage: Usage = Usage.ASK
    prefill: Prefill | None = None
    deadlines: Deadlines = Deadlines()

    def fit(self, model: str) -> int:
        """How closely this serves `model`: the length of what matches, more than any prefix if exact, -1 if not."""
        exact = len(model) + 1
        fits = [exact for name in self.models if name == model]
        fits += [len(name) - 1 for name in self.models if name.endswith("*") and model.startswith(name[:-1])]
        return max(fits, default=-1)


class Catalog:
    """All upstreams. The one whose pattern matches a model most closely serves it; among equals, the first."""

    def __init__(self, upstreams: Sequence[Upstream]):
        self._upstreams = {upstream.name: upstream for upstream in upstreams}

    def __getitem__(self, name: str) -> Upstream:
        return self._upstreams[name]

    def __contains__(self, name: str) -> bool:
        return name in self._upstreams

    def serving(self, model: str) -> Upstream:
        """The upstream for a model. Errors: `InvalidRequest`, with what there is."""
        best = max(self._upstreams.values(), key=lambda upstream: upstream.fit(model))
        if best.fit(model) < 0:
            there_is = ", ".join(name for name, _ in self.models())
            raise InvalidRequest(
                f"There is no model '{model[:100]}'. There is: {there_is}.", code="model_not_found", param="model"
            )
        return best

    def models(self) -> list[tuple[str, str]]:
        """Each model's name or pattern, with its upstream's name."""
        return [(model, upstream.name) for upstream in self._upstreams.values() for model in upstream.models]

    @property
    def longest(self) -> float:
        """The longest time, in seconds, that any upstream may take in all."""
        return max(upstream.deadlines.total for upstream in self._upstreams.values())


MAX_SECONDS = 86_400
_DEADLINES = {f"{name}_seconds": name for name in ("connect", "first_byte", "idle", "total")}
_KEYS = {"base_url", "models", "speaks", "key_env", "usage", "continue", "prefill_style", *_DEADLINES}


def load(environ: Mapping[str, str]) -> Catalog:
    """The catalog that the environment asks for.

    `UPSTREAMS_FILE` names a TOML file with a table an upstream. Without it there is one upstream, `default`, from
    `UPSTREAM_BASE_URL`, `UPSTREAM_MODELS` (comma-separated, `*` unless set), `UPSTREAM_SPEAKS` (comma-separated,
    `chat_completions` unless set), `UPSTREAM_API_KEY`, `UPSTREAM_USAGE`, `UPSTREAM_CONTINUE` and
    `UPSTREAM_PREFILL_STYLE`. Errors: `ConfigurationError`, with every fault found.
    """
    path = environ.get("UPSTREAMS_FILE")
    if path:
        try:
            tables: Any = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"UPSTREAMS_FILE: {path} can't be read as TOML: {error}") from error
    elif environ.get("UPSTREAM_BASE_URL"):
        tables = {"default": {"base_url": environ["UPSTREAM_BASE_URL"], "models": _listed(environ, "MODELS", "*")}}
        if environ.get("UPSTREAM_SPEAKS"):
            tables["default"]["speaks"] = _listed(environ, "SPEAKS")
        if environ.get("UPSTREAM_API_KEY"):
            tables["default"]["key_env"] = "UPSTREAM_API_KEY"
        for key in ("usage", "continue", "prefill_style"):
            if environ.get(f"UPSTREAM_{key.upper()}"):
                tables["default"][key] = environ[f"UPSTREAM_{key.upper()}"]
    else:
        raise ConfigurationError("UPSTREAM_BASE_URL or UPSTREAMS_FILE: one of them must say where the upstream is")
    faults = [fault for name, table in tables.items() for fault in _faults(name, table)]
    if not tables:
        faults.append("UPSTREAMS_FILE: it has no upstream")
    if faults:
        raise ConfigurationError("\n".join(faults))
    return Catalog([_upstream(name, table) for name, table in tables.items()])


def _listed(environ: Mapping[str, str], name: str, unset: str = "") -> list[str]:
    return [item.strip() for item in environ.get(f"UPSTREAM_{name}", unset).split(",") if item.strip()]


def _faults(name: str, table: Any) -> list[str]:
    if not isinstance(table, dict):
        return [f"upstream {name}: it must be a table, [{name}]"]
    faults = [
        f"upstream {name}: unknown setting '{key}'; there is {', '.join(sorted(_KEYS))}"
        for key in table
        if key not in _KEYS
    ]
    base_url = table.get("base_url")
    if not isinstance(base_url, str) or not is_url(base_url):
        faults.append(f"upstream {name}: base_url must be an http or https URL, such as https://api.openai.com/v1")
    models = table.get("models", ["*"])
    if not isinstance(models, list) or not models or not all(isinstance(model, str) and model for model in models):
        faults.append(f"upstream {name}: models must be a list of names, prefixes ending in '*', or '*'")
    speaks = table.get("speaks", ["chat_completions"])
    if not isinstance(speaks, list) or not speaks or not all(isinstance(api, str) and api for api in speaks):
        faults.append(f"upstream {name}: speaks must be a list of dialects, such as ['chat_completions']")
    if not isinstance(table.get("key_env", ""), str):
        faults.append(f"upstream {name}: key_env must be the name of the variable that has the key")
    if table.get("usage", Usage.ASK) not in list(Usage):
        faults.append(f"upstream {name}: usage is {_either(Usage)}: whether to ask for it, or only where clients do")
    if table.get("continue", "prefill") != "prefill":
        faults.append(f"upstream {name}: continue must be 'prefill'; leave it out where answers are not continued")
    if "prefill_style" in table and ("continue" not in table or table["prefill_style"] not in list(Prefill)):
        faults.append(f"upstream {name}: prefill_style goes with continue = 'prefill', and is {_either(Prefill)}")
    for key in _DEADLINES:
        value = table.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_SECONDS:
            faults.append(f"upstream {name}: {key} must be a number of seconds above 0")
    return faults


def _either(names: Iterable[str]) -> str:
    *others, last = [f"'{name}'" for name in names]
    return f"{', '.join(others)} or {last}"


def is_url(value: str) -> bool:
    """Whether this is an http or https URL with a host."""
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _upstream(name: str, table: Mapping[str, Any]) -> Upstream:
    return Upstream(
        name=name,
        base_url=table["base_url"].rstrip("/"),
        models=tuple(table.get("models", ["*"])),
        speaks=tuple(table.get("speaks", ["chat_completions"])),
        key_env=table.get("key_env"),
        usage=Usage(table.get("usage", Usage.ASK)),
        prefill=Prefill(table.get("prefill_style", Prefill.OPENROUTER)) if "continue" in table else None,
        deadlines=Deadlines(**{field: float(table[key]) for key, field in _DEADLINES.items() if key in table}),
    )
