"""The parts of a page that are made from something else, each between `<!-- name: … -->` and `<!-- end of name -->`."""

from __future__ import annotations

import re
from pathlib import Path


class NoSuchPart(Exception):
    """A page has not, or not once, the two marks of a part; the message says where."""


def part(page: Path, name: str) -> str:
    """What is there now. Errors: `NoSuchPart`."""
    return _split(page, name)[1]


def put(page: Path, name: str, text: str) -> None:
    """Puts `text` in its place. Errors: `NoSuchPart`."""
    before, _, after = _split(page, name)
    page.write_text(f"{before}{text}{after}", encoding="utf-8")


def _split(page: Path, name: str) -> tuple[str, str, str]:
    pattern = rf"(.*<!-- {name}: [^\n]*-->\n)(.*)(\n<!-- end of {name} -->.*)"
    found = re.fullmatch(pattern, page.read_text(encoding="utf-8"), re.DOTALL)
    if not found or len(re.findall(rf"<!-- (?:{name}: |end of {name} )", found.string)) != 2:
        raise NoSuchPart(f"{page}: it must have one line <!-- {name}: … --> and, below, one <!-- end of {name} -->")
    return found.group(1), found.group(2), found.group(3)
