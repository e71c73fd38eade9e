"""The configured upstreams, and which of them serves a model.

Pure values, read from a TOML file or from environment variables. They must not contain an API key: an upstream names
the variable that holds its key, and only the worker reads that variable.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from lib.domain.errors import ConfigurationError, InvalidRequest
from lib.runtime.prices import Prices, faults_of, parsed, read_prices, unpriced


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadlines:
    """Limits in seconds: to connect, until the status line, between two reads of the body, and for the whole call."""

    connect: float = 10.0
    first_byte: float = 300.0
    idle: float = 120.0
    total: float = 1500.0


class Prefill(StrEnum):
    """How an upstream is asked to continue an interrupted answer."""

    OPENROUTER = "openrouter"
    ANTHROPIC = "anthropic"
    VLLM = "vllm"


class Usage(StrEnum):
    """Whether to ask an upstream for a stream's token usage: always, or only if the client asks for it."""

    ASK = "ask"
    AS_ASKED = "as_asked"


class Auth(StrEnum):
    """How a call shows who it is: any other value is the name of the header that has the key.

    `google`: an access token of this service's own account. `google_id_token`: its ID token for the upstream.
    """

    BEARER = "bearer"
    GOOGLE = "google"
    GOOGLE_ID_TOKEN = "google_id_token"  # noqa: S105


Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Upstream:
    """A server with one or more model APIs at `base_url`.

    `models` are exact names, prefixes ending in `*`, or `*` for all. `speaks` lists the dialects it supports. `key_env`
    names the variable that holds the API key, and `auth` says where it goes: an `Auth`, or a header's name. `headers`
    and `query` go with every call. `usage` is `as_asked` for servers that reject a request for usage. If `prefill` is
    set, interrupted answers are continued in that way. With `background`, answers are generated without a connection
    where the API has that, and are read on from where the reading broke off. With `account_ids`, requests may name by
    ids what the upstream keeps for the key's account, such as files: any user may then name what another one put there.
    `prices` has what its models cost.
    """

    name: str
    base_url: str
    models: tuple[str, ...] = ("*",)
    speaks: tuple[str, ...] = ("chat_completions",)
    key_env: str | None = None
    auth: str = Auth.BEARER
    headers: Pairs = ()
    query: Pairs = ()
    usage: Usage = Usage.ASK
    prefill: Prefill | None = None
    background: bool = False
    prices: Prices = ()
    account_ids: bool = False
    deadlines: Deadlines = Deadlines()

    def fit(self, model: str) -> int:
        """How closely a pattern matches `model`: the prefix's length, more if exact, -1 if none matches."""
        exact = len(model) + 1
        fits = [exact for name in self.models if name == model]
        fits += [len(name) - 1 for name in self.models if name.endswith("*") and model.startswith(name[:-1])]
        return max(fits, default=-1)


class Catalog:
    """All upstreams. A model is served by the closest match, and among equal matches by the first."""

    def __init__(self, upstreams: Sequence[Upstream]):
        self._upstreams = {upstream.name: upstream for upstream in upstreams}

    def __getitem__(self, name: str) -> Upstream:
        return self._upstreams[name]

    def __contains__(self, name: str) -> bool:
        return name in self._upstreams

    def serving(self, model: str) -> Upstream:
        """The upstream for a model. Errors: `InvalidRequest`, which lists the available models."""
        best = max(self._upstreams.values(), key=lambda upstream: upstream.fit(model))
        if best.fit(model) < 0:
            there_is = ", ".join(name for name, _ in self.models())
            raise InvalidRequest(
                f"There is no model '{model[:100]}'. There is: {there_is}.", code="model_not_found", param="model"
            )
        return best

    def models(self) -> list[tuple[str, str]]:
        """Each model name or pattern, with the name of its upstream."""
        return [(model, upstream.name) for upstream in self._upstreams.values() for model in upstream.models]

    @property
    def unpriced(self) -> list[str]:
        """Each model or pattern for which there may be no price, with its upstream's name before it."""
        each = self._upstreams.values()
        return [f"{up.name}: {model}" for up in each for model in unpriced(up.prices, up.models)]

    @property
    def has_background(self) -> bool:
        """Whether any upstream generates answers in the background."""
        return any(upstream.background for upstream in self._upstreams.values())

    @property
    def longest(self) -> float:
        """The longest total deadline of any upstream, in seconds."""
        return max(upstream.deadlines.total for upstream in self._upstreams.values())


