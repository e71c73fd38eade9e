"""A fork of the warm Python can't be told from a Python of its own, and ends as one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from local.process import Process, spawn
from tests.started import started
from tests.warm import EXPERIMENTS, ROOT, WarmStart

PATIENCE = 60.0
LOOKING = """
import json, os, random, resource, signal, sys
print(json.dumps({
    "name": __name__,
    "arguments": sys.argv,
    "variables": dict(os.environ),
    "folder": os.getcwd(),
    "path": sys.path,
    "imported": [name for name in sys.modules if name.split(".")[0] in ("lib", "local", "main")],
    "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
    "files": {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if int(name) < 3},
    "open": len(os.listdir("/proc/self/fd")),
    "threads": len(os.listdir("/proc/self/task")),
    "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
    "masked": str(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
    "buffered": [sys.stdout.line_buffering, sys.stderr.line_buffering, sys.stdout.write_through],
    "read": sys.stdin.read(),
}))
"""
ENDS = {"pass": 0, "raise SystemExit(3)": 3, "1 / 0": 1, "import os; os.kill(os.getpid(), 9)": -9}


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmStart]:
    with closing(WarmStart(spawn)) as start:
        yield start


def run(start: Any, folder: Path, source: str, **variables: str) -> tuple[int, str]:
    """The exit code of a module, and what it printed."""
    (folder / "module.py").write_text(source)
    with (folder / "output").open("wb") as output:
        command = [sys.executable, "-m", "module", "--some", "argument"]
        environ = {name: value for name, value in os.environ.items() if name != "PATH"}
        process = start(command, {**environ, **variables}, folder, output)
    return process.wait(PATIENCE), (folder / "output").read_text()


def test_a_fork_finds_what_a_process_of_its_own_finds(warm: WarmStart, tmp_path: Path) -> None:
    found = [json.loads(run(start, tmp_path, LOOKING, SOME="variable")[1]) for start in (spawn, warm)]
    assert found[1] == found[0]
    assert found[1]["variables"]["SOME"] == "variable"


@pytest.mark.parametrize("source", ENDS)
def test_a_fork_ends_as_a_process_of_its_own(warm: WarmStart, tmp_path: Path, source: str) -> None:
    usual, forked = (run(start, tmp_path, source) for start in (spawn, warm))
    assert usual[0] == forked[0] == ENDS[source]
    assert usual[1].splitlines()[-1:] == forked[1].splitlines()[-1:]


def test_forks_draw_other_random_numbers(warm: WarmStart, tmp_path: Path) -> None:
    assert len({run(warm, tmp_path, "import random; print(random.random())")[1] for _ in range(3)}) == 3


def test_waiting_for_a_fork_has_a_bound(warm: WarmStart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Process, "start", warm)
    (tmp_path / "module.py").write_text("print('ready', flush=True)\nimport time\ntime.sleep(3600)")
    process = Process("part", [sys.executable, "-m", "module"], os.environ, tmp_path, tmp_path)
    process.wait_until(lambda: process.printed == "ready\n", PATIENCE)
    assert process.running
    with pytest.raises(subprocess.TimeoutExpired):
        process._process.wait(0.01)
    process.kill()
    assert process._process.returncode == -signal.SIGKILL


def test_what_reads_other_variables_early_is_no_fork(warm: WarmStart, tmp_path: Path) -> None:
    code, printed = run(warm, tmp_path, "import sys; print(sys.flags.dev_mode)", PYTHONDEVMODE="1")
    assert (code, printed) == (0, "True\n")


def test_a_command_that_is_no_python_module_is_no_fork(warm: WarmStart, tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as output:
        process = warm(["/bin/echo", "done"], os.environ, tmp_path, output)
    assert process.wait(PATIENCE) == 0
    assert (tmp_path / "output").read_text() == "done\n"


def test_forks_end_when_their_starter_is_killed(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("import time; time.sleep(3600)")
    starter = (
        "import os, pathlib, sys, time; from local.process import spawn; from tests.warm import WarmStart\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "process = WarmStart(spawn)([sys.executable, '-m', 'module'], os.environ, folder, open(os.devnull, 'wb'))\n"
        "print(process.pid, flush=True); time.sleep(3600)"
    )
    with started([sys.executable, "-c", starter, str(tmp_path)], cwd=ROOT) as process:
        assert process.stdout is not None
        fork = psutil.Process(int(process.stdout.readline()))
        process.kill()
    fork.wait(PATIENCE)


def test_grpc_is_imported_with_what_the_functions_set_before() -> None:
    ((name, value),) = EXPERIMENTS.items()
    assert f'os.environ.setdefault("{name}", "{value}")' in (ROOT / "main.py").read_text()
