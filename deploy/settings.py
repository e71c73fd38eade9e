"""The settings: what they are, whether they fit together, and what of them a function is deployed with."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from lib.domain.errors import ConfigurationError
from lib.runtime import catalog
from lib.runtime.settings import Settings

UPSTREAM = (
    *(
        f"UPSTREAM_{name}"
        for name in ("ACCOUNT_IDS", "AUTH", "BACKGROUND", "BASE_URL", "CONTINUE", "HEADERS", "MODELS")
    ),
    *(f"UPSTREAM_{name}" for name in ("PREFILL_STYLE", "PRICES", "QUERY", "SPEAKS", "USAGE")),
    "UPSTREAMS_FILE",
)
DEFAULTS = {"TASKS_LOCATION": "REGION", "TASKS_QUEUE": "HOLDFAST_NAME"}  # deploy.sh's, by the variable they are of
UPLOADED = ("main.py", "requirements.txt", "upstreams.toml", "lib/**/*.py")


def described(*without: str) -> Iterator[str]:
    """A line of help for each variable of the functions, but those."""
    for each in _variables():
        if (name := each["variable"]) in without:
            continue
        default = DEFAULTS.get(name, each["default"])
        days = f"{default.days}" if hasattr(default, "days") else default
        shown = ",".join(days) if isinstance(days, tuple) else days
        shown = f"{shown:g}" if isinstance(shown, float) else shown
        yield f"  {name:<27} {each['about']} {shown} unless set."


def keys() -> Iterator[str]:
    """The variables that secrets are in, in one line: the upstreams' keys, and the webhook's secrets."""
    environ = {**os.environ, "UPSTREAM_API_KEY": os.environ.get("UPSTREAM_API_KEY") or "kept"}
    if environ["UPSTREAM_API_KEY"] == "none":
        del environ["UPSTREAM_API_KEY"]
    try:
        upstreams = catalog.load(environ)
    except ConfigurationError as error:
        sys.exit(str(error))
    names = sorted({key for _, name in upstreams.models() if (key := upstreams[name].key_env)})
    if os.environ.get("WEBHOOK_URL", "").strip():
        names.append("WEBHOOK_SECRETS")
    for key in names:
        if not (key.isascii() and key.isidentifier() and key.isupper()):
            sys.exit(f"UPSTREAMS_FILE: key_env must be a name such as OPENAI_API_KEY, and is '{key}'")
    yield " ".join(names)


def environment(most: str | None = None) -> Iterator[str]:
    """The functions' variables, as `--set-env-vars=^|^…` takes them. A response must end before `most` seconds."""
    current = _settings()
    names = [each["variable"] for each in _variables()] + list(UPSTREAM)
    values = {name: os.environ[name] for name in names if os.environ.get(name, "").strip()}
    faults = [f"{name}: it must have no '|' and no line break" for name in values if set("|\n") & set(values[name])]
    longest = current.response_seconds + current.status_wait_seconds + current.send_seconds
    if most is not None and longest >= float(most):
        faults.append(f"RESPONSE_SECONDS: with STATUS_WAIT_SECONDS and SEND_SECONDS it must be below {most}")
    if faults:
        sys.exit("\n".join(faults))
    yield "|".join(f"{name}={value}" for name, value in values.items())


def model() -> Iterator[str]:
    """A model to show a request with."""
    names = [name for name, _ in _settings().catalog.models() if not name.endswith("*")]
    yield names[0] if names else "MODEL"


def digest(*flags: str) -> Iterator[str]:
    """A mark of what is deployed: the flags, and the files that are uploaded."""
    digest = hashlib.sha256(json.dumps(flags).encode())
    for path in sorted(str(path) for pattern in UPLOADED for path in Path().glob(pattern)):
        digest.update(json.dumps([path, Path(path).read_text(encoding="utf-8")]).encode())
    yield digest.hexdigest()[:40]


def _settings() -> Settings:
    try:
        return Settings.from_env(os.environ)
    except ConfigurationError as error:
        sys.exit(str(error))


def _variables() -> list[Any]:
    return [field.metadata for field in fields(Settings) if field.metadata]
