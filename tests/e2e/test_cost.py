"""`make cost` with short answers: everything is counted, priced, saved and plotted."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from cost.__main__ import SHORT
from operations import generated

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 300.0


def rows(said: str) -> list[dict[str, str]]:
    """Every row of every table, by the names in the table's head."""
    found = []
    for head, _rule, *lines in (re.findall(r"^\|.*\|$", block, re.M) for block in said.split("\n\n") if "|" in block):
        names = [cell.strip() for cell in head.split("|")[1:-1]]
        found += [dict(zip(names, (cell.strip() for cell in line.split("|")[1:-1]), strict=True)) for line in lines]
    return found


def test_every_answer_is_counted_priced_written_down_and_drawn(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "cost.md", tmp_path)
    command = [sys.executable, "-m", "cost", "--short", "--docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    there = rows(done.stdout)
    lengths, viewers, _ = SHORT
    assert len(there) == 2 * (len(lengths) * len(viewers) + 1)
    for row in there:
        if "total" not in row:
            counted = {name: float(value.replace(",", "")) for name, value in row.items() if name != "viewers"}
            # Generation, message and head: each when it is asked for, when it is claimed and when it ends.
            assert counted["writes"] >= 9
            assert counted["reads"] >= 3
            assert counted["deletes"] == 2  # the generation and the head, by TTL
            assert counted["task ops"] == 2
            assert min(counted["worker s"], counted["api s"], counted["KiB that expire"], counted["KiB that stay"]) > 0
            assert (counted["KiB sent"] > 0) == (row["viewers"] != "0")
        else:
            assert float(row["total"]) > 0
    said = done.stdout.partition("\n\n")[2].strip()
    assert generated.part(tmp_path / "cost.md", "counted") == said
    assert ElementTree.parse(tmp_path / "cost.svg").getroot().tag.endswith("svg")


def test_a_price_table_that_is_wrong_is_told_before_anything_is_started(tmp_path: Path) -> None:
    bad = tmp_path / "prices.toml"
    bad.write_text("date = 1\n", encoding="utf-8")
    command = [sys.executable, "-m", "cost", "--short", "--prices", str(bad)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "prices.toml: [firestore]: there must be such a table" in done.stderr.splitlines()
