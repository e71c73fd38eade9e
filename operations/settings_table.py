"""Generates the table of settings in docs/operations.md from `Settings`: `python -m operations.settings_table`."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from pathlib import Path

from lib.runtime.settings import Settings
from operations import generated

UNITS = {"SECONDS": "s", "BYTES": "bytes", "DAYS": "days"}
PAGE = Path(__file__).resolve().parents[1] / "docs" / "operations.md"


def table() -> str:
    """The settings, in the order of their declaration."""
    rows = ["| variable | default | unit | read by | what it is |", "|---|---|---|---|---|"]
    for each in fields(Settings):
        if about := each.metadata:
            unit = UNITS.get(about["variable"].rpartition("_")[2], "")
            shown = _shown(about["default"])
            rows.append(f"| `{about['variable']}` | {shown} | {unit} | {about['target']} | {about['about']} |")
    return "\n".join(rows)


def _shown(default: object) -> str:
    match default:
        case _ if default is ...:
            return "must be set"
        case None:
            return "none"
        case tuple():
            return f"`{','.join(default)}`"
        case timedelta():
            return f"`{default.days}`"
        case float():
            return f"`{default:g}`"
    return f"`{default}`"


if __name__ == "__main__":
    generated.put(PAGE, "settings", table())
