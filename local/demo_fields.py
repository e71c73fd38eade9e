"""Checks of the fields of a request to the demo upstream. Each takes a field's name and value.

Unknown names and values out of range are rejected and never ignored, because with a misspelt fault a test would pass
without testing anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from local.demo_text import Json

Check = Callable[[str, Any], Any]


class BadField(ValueError):
    """A field is unknown or has an invalid value. `param` is its name."""

    def __init__(self, param: str, problem: str):
        super().__init__(f"{param}: {problem}")
        self.param = param


def whole(low: int, high: int) -> Check:
    """Returns a check for an integer."""

    def check(name: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise BadField(name, f"must be a whole number from {low} to {high}, not {shown(value)}")
        return value

    return check


def number(low: float, high: float) -> Check:
    """Returns a check for a number."""

    def check(name: str, value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise BadField(name, f"must be a number from {low:g} to {high:g}, not {shown(value)}")
        return float(value)

    return check


def switch(when_true: int, high: int) -> Check:
    """Returns a check for a count that may be given as true or false."""

    def check(name: str, value: Any) -> int:
        if value is True or value is False:
            return when_true if value else 0
        return int(whole(0, high)(name, value))

    return check


def flag(name: str, value: Any) -> bool:
    """Checks for true or false, and rejects everything else that is truthy or falsy."""
    if type(value) is not bool:
        raise BadField(name, f"must be true or false, not {shown(value)}")
    return value


def line(name: str, value: Any) -> str:
    """Checks for a short text that fits into an HTTP header."""
    if not isinstance(value, str) or not 0 < len(value) <= 500 or not value.isprintable():
        raise BadField(name, f"must be one line of 1 to 500 characters, not {shown(value)}")
    return value


def one_of(*names: str) -> Check:
    """Returns a check for one of some names."""

    def check(name: str, value: Any) -> str:
        if value not in names:
            raise BadField(name, f"must be one of {', '.join(names)}, not {shown(value)}")
        return str(value)

    return check


def seed(name: str, value: Any) -> str:
    """Checks for a seed: a text, or an integer, which is converted to decimal."""
    return line(name, str(value) if type(value) is int else value)


def shown(value: Any) -> str:
    """A value as JSON, cut to what fits into a message."""
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


def checked(given: Any, checks: Mapping[str, Check], name: str) -> Json:
    """Checks an object's fields. A null counts as missing, and an unknown field is an error."""
    if not isinstance(given, dict):
        raise BadField(name, f"must be an object, not {shown(given)}")
    for field in given:
        if field not in checks:
            raise BadField(f"{name}.{field}", f"unknown; {name} has {', '.join(sorted(checks))}")
    return {field: checks[field](f"{name}.{field}", value) for field, value in given.items() if value is not None}