MAX_SECONDS = 86_400
_DEADLINES = {f"{name}_seconds": name for name in ("connect", "first_byte", "idle", "total")}
_MODELS_MISSING = (
    "it must list the models that users may ask for, such as gpt-4o or gpt-*, since you pay for each; '*' allows all"
)
_KEYS = {"base_url", "models", "speaks", "key_env", "auth", "headers", "query", "usage", "continue", "prefill_style"}
_KEYS |= {"background", "account_ids", "prices", *_DEADLINES}
_KEYLESS = (Auth.GOOGLE, Auth.GOOGLE_ID_TOKEN)
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_NAME = re.compile(r"[A-Za-z0-9._$-]+")  # of a header or of a parameter of the query
# The call's own, and those that could have a key, which does not belong into the catalog.
_NO_FIXED_HEADERS = frozenset(
    {
        "accept-encoding",
        "api-key",
        "authorization",
        "content-length",
        "cookie",
        "host",
        "transfer-encoding",
        "x-api-key",
        "x-goog-api-key",
    }
)


def load(environ: Mapping[str, str]) -> Catalog:
    """Reads the catalog from the environment.

    `UPSTREAMS_FILE` names a TOML file with one table per upstream. Without it there is one upstream, `default`,
    configured by `UPSTREAM_BASE_URL`, `UPSTREAM_MODELS` (comma-separated), `UPSTREAM_SPEAKS`
    (comma-separated, default `chat_completions`), `UPSTREAM_API_KEY`, `UPSTREAM_AUTH`, `UPSTREAM_HEADERS` and
    `UPSTREAM_QUERY` (both like a URL's query, `name=value&name=value`), `UPSTREAM_USAGE`, `UPSTREAM_CONTINUE`,
    `UPSTREAM_PREFILL_STYLE`, `UPSTREAM_BACKGROUND` and `UPSTREAM_ACCOUNT_IDS` (both `on` or `off`), and
    `UPSTREAM_PRICES` (`model=input/output&…`).
    Errors: `ConfigurationError`, which lists all faults.
    """
    path = environ.get("UPSTREAMS_FILE")
    if path:
        try:
            tables: Any = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"UPSTREAMS_FILE: {path} can't be read as TOML: {error}") from error
    elif environ.get("UPSTREAM_BASE_URL"):
        if not _split(environ, "MODELS"):
            raise ConfigurationError(f"UPSTREAM_MODELS: {_MODELS_MISSING}")
        tables = {"default": {"base_url": environ["UPSTREAM_BASE_URL"], "models": _split(environ, "MODELS")}}
        if environ.get("UPSTREAM_SPEAKS"):
            tables["default"]["speaks"] = _split(environ, "SPEAKS")
        auth = environ.get("UPSTREAM_AUTH") or Auth.BEARER
        # Only the worker has the key, but both functions read the catalog.
        if auth not in _KEYLESS and (environ.get("UPSTREAM_API_KEY") or auth != Auth.BEARER):
            tables["default"]["key_env"] = "UPSTREAM_API_KEY"
        for key in ("headers", "query"):
            if environ.get(f"UPSTREAM_{key.upper()}"):
                tables["default"][key] = _pairs(environ[f"UPSTREAM_{key.upper()}"])
        if environ.get("UPSTREAM_PRICES"):
            tables["default"]["prices"] = parsed(_pairs(environ["UPSTREAM_PRICES"]))
        for key in ("background", "account_ids"):
            if switch := environ.get(f"UPSTREAM_{key.upper()}"):
                tables["default"][key] = {"on": True, "off": False}.get(switch, switch)
        for key in ("auth", "usage", "continue", "prefill_style"):
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


def _split(environ: Mapping[str, str], name: str) -> list[str]:
    return [item.strip() for item in environ.get(f"UPSTREAM_{name}", "").split(",") if item.strip()]


