"""Start-up time: importing everything in a fresh interpreter, and the first answer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Any

from bench.plan import Plan
from bench.question import Question
from bench.stage import Stage
from bench.system import Visit
from local.stack import ROOT

# Measures all imports of `main` for both functions, with the interpreter's own clock. Packages that are not deployed
# are hidden, because some libraries import optional packages if they find them.
_IMPORT = """
import importlib.metadata, re, sys, time
def name(line):
    return re.split("[^a-z0-9-]", line.lower().replace("_", "-"), 1)[0]
deployed = {name(line) for line in open("requirements.txt") if "==" in line}
for module, packages in importlib.metadata.packages_distributions().items():
    if not deployed & set(map(name, packages)):
        sys.modules[module] = None
began = time.perf_counter()
{what}
print(time.perf_counter() - began)
"""
_EVERYTHING = """
import pathlib, importlib, main
for path in sorted(pathlib.Path("lib").rglob("*.py")):
    importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
"""
_CORE = "import flask, functions_framework, requests, google.cloud.firestore, google.cloud.tasks_v2"
WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.002


def measure(plan: Plan, stage: Stage) -> dict[str, Any]:
    """Seconds to import everything, to import only the five core packages, and from the start of both functions to the
    first token of the first answer.
    """
    _import(_EVERYTHING)  # compiles modules that were not compiled yet
    imports, cores = [], []
    for _ in range(plan.rounds):
        imports.append(_import(_EVERYTHING))
        cores.append(_import(_CORE))
    firsts = [_first_answer(stage, number) for number in range(plan.rounds)]
    stage.empty_firestore()
    return {"import": imports, "core": cores, "first": firsts}


def _import(what: str) -> float:
    code = _IMPORT.replace("{what}", what)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=True
    )
    return float(done.stdout)


def _first_answer(stage: Stage, number: int) -> float:
    stage.kill_holdfast()
    began = time.monotonic_ns()
    stage.start_holdfast()
    read = asyncio.run(_asked(stage, Question(seed=f"cold-{number}", tokens=5, rate=50)))
    return (read - began) / 1e9


async def _asked(stage: Stage, question: Question) -> int:
    """Asks as soon as both functions listen. Returns the time of the first token."""
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(*(_listens(port) for port in (stage.stack.ports.worker_port, stage.stack.ports.api_port)))
        response = await stage.holdfast.start(question)
        await response.ended
    at, _ = next(Visit("", response.sent, response).tokens())
    return at


async def _listens(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(_POLL_SECONDS)
        else:
            writer.close()
            return
