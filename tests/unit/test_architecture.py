"""Which room may know of which: what serves a client can't reach what calls the upstream; each library has one door.

Read from the source, imports inside of functions included, so that no import is missed for not having been run.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lib

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "lib").rglob("*.py"))
    if path.stem != "__init__"
}
SOURCES = {**MODULES, "lib": ROOT / "lib" / "__init__.py", "main": ROOT / "main.py"}


def imported(node: ast.AST) -> Iterator[str]:
    """Every name that is imported anywhere below `node`, with its module: `from a import b` gives `a` and `a.b`."""
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            assert each.level == 0, "imports are absolute here"
            assert each.module is not None
            yield each.module
            yield from (f"{each.module}.{alias.name}" for alias in each.names)
        elif isinstance(each, ast.Call) and ast.unparse(each.func).endswith(("import_module", "__import__")):
            yield ast.unparse(each.args[0]).strip("'\"")


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"))


@cache
def imports(module: str) -> frozenset[str]:
    return frozenset(imported(tree(module)))


def ours(names: Iterable[str]) -> set[str]:
    return {name for name in names if name in MODULES}


GRAPH = {module: ours(imports(module)) for module in MODULES}


def reachable(*start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(start)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += GRAPH[module]
    return seen


def importers(*libraries: str) -> set[str]:
    """Our modules that import one of the libraries, or something in it."""
    return {
        module
        for module in SOURCES
        if any(name == each or name.startswith(f"{each}.") for name in imports(module) for each in libraries)
    }


def function(name: str) -> ast.FunctionDef:
    return next(each for each in tree("main").body if isinstance(each, ast.FunctionDef) and each.name == name)


def at_import(module: str) -> set[str]:
    """What importing a module imports: all that is not inside of a function."""
    top = [each for each in tree(module).body if not isinstance(each, ast.FunctionDef | ast.ClassDef)]
    return {name for each in top for name in imported(each)}


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_lib_is_this_source_tree_s() -> None:
    assert Path(lib.__file__) == ROOT / "lib" / "__init__.py"


def test_the_source_is_where_it_is_looked_for() -> None:
    assert {
        "lib.wires.api",
        "lib.engine.worker",
        "lib.upstream.call",
        "lib.serving.tail",
        "lib.journal.journal",
    } <= MODULES.keys()
    assert "lib.upstream.call" in reachable("lib.engine.worker")
    assert "lib.wires.openai_chat" in GRAPH["lib.wires.api"]


def test_one_module_alone_imports_firestore() -> None:
    assert importers("google.cloud.firestore", "google.cloud.firestore_v1") == {"lib.cloud.documents"}


def test_one_module_alone_imports_cloud_tasks() -> None:
    assert importers("google.cloud.tasks", "google.cloud.tasks_v2") == {"lib.cloud.task_queue"}


def test_one_module_alone_imports_requests() -> None:
    assert importers("requests") == {"lib.upstream.call"}


@pytest.mark.parametrize("library", ["httpx", "aiohttp", "urllib.request", "http.client", "openai", "urllib3"])
def test_no_other_module_has_another_way_to_call_an_upstream(library: str) -> None:
    assert importers(library) <= {"lib.upstream.call"}


def test_nothing_that_serves_a_client_can_import_what_calls_the_upstream() -> None:
    assert "lib.upstream.call" not in reachable("lib.wires.api")
    assert not {"lib.engine.worker", "lib.engine.attempt", "lib.engine.reading", "lib.engine.inbox"} & reachable(
        "lib.wires.api"
    )


def test_nothing_that_the_api_is_wired_from_can_import_what_calls_the_upstream() -> None:
    wired = ours([*at_import("main"), *imported(function("_api"))])
    assert {"lib.wires.api", "lib.serving.tail"} <= wired
    assert "lib.upstream.call" not in reachable(*wired)


def test_only_the_worker_leads_to_the_upstream() -> None:
    doors = {module for module in MODULES if "lib.upstream.call" in reachable(module)}
    assert doors == {
        "lib.upstream.call",
        "lib.engine.reading",
        "lib.engine.inbox",
        "lib.engine.attempt",
        "lib.engine.worker",
    }


def test_a_process_that_serves_clients_has_never_loaded_what_calls_the_upstream() -> None:
    assert python(
        "import sys, lib.wires.api, main; print('lib.wires.api' in sys.modules, 'lib.upstream.call' in sys.modules)"
    ) == ("True False")


def test_the_pure_modules_know_no_library_that_does_io() -> None:
    pure = [name for name in MODULES if name.startswith(("lib.domain.", "lib.dialects."))]
    for module in (*pure, "lib.runtime.catalog", "lib.runtime.settings"):
        for below in reachable(module):
            roots = {name.partition(".")[0] for name in imports(below)}
            assert not roots & {"google", "grpc", "flask", "requests", "jwt", "threading", "socket", "time"}


def test_the_arrows_point_inwards_and_never_in_a_circle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {error.args[1]}")


def test_nothing_imports_its_way_back_to_the_doors_or_to_main() -> None:
    assert importers("main") == set()
    assert importers("lib.wires.api") == importers("lib.engine.worker") == {"main"}
    assert importers("local", "tests") == set()


def test_lib_never_reads_the_environment_itself() -> None:
    for module in MODULES:
        assert not {"os.environ", "os.getenv", "os.environb"} & imports(module), module
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                assert node.attr not in ("environ", "environb", "getenv", "putenv"), (module, node.lineno)


def test_lib_takes_an_environment_only_as_a_mapping() -> None:
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.arg) and node.arg == "environ":
                assert node.annotation is not None
                assert ast.unparse(node.annotation) == "Mapping[str, str]", (module, node.lineno)


def test_importing_main_makes_no_channel_no_thread_and_no_application() -> None:
    # The server imports main before it forks, and gRPC does not survive a fork.
    made = python(
        """
import threading, grpc, grpc._channel
made = []
for name in ("insecure_channel", "secure_channel"):
    setattr(grpc, name, lambda *given, name=name, **more: made.append(name))
grpc._channel.Channel.__init__ = lambda *given, **more: made.append("Channel")
import main
import lib.wires.api, lib.engine.worker, lib.cloud.task_queue, lib.cloud.tokens
print(made, main._apps, threading.active_count())
"""
    )
    assert made == "[] {} 1"


def test_garbage_is_collected_again_once_an_app_was_to_be_built() -> None:
    collecting = python(
        """
import gc
import main
from flask import Request
from werkzeug.test import EnvironBuilder
imported = gc.isenabled()
body, status = main.api(Request(EnvironBuilder().get_environ()))
print(imported, status, gc.isenabled())
"""
    )
    assert collecting.splitlines()[-1] == "False 500 True"


def test_main_does_nothing_at_import_but_import_and_define() -> None:
    allowed = {
        "_logs": "Logs.of_function(os.environ)",
        "_shutdown": "Shutdown.of_forked(os.environ)",
        "_building": "threading.Lock()",
        "_apps": "{}",
        "Build": "Callable[[Settings, Store, Listener, Telemetry], Flask]",
    }
    for node in tree("main").body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            assert node.value is not None
            assert allowed[ast.unparse(target)] == ast.unparse(node.value)
        elif isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant) or ast.unparse(node) == "gc.disable()"
        else:
            assert isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef), ast.unparse(node)
    assert not {"grpc", "google"} & {name.partition(".")[0] for name in at_import("main")}


def test_each_module_says_what_it_is_for() -> None:
    for module in SOURCES:
        assert ast.get_docstring(tree(module)), module
