"""Checks the deployed packages for known vulnerabilities: `python -m operations.audit`, a part of `make test`.

pip-audit asks PyPI for the advisories on each version in requirements.txt. Any advisory is a failure. If PyPI can't be
reached, it says what was not audited and succeeds, because a machine without a network must be able to run the tests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DEPLOYED = Path(__file__).resolve().parents[1] / "requirements.txt"
SECONDS = 60.0
_ANSWER_SECONDS = 10
# In pip-audit's last line if the service failed: its own errors, and those that it does not catch.
_UNREACHABLE = re.compile(r"requests\.exceptions\.|urllib3\.exceptions\.|_service\.interface\.|network may be blocking")


def audit(requirements: Path = DEPLOYED, options: Sequence[str] = (), seconds: float = SECONDS) -> tuple[int, str]:
    """The exit status, which is 1 if there is a vulnerability or pip-audit failed, and the message."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--require-hashes"]
    command += ["--disable-pip", "--format=json", "--progress-spinner=off", f"--timeout={_ANSWER_SECONDS}", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return 0, f"Nothing was audited: PyPI did not answer within {seconds:g} s."
    try:
        return _verdict(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if _UNREACHABLE.search(last):
        return 0, f"Nothing was audited: PyPI could not be asked ({last[:200]})."
    return 1, f"pip-audit failed:\n{done.stderr.strip()}"


def _verdict(dependencies: Sequence[dict[str, Any]]) -> tuple[int, str]:
    skipped = [each["name"] for each in dependencies if "skip_reason" in each]
    found = [
        f"{each['name']} {each['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'none yet'}"
        for each in dependencies
        for flaw in each.get("vulns", ())
    ]
    if len(skipped) == len(dependencies):
        return 0, f"Nothing was audited: PyPI gave no advisories for any of the {len(dependencies)} packages."
    audited = f"{len(dependencies) - len(skipped)} of the {len(dependencies)} deployed packages were audited"
    if skipped:
        audited += f" (not {', '.join(skipped)})"
    if found:
        return 1, "\n".join([f"{audited}, with vulnerabilities:", *found, "Raise them: see CONTRIBUTING.md."])
    return 0, f"{audited}, and no vulnerability is known."


if __name__ == "__main__":
    status, said = audit()
    print(said, file=sys.stderr if status else sys.stdout)
    sys.exit(status)
