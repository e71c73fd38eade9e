"""Shared fixtures: the local stack on free ports, started once, and a client."""

from __future__ import annotations

import gc
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest
import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore

from local.client import Client
from local.ports import Ports
from local.process import Process
from local.stack import Stack
from local.strict import Strict
from local.token import PROJECT
from tests.warm import WarmStart

TESTS = Path(__file__).resolve().parent
WAIT_SECONDS = 60.0
MODELS = "demo,gpt-*,claude-*,gemini-*"
STRICT = Strict.from_env(os.environ, default="1")
WORKER_BYTES = 2 << 30  # what a process's stacks take at most: those of the session, of a file, and of a test
_shared: list[Stack] = []  # the session's stack, once a test has asked for it

hypothesis.settings.register_profile("any machine", deadline=None)  # no example is judged by a clock
hypothesis.settings.load_profile("any machine")
gc.disable()  # until the tests are collected: what that makes stays, and looking through it again takes a sixth of it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spreads each folder's files over the run, as those of `deploy` need the CPU and those of `e2e` mostly wait.

    The short ones of `unit` come last, so that all processes end at about the same time.
    """
    files: dict[str, dict[Path, None]] = {}
    for item in items:
        files.setdefault(item.path.relative_to(TESTS).parts[0], {})[item.path] = None
    places = {
        path: number / len(paths) + (folder == "unit")
        for folder, paths in files.items()
        for number, path in enumerate(paths)
    }
    items.sort(key=lambda item: places[item.path])


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """How many processes `-n auto` is: four more than cores, since tests wait a lot, if there is the memory."""
    return max(1, min((os.cpu_count() or 1) + 4, psutil.virtual_memory().total // WORKER_BYTES))


@pytest.fixture(scope="session", autouse=True)
def warm() -> Iterator[None]:
    """The parts of all stacks are forks of a Python that has their libraries."""
    if sys.platform != "linux":
        yield
        return
    with closing(WarmStart(Process.start)) as start, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Process, "start", start)
        yield


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The whole local stack, as `make run STRICT=1` starts it. HOLDFAST_STRICT says otherwise; 0 is plain."""
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
    settings = {
        "MAX_LIVE_GENERATIONS": "60",
        "MAX_USER_STARTS": "200",
        "UPSTREAM_MODELS": MODELS,
        "KEEPALIVE_SECONDS": "0.5",
        "STATUS_WAIT_SECONDS": "60",  # enough for an upstream's three refusals on a busy machine
    }
    with Stack(Ports.free(), settings, environ, STRICT) as running:
        _shared.append(running)
        yield running


@pytest.fixture(scope="module", autouse=True)
def emptied(request: pytest.FixtureRequest) -> Iterator[None]:
    """Deletes what a file has left in the shared Firestore: its emulator looks through all documents to count some."""
    yield
    if request.path.is_relative_to(TESTS / "unit"):
        return
    for stack in _shared:
        stack.empty_firestore()


@pytest.fixture(scope="session")
def database(stack: Stack) -> firestore.Client:
    return database_of(stack)


def database_of(stack: Stack, project: str = PROJECT) -> firestore.Client:
    """Google's client, to read documents without our code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRESTORE_EMULATOR_HOST", stack.firestore_host)
        return firestore.Client(project=project, credentials=AnonymousCredentials())


@contextmanager
def functions(stack: Stack, name: str, settings: Mapping[str, str]) -> Iterator[str]:
    """A pair of functions with settings of their own, on this stack's emulators. Yields the public URL."""
    try:
        yield stack.add_functions(name, settings)
    finally:
        stack.end(*({f"{name}-api", f"{name}-worker"} & stack.processes.keys()))


@contextmanager
def held(stack: Stack, text: str, at: int) -> Iterator[None]:
    """In the block, the upstream's streams for this text go no further than `at` tokens: what is done amid them is."""
    url = f"{stack.upstream_url}/demo/hold"
    requests.post(url, json={"text": text, "at": at}, timeout=WAIT_SECONDS).raise_for_status()
    try:
        yield
    finally:
        requests.delete(url, timeout=WAIT_SECONDS).raise_for_status()


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    """A unique user."""
    client = Client(stack.url, f"user-{uuid.uuid4().hex[:12]}")
    yield client
    client.session.close()


def calls_of(stack: Stack, text: str = "") -> list[dict[str, Any]]:
    """The calls of a stack's demo upstream with this text, in whichever API."""
    every = requests.get(f"{stack.upstream_url}/demo/calls", timeout=WAIT_SECONDS).json()
    return [call for call in every if json.dumps(text)[1:-1] in json.dumps(call["request"])]


@pytest.fixture
def upstream_calls(stack: Stack) -> Callable[[str], list[dict[str, Any]]]:
    """The calls the demo upstream got for a question's text."""
    return partial(calls_of, stack)
