"""Every gcloud command in docs/operations.md is valid: the real gcloud parses it, and then asks for a login."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
WAIT_SECONDS = 120.0


def commands() -> list[str]:
    """Those in blocks of shell, and those in a line of text; but no log-in, which is all that it does."""
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)).replace("\\\n", "")
    inline = re.findall(r"(?<!`)`(gcloud [^`]+)`", PAGE)
    return sorted({line for line in (*blocks.splitlines(), *inline) if re.match(r"gcloud (?!auth )", line)})


def test_the_page_has_its_commands() -> None:
    assert len(commands()) > 15


@pytest.mark.skipif(not shutil.which("gcloud"), reason="There is no gcloud, whose parser this asks.")
@pytest.mark.parametrize("command", commands())
def test_gcloud_knows_the_command_and_its_flags(command: str, tmp_path: Path) -> None:
    own = {"CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1", "CLOUDSDK_CORE_PROJECT": "demo"}
    own["CLOUDSDK_CORE_CHECK_GCE_METADATA"] = "0"  # on a machine of Google's it would find a login there
    done = subprocess.run(
        ["bash", "-euc", f"NAME=holdfast REGION=us-central1\n{command}"],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "active account" in done.stderr