def _pairs(value: str) -> dict[str, str] | str:
    """The names and values, or the text itself if it is not in the form of a query."""
    try:
        return dict(parse_qsl(value, keep_blank_values=True, strict_parsing=True))
    except ValueError:
        return value


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
    elif urlsplit(base_url).query or urlsplit(base_url).fragment:
        faults.append(f"upstream {name}: base_url ends with the path; what follows a '?' goes into query")
    models = table.get("models")
    if models is None:
        faults.append(f"upstream {name}: models: {_MODELS_MISSING}")
    elif not isinstance(models, list) or not models or not all(isinstance(model, str) and model for model in models):
        faults.append(f"upstream {name}: models must be a list of names, prefixes ending in '*', or '*'")
    speaks = table.get("speaks", ["chat_completions"])
    if not isinstance(speaks, list) or not speaks or not all(isinstance(api, str) and api for api in speaks):
        faults.append(f"upstream {name}: speaks must be a list of dialects, such as ['chat_completions']")
    if not isinstance(table.get("key_env", ""), str):
        faults.append(f"upstream {name}: key_env must be the name of the variable that has the key")
    faults += _auth_faults(name, table)
    if table.get("usage", Usage.ASK) not in list(Usage):
        faults.append(f"upstream {name}: usage is {_either(Usage)}: whether to ask for it, or only where clients do")
    if table.get("continue", "prefill") != "prefill":
        faults.append(f"upstream {name}: continue must be 'prefill'; leave it out where answers are not continued")
    if "prefill_style" in table and ("continue" not in table or table["prefill_style"] not in list(Prefill)):
        faults.append(f"upstream {name}: prefill_style goes with continue = 'prefill', and is {_either(Prefill)}")
    background = table.get("background", False)
    if not isinstance(background, bool):
        faults.append(f"upstream {name}: background must be true or false (on or off in UPSTREAM_BACKGROUND)")
    elif background and not (isinstance(speaks, list) and "responses" in speaks):
        faults.append(f"upstream {name}: background goes with speaks = ['responses'], the API that has it")
    if not isinstance(table.get("account_ids", False), bool):
        faults.append(f"upstream {name}: account_ids must be true or false (on or off in UPSTREAM_ACCOUNT_IDS)")
    if "prices" in table:
        faults += [f"upstream {name}: {fault}" for fault in faults_of(table["prices"])]
    for key in _DEADLINES:
        value = table.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_SECONDS:
            faults.append(f"upstream {name}: {key} must be a number of seconds above 0")
    return faults


def _auth_faults(name: str, table: Mapping[str, Any]) -> list[str]:
    faults = []
    auth, keyed = table.get("auth", Auth.BEARER), "key_env" in table
    if not isinstance(auth, str) or not (auth in list(Auth) or _HEADER.fullmatch(auth)):
        faults.append(f"upstream {name}: auth is {_either(Auth)}, or the name of the header that has the key")
    elif auth in _KEYLESS:
        if keyed:
            faults.append(f"upstream {name}: auth = '{auth}' sends tokens of the service's account: it needs no key")
    elif auth != Auth.BEARER and not keyed:
        faults.append(f"upstream {name}: auth = '{auth}' needs key_env, the name of the variable that has the key")
    for key in ("headers", "query"):
        pairs = table.get(key, {})
        if not isinstance(pairs, dict) or not all(_is_pair(*each) for each in pairs.items()):
            faults.append(f"upstream {name}: {key} must be names and texts, such as {{ name = 'value' }}")
        elif key == "headers":
            faults += [
                f"upstream {name}: headers can't have {each}: a key goes with key_env, and the rest is set by the call"
                for each in pairs
                if each.lower() in _NO_FIXED_HEADERS or each.lower() == str(auth).lower()
            ]
    return faults


def _is_pair(name: str, value: Any) -> bool:
    return bool(_NAME.fullmatch(name)) and isinstance(value, str) and value.isascii() and value.isprintable()


def _either(names: Iterable[str]) -> str:
    *others, last = [f"'{name}'" for name in names]
    return f"{', '.join(others)} or {last}"


def is_url(value: str) -> bool:
    """Whether `value` is an http or https URL with a host."""
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _upstream(name: str, table: Mapping[str, Any]) -> Upstream:
    return Upstream(
        name=name,
        base_url=table["base_url"].rstrip("/"),
        models=tuple(table["models"]),
        speaks=tuple(table.get("speaks", ["chat_completions"])),
        key_env=table.get("key_env"),
        auth=table.get("auth", Auth.BEARER),
        headers=tuple(table.get("headers", {}).items()),
        query=tuple(table.get("query", {}).items()),
        usage=Usage(table.get("usage", Usage.ASK)),
        prefill=Prefill(table.get("prefill_style", Prefill.OPENROUTER)) if "continue" in table else None,
        background=table.get("background", False),
        account_ids=table.get("account_ids", False),
        prices=read_prices(table.get("prices", {})),
        deadlines=Deadlines(**{field: float(table[key]) for key, field in _DEADLINES.items() if key in table}),
    )
