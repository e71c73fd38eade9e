"""The machine and the versions of a run."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import orjson
import psutil

from bench.stage import NODE, program
from local import firestore_emulator
from local.stack import ROOT

_PYTHON_PACKAGES = (
    "functions-framework",
    "gunicorn",
    "flask",
    "google-cloud-firestore",
    "google-cloud-tasks",
    "grpcio",
    "protobuf",
    "orjson",
    "requests",
)
_PEERS = (
    "genkit",
    "@genkit-ai/express",
    "@genkit-ai/firebase",
    "@google-cloud/firestore",
    "express",
    "resumable-stream",
    "redis",
)
_LOOPS = 1_000_000
_SHORT_LOOPS = 20_000
_SLOWED = 3  # times the median


def machine(alone: float) -> dict[str, str]:
    """Names and values, in the order to show them. `alone` is how many seconds its steadiness is measured."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load before the run": f"{os.getloadavg()[0]:.2f}",
        "steadiness": steadiness(_loops(alone)),
        "commit": _commit(),
        "Python": f"{platform.python_version()} with "
        + ", ".join(f"{name} {version(name)}" for name in _PYTHON_PACKAGES),
        "Firestore emulator": f"{_emulator()} on Java {_java()}",
        "Node.js": _said([program("node"), "--version"]).removeprefix("v")
        + " with "
        + ", ".join(f"{name} {_npm(name)}" for name in _PEERS),
        "Redis": _found(r"v=(\S+)", _said([program("redis-server"), "--version"])),
        "nghttpx": _found(r"nghttp2/(\S+)", _said([program("nghttpx"), "--version"])),
    }


def pace() -> float:
    """The seconds that a fixed loop takes, to tell how fast a shared machine currently is."""
    return _loop(_LOOPS)


def steadiness(seconds: Sequence[float]) -> str:
    """How evenly loops of these durations ran. Other users of the same hardware may slow the machine for moments."""
    usual = median(seconds)
    slowed = sum(each for each in seconds if each > _SLOWED * usual) / sum(seconds)
    return (
        f"of {sum(seconds):.1f} s of short loops of Python, with nothing beside them, {slowed:.1%} went to those "
        f"that took more than {_SLOWED} times the median; the slowest took {max(seconds) / usual:.1f} times"
    )


def _loops(during: float) -> list[float]:
    end = time.perf_counter() + during
    seconds: list[float] = []
    while time.perf_counter() < end:
        seconds.append(_loop(_SHORT_LOOPS))
    return seconds


def _loop(count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        pass
    return time.perf_counter() - began


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    commit = _said(["git", "rev-parse", "--short", "HEAD"])
    changed = _said(["git", "status", "--porcelain", "--untracked-files=no"])
    return f"{commit}, with changes" if commit and changed else commit or "unknown"


def _emulator() -> str:
    """The emulator's version. The Firebase CLI's is in its file name, and the Google Cloud SDK's is the SDK's."""
    jar = Path(firestore_emulator.jar(os.environ)).resolve()
    sdk = jar.parents[2] / "VERSION"
    if not re.search(r"\d", jar.name) and sdk.exists():
        return f"of the Google Cloud SDK {sdk.read_text().strip()}"
    return _found(r"-v([\d.]+)\.jar", jar.name)


def _java() -> str:
    done = subprocess.run([firestore_emulator.java(os.environ), "-version"], capture_output=True, text=True, check=True)
    return _found(r'version "([^"]+)"', done.stderr)


def _npm(package: str) -> str:
    return str(orjson.loads((NODE / "node_modules" / package / "package.json").read_bytes())["version"])


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else "unknown"
