"""Firestore's security rules, as the Firebase Rules API has them.

https://firebase.google.com/docs/reference/rules/rest
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

from deploy.resources import read
from operations.rules import rules_for

# What a database has that nobody has written rules for: they deny everything.
# https://firebase.google.com/docs/firestore/security/get-started
NOBODYS = re.compile(
    r"(rules_version='2';)?servicecloud\.firestore\{match/databases/\{\w+\}/documents\{"
    r"(match/\{\w+=\*\*\}\{allowread,write:iffalse;\})?\}\}"
)


def release(name: str) -> Iterator[str]:
    """The ruleset of a release, if there is one."""
    for each in dict(read()).get("releases", []):
        if each["name"] == name:
            yield each["rulesetName"]


def compared(name: str) -> Iterator[str]:
    """Whose rules these are: the `same`, an earlier version of `ours`, `nobodys` or `theirs`."""
    files = read()["source"]["files"]
    contents = [file["content"] for file in files]
    if contents == [_text()]:
        yield "same"
    elif files[0]["name"] == name:
        yield "ours"
    else:
        yield "nobodys" if all(NOBODYS.fullmatch(_without_comments(each)) for each in contents) else "theirs"


def ruleset(name: str) -> Iterator[str]:
    """The request that creates a ruleset."""
    yield json.dumps({"source": {"files": [{"name": name, "content": _text()}]}})


def name(otherwise: str) -> Iterator[str]:
    """The name of what was made."""
    yield dict(read()).get("name", otherwise)


def _text() -> str:
    return rules_for(os.environ)


def _without_comments(content: str) -> str:
    return "".join(re.sub(r"//[^\n]*|/\*.*?\*/", "", content, flags=re.S).split()).replace('"', "'")
