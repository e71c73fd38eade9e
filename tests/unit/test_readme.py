"""What the README says of the settings is what they are."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from pathlib import Path

from lib.settings import Settings

README = Path(__file__).resolve().parent.parent.parent / "README.md"


def table() -> str:
    rows = ["| variable | unless set | what it is |", "|---|---|---|"]
    for each in fields(Settings):
        if each.metadata:
            default = each.metadata["default"]
            rows.append(f"| `{each.metadata['variable']}` | {shown(default)} | {each.metadata['about']} |")
    return "\n".join(rows)


def shown(default: object) -> str:
    if default is ...:
        return "must be set"
    if default is None:
        return "none"
    if isinstance(default, tuple):
        return f"`{','.join(default)}`"
    if isinstance(default, timedelta):
        return f"`{default.days}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def test_the_settings_table_is_the_settings() -> None:
    _, _, rest = README.read_text(encoding="utf-8").partition("<!-- settings: made from lib/settings.py -->\n")
    there, _, _ = rest.partition("\n<!-- end of settings -->")
    assert there == table()
