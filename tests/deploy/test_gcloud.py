"""Gives deploy.sh's command lines to the real gcloud, which parses a command before it checks the login.

Without a login, it exits with 2 for an invalid command, and with 1 and a message about the account for a valid one.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.cloud import DEPLOYED, ROOT, Cloud, Done, real_gcloud
from tests.deploy.test_organisation import KEY

SECONDS = 300.0
VERBS = {
    *("list", "describe", "create", "update", "delete", "enable", "deploy", "add", "access"),
    *(
        "create-http-task",
        "get-iam-policy",
        "add-iam-policy-binding",
        "remove-iam-policy-binding",
        "update-traffic",
        "print-access-token",
    ),
}
Gcloud = Callable[..., subprocess.CompletedProcess[str]]
MANY = Path(__file__).with_name("gclouds.py")


@pytest.fixture(scope="module")
def gcloud(tmp_path_factory: pytest.TempPathFactory) -> Gcloud:
    """The real one, where nobody is logged in."""
    folder = tmp_path_factory.mktemp("gcloud")
    found = real_gcloud(folder)
    if found is None:
        pytest.skip("There is no gcloud on this machine, so nothing can be shown to it.")
    program, environ = found

    def run(*words: str, cwd: Path = folder, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *words],
            cwd=cwd,
            env={**environ, **more},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )

    return run


def shape(call: Sequence[str]) -> tuple[str, ...]:
    """A call without its values and names: two of a shape are read alike."""
    words = [word for word in call if not word.startswith("--")]
    ends = max(at for at, word in enumerate(words) if word in VERBS) + 1
    flags = [word.partition("=")[0] for word in call if word.startswith("--")]
    return (*words[:ends], *(word for word in words[ends:] if word == "*"), *sorted(set(flags)))


def test_a_line_that_gcloud_can_not_read_is_told_from_one_that_it_can(gcloud: Gcloud) -> None:
    lines = [
        ["tasks", "queues", "create", "q", "--location=us-central1", "--max-attempt=many"],
        ["run", "deploy", "--no-such-flag"],
        ["run", "services", "list"],
    ]
    alone = [gcloud(*line) for line in lines]
    assert [each.returncode for each in alone] == [2, 2, 1]
    # A fork that reads many says the same as a gcloud of one's own.
    assert read_by(gcloud, lines) == [[each.returncode, each.stdout, each.stderr] for each in alone]


def test_the_real_gcloud_reads_every_line(gcloud: Gcloud, first: tuple[Done, dict[str, Any]], live: Cloud) -> None:
    changed = {"WORKER_CONCURRENCY": "50", "UPSTREAM_API_KEY": "sk-another", "UPSTREAM_MODELS": "a,b"}
    state = live.state
    live.change(worker=500)
    refused = live.run()
    assert any(call[:2] == ["tasks", "delete"] for call in refused.calls)
    live.state = state
    organisation = {"PUBLIC": "no-check", "INGRESS": "internal", "VPC": "net,subnet", "KMS_KEY": KEY}
    runs = [
        first[0],
        live.run("--canary=10", **changed),
        live.run("--canary=100", **changed),
        live.run("destroy", "--yes", "--delete-data"),
        live.run(FIRESTORE_DATABASE="other", **organisation),
    ]
    for done in runs:
        assert done.code == 0, done.err
    calls = {shape(call): call for done in [*runs, refused] for call in done.calls}
    answers = read_by(gcloud, list(calls.values()))
    unread = {
        " ".join(call): error
        for call, (code, _, error) in zip(calls.values(), answers, strict=True)
        if code != 1 or "active account" not in error
    }
    assert unread == {}
    assert len(calls) > 40


def read_by(gcloud: Gcloud, calls: Sequence[Sequence[str]]) -> list[tuple[int, str, str]]:
    """The exit code, stdout and stderr of each call."""
    # What a file on stdin holds is read before the login is checked.
    given = ['{"automatic": {}}' if "--replication-policy-file=-" in call else "" for call in calls]
    asked = json.dumps(list(zip(calls, given, strict=True)))
    # By its name, since gcloud divides this at spaces. Where Python goes without site, gcloud would add -S behind it.
    done = gcloud(stdin=asked, cwd=MANY.parent, CLOUDSDK_PYTHON_ARGS=f"-S {MANY.name}")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_upload_holds_what_runs_and_nothing_else(gcloud: Gcloud, cloud: Cloud) -> None:
    for name in (
        "deploy.env",
        "upstreams.toml",
        "key.json",
        "lib/notes.md",
        "deploy/main.py",
        "tests/main.py",
        "clients/js/src/main.py",
        ".venv/lib/x.py",
    ):
        (cloud.root / name).parent.mkdir(parents=True, exist_ok=True)
        (cloud.root / name).touch()
    listed = gcloud("meta", "list-files-for-upload", ".", cwd=cloud.root)
    assert listed.returncode == 0, listed.stderr
    deployed = {"main.py", "requirements.txt", "upstreams.toml"}
    assert DEPLOYED == ("main.py", "lib", "requirements.txt")
    deployed |= {str(path.relative_to(ROOT)) for path in (ROOT / "lib").rglob("*.py")}
    assert sorted(listed.stdout.split()) == sorted(deployed)


def test_a_build_s_upload_holds_what_its_tests_need(gcloud: Gcloud) -> None:
    """`gcloud builds submit` has to be given another list, as docs/deploy.md says: by its own it would get none."""
    submit = "gcloud builds submit --ignore-file=.gitignore --config=cloudbuild.yaml"
    assert submit in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    patterns = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert not {"tests/", "local/", "Makefile", "deploy.sh", "deploy.env"} & set(patterns)


def test_the_real_gcloud_reads_the_build(gcloud: Gcloud, tmp_path: Path) -> None:
    """It knows of keys that the schema lets pass, and of substitutions that nothing uses."""
    read = gcloud("builds", "submit", "--no-source", f"--config={ROOT / 'cloudbuild.yaml'}", "--project=demo-holdfast")
    assert read.returncode == 1
    assert "active account" in read.stderr
    text = (ROOT / "cloudbuild.yaml").read_text(encoding="utf-8")
    (tmp_path / "wrong.yaml").write_text(text.replace("timeout:", "timeouts:"), encoding="utf-8")
    wrong = gcloud("builds", "submit", "--no-source", f"--config={tmp_path / 'wrong.yaml'}", "--project=demo-holdfast")
    assert "timeouts: unused" in wrong.stderr
