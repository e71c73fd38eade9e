"""A part of the local stack can be paused, and neither that nor a killed parent leaves it running."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from local.process import Process
from tests.started import started

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
GROUP = ["/bin/sh", "-c", "sleep 3600 & echo ready; wait"]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process("group", GROUP, os.environ, tmp_path, ROOT)
    process.wait_until(lambda: process.printed == "ready\n", PATIENCE)
    yield process
    process.kill()


def members(process: Process) -> list[psutil.Process]:
    leader = psutil.Process(process.pid)
    return [leader, *leader.children(recursive=True)]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def all_stopped(group: list[psutil.Process]) -> bool:
    return all(each.status() == psutil.STATUS_STOPPED for each in group)


def test_a_group_that_is_paused_stands_still_until_it_is_resumed(process: Process) -> None:
    group = members(process)
    assert len(group) == 2
    process.pause()
    wait_for(lambda: all_stopped(group))
    process.resume()
    wait_for(lambda: not any(each.status() == psutil.STATUS_STOPPED for each in group))
    assert process.running
    process.resume()  # there is nothing to do


def test_a_group_can_be_killed_while_it_is_paused(process: Process) -> None:
    group = members(process)
    process.pause()
    process.kill()
    assert not process.running
    assert not psutil.wait_procs(group, timeout=PATIENCE)[1]


def test_a_group_that_is_paused_when_its_parent_is_killed_ends(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys, time\n"
        "from local.process import Process\n"
        f"process = Process('group', {GROUP!r}, os.environ, pathlib.Path(sys.argv[1]), pathlib.Path('.'))\n"
        "process.wait_until(lambda: process.printed == 'ready\\n', 20)\n"
        "process.pause()\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(3600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with started(command, cwd=ROOT) as parent:
        assert parent.stdout is not None
        leader = psutil.Process(int(parent.stdout.readline()))
        group = [leader, *leader.children(recursive=True)]
        wait_for(lambda: all_stopped(group))
        parent.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs(group, timeout=PATIENCE)[1]


def test_what_one_of_the_same_name_printed_is_kept_and_not_taken_for_the_next_one_s(tmp_path: Path) -> None:
    for word in ("first", "second"):
        process = Process("speaker", ["/bin/echo", word], os.environ, tmp_path, ROOT)
        wait_for(lambda process=process: not process.running)
        assert process.printed == f"{word}\n"
        process.kill()
    assert process.log.read_text() == "first\nsecond\n"
