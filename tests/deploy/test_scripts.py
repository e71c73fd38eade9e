"""deploy.sh is a list of steps: what they need is in deploy/, in files that are small and that shellcheck has read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.deploy.cloud import ROOT

SCRIPT = (ROOT / "deploy.sh").read_text(encoding="utf-8")
MOST_LINES = 250
CHECK = "shellcheck -x -a deploy.sh"  # which reads what is sourced, too


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_every_file_is_small() -> None:
    files = [ROOT / "deploy.sh", *(ROOT / "deploy").glob("*.sh"), *(ROOT / "deploy").glob("*.py")]
    assert {path.name: lines(path) for path in files if lines(path) > MOST_LINES} == {}


def test_every_file_is_sourced_and_so_shellchecked() -> None:
    sourced = re.findall(r"^\. (deploy/\w+\.sh)$", SCRIPT, re.M)
    assert sorted(sourced) == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "deploy").glob("*.sh"))
    assert f".venv/bin/{CHECK}" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_shellcheck_has_nothing_to_say() -> None:
    program = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run(
        [str(program), *CHECK.split()[1:]], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
