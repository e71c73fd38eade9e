"""As much of Cloud Logging's query language as this project's metrics use, over the lines that the functions print.

Unknown syntax is an error, so that no filter passes because it was ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Test = Callable[[Json], bool]

_RESOURCE = 'resource.type="cloud_run_revision"'  # what a function's line is of
_EQUAL = re.compile(r'jsonPayload\.(\w+)=(?:"([^"]+)"|\(("[^"]+"(?: OR "[^"]+")+)\))')
_NUMBER = re.compile(r"jsonPayload\.(\w+)>=(\d+)")
_PRESENT = re.compile(r"jsonPayload\.(\w+):\*")
_EXTRACT = re.compile(r"EXTRACT\(jsonPayload\.(\w+)\)")
_SEVERITIES = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def matches(query: str) -> Test:
    """Whether a line is one that the query finds."""
    resource, *parts = query.split(" AND ")
    assert resource == _RESOURCE, query
    tests = [_test(part) for part in parts]
    return lambda line: all(test(line) for test in tests)


def _test(part: str) -> Test:
    if found := _EQUAL.fullmatch(part):
        name, one, several = found.groups()
        values = [one] if one else re.findall(r'"([^"]+)"', several)
        return lambda line: line.get(name) in values
    if found := _NUMBER.fullmatch(part):
        name, least = found[1], int(found[2])
        return lambda line: type(line.get(name)) in (int, float) and line[name] >= least
    if found := _PRESENT.fullmatch(part):
        name = found[1]
        return lambda line: line.get(name) is not None
    if part == "severity>=ERROR":
        return lambda line: _SEVERITIES.index(line["severity"]) >= _SEVERITIES.index("ERROR")
    raise AssertionError(f"not understood: {part}")


def extracted(extractor: str, line: Json) -> Any:
    """What an extractor takes out of a line."""
    found = _EXTRACT.fullmatch(extractor)
    assert found, extractor
    return line.get(found[1])
