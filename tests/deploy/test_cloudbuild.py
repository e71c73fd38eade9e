"""The build: lint, tests, then deploy.sh, with its own account and logs only in Cloud Logging."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.cloud import PROJECT, ROOT, Cloud

FILE = ROOT / "cloudbuild.yaml"
TEXT = FILE.read_text(encoding="utf-8")
BUILD: dict[str, Any] = yaml.safe_load(TEXT)
GIVEN = {"PROJECT_ID"}  # substitutions that every build has


def valid(path: Path) -> bool:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.cloudbuild", str(path)]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


def test_it_has_the_shape_of_a_build(tmp_path: Path) -> None:
    assert valid(FILE)
    (tmp_path / "wrong.yaml").write_text(TEXT.replace("entrypoint:", "entry_point:"), encoding="utf-8")
    assert not valid(tmp_path / "wrong.yaml")


def test_it_lints_then_tests_then_deploys() -> None:
    lint, test, deploy = BUILD["steps"]
    assert [step["id"] for step in (lint, test, deploy)] == ["lint", "test", "deploy"]
    assert "\nmake lint\n" in lint["script"]
    assert "make test\n" in test["script"]
    assert deploy["entrypoint"] == "./deploy.sh"
    assert not any("waitFor" in step or "allowFailure" in step for step in BUILD["steps"])


@pytest.mark.parametrize("step", [step["id"] for step in BUILD["steps"] if "script" in step])
def test_a_step_s_script_ends_where_a_command_of_it_fails(step: str) -> None:
    (script,) = [each["script"] for each in BUILD["steps"] if each["id"] == step]
    assert script.startswith("#!/usr/bin/env bash\n")
    lines = script.strip().splitlines()[1:]
    assert lines[0] == "set -euo pipefail" or len(lines) == 1
    subprocess.run(["bash", "-n"], input=script, encoding="utf-8", check=True)


def test_it_runs_as_its_own_account_and_logs_to_cloud_logging_alone() -> None:
    assert BUILD["serviceAccount"].endswith("/serviceAccounts/${_ACCOUNT}@$PROJECT_ID.iam.gserviceaccount.com")
    assert BUILD["options"]["logging"] == "CLOUD_LOGGING_ONLY"
    assert "logsBucket" not in BUILD


def test_every_substitution_is_there_and_used_so_that_none_need_be_let_pass() -> None:
    declared = set(BUILD["substitutions"])
    used = set(re.findall(r"(?<!\$)\$\{?([A-Z_][A-Z0-9_]*)", TEXT.split("\nsteps:\n")[0].split("substitutions:")[0]))
    used |= set(re.findall(r"(?<!\$)\$\{?([A-Z_][A-Z0-9_]*)", TEXT.split("\nsteps:\n")[1]))
    assert used == declared | GIVEN
    assert "substitutionOption" not in BUILD["options"]


def test_the_deploying_step_is_one_that_deploy_sh_takes(cloud: Cloud) -> None:
    """With nothing but what the step gives it, and what is in deploy.env."""
    step = BUILD["steps"][-1]
    values = {**BUILD["substitutions"], "PROJECT_ID": PROJECT}

    def filled(text: str) -> str:
        return re.sub(r"\$\{?([A-Z_]+)\}?", lambda found: values[found[1]], text)

    (cloud.root / "deploy.env").write_text(
        "UPSTREAM_BASE_URL=https://api.example/v1\nUPSTREAM_MODELS=*\n", encoding="utf-8"
    )
    settings = dict(filled(each).split("=", 1) for each in step["env"])
    done = cloud.run("--dry-run", *map(filled, step["args"]), settings=settings)
    assert (done.code, done.err) == (0, "")
    assert f"--project={PROJECT}" in done.out
    assert "stands in" not in done.out


def test_no_step_has_a_key() -> None:
    assert "KEY=" not in TEXT
    assert "availableSecrets" not in BUILD


def test_what_a_build_runs_can_be_run() -> None:
    assert (ROOT / "deploy.sh").stat().st_mode & 0o111
    assert (ROOT / "local" / "setup.sh").stat().st_mode & 0o111
