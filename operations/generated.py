"""The generated parts of a page, each between `<!-- name: … -->` and `<!-- end of name -->`."""

from __future__ import annotations

import re
from pathlib import Path


class NoSuchPart(Exception):
    """A page does not have exactly one pair of marks for a part. The message says where."""


def part(page: Path, name: str) -> str:
    """The current text of a part. Errors: `NoSuchPart`."""
    return _split(page, name)[1]


def put(page: Path, name: str, text: str) -> None:
    """Replaces the text of a part. Errors: `NoSuchPart`."""
    before, _, after = _split(page, name)
    page.write_text(f"{before}{text}{after}", encoding="utf-8")


def _split(page: Path, name: str) -> tuple[str, str, str]:
    pattern = rf"(.*<!-- {name}: [^\n]*-->\n)(.*)(\n<!-- end of {name} -->.*)"
    found = re.fullmatch(pattern, page.read_text(encoding="utf-8"), re.DOTALL)
    if not found or len(re.findall(rf"<!-- (?:{name}: |end of {name} )", found.string)) != 2:
        raise NoSuchPart(f"{page}: it must have one line <!-- {name}: … --> and, below, one <!-- end of {name} -->")
    return found.group(1), found.group(2), found.group(3)
