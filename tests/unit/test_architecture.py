"""The import rules: code that serves clients can't reach code that calls the upstream; one module imports each library.

Checked in the source, including imports inside functions, so that no import is missed because it was not executed.
"""

from __future__ import annotations

import ast
import re
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
PACKAGES = {
    ".".join(path.parent.relative_to(ROOT).parts): path for path in sorted((ROOT / "lib").glob("*/**/__init__.py"))
}
SOURCES = {**MODULES, **PACKAGES, "lib": ROOT / "lib" / "__init__.py", "main": ROOT / "main.py"}
# What a package may import, besides itself, `domain` and `runtime`. Do not extend this table: it is the contract.
ARROWS: dict[str, set[str]] = {
    "domain": set(),
    "runtime": set(),
    "dialects": set(),
    "cloud": set(),
    "journal": {"cloud"},
    "upstream": {"dialects", "cloud"},
    "engine": {"upstream", "journal", "dialects", "cloud"},
    "delivery": {"upstream", "dialects", "cloud"},
    "serving": {"journal", "dialects", "cloud"},
    "wires": {"serving", "dialects"},
}
# Fields of model APIs. Only dialects may use these names.
API_FIELDS = (
    "choices",
    "delta",
    "finish_reason",
    "tool_calls",
    "function_call",
    "logprobs",
    "stream_options",
    "include_usage",
    "max_tokens",
    "max_completion_tokens",
    "prompt_tokens",
    "completion_tokens",
    "reasoning_content",
    "system_fingerprint",
    "chat.completion",
    "candidates",
    "usageMetadata",
    "functionCall",
    "generationConfig",
    "content_block",
    "message_stop",
    "stop_reason",
    "tool_use",
    "input_json_delta",
    "anthropic-version",
    "anthropic-beta",
    "[DONE]",
)


def imported(node: ast.AST) -> Iterator[str]:
    """All names imported anywhere below `node`, with their modules: `from a import b` yields `a` and `a.b`."""
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


@cache
def graph() -> dict[str, set[str]]:
    """Which of our modules each of them imports."""
    return {module: ours(imports(module)) for module in MODULES}


def reachable(*start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(start)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += graph()[module]
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
    """What is imported when a module is imported, which excludes imports inside functions."""
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
    assert {"lib.wires.api", "lib.engine.worker", "lib.upstream.call", "lib.journal.writer"} <= MODULES.keys()
    assert "lib.upstream.call" in reachable("lib.engine.worker")


def test_one_module_alone_imports_firestore() -> None:
    assert importers("google.cloud.firestore", "google.cloud.firestore_v1") == {"lib.cloud.documents"}


def test_one_module_alone_imports_cloud_tasks() -> None:
    assert importers("google.cloud.tasks", "google.cloud.tasks_v2") == {"lib.cloud.task_queue"}


def test_one_module_alone_imports_requests() -> None:
    assert len(importers("requests")) == 1
    assert {package(module) for module in importers("requests")} == {"upstream"}


@pytest.mark.parametrize("library", ["httpx", "aiohttp", "urllib.request", "http.client", "openai", "urllib3"])
def test_no_other_package_has_another_way_to_call_an_upstream(library: str) -> None:
    assert {package(module) for module in importers(library)} <= {"upstream"}


def package(name: str) -> str | None:
    """The package of one of our modules."""
    parts = name.split(".")
    return parts[1] if parts[0] == "lib" and len(parts) > 1 and parts[1] in ARROWS else None


def test_every_module_is_in_a_package_and_every_package_in_the_table() -> None:
    assert {name.split(".")[1] for name in PACKAGES} == ARROWS.keys()
    for name in MODULES:
        assert name.count(".") == 2 or name.rpartition(".")[0] in PACKAGES, f"{name} is outside of a package"
        assert name.count(".") <= (3 if package(name) in ("dialects", "wires") else 2), f"{name} lies too deep"


@pytest.mark.parametrize("room", ["dialects", "wires"])
def test_an_api_or_a_protocol_knows_no_other_s_files(room: str) -> None:
    """What two of them need lies beside their folders."""
    for name in MODULES:
        folder = name.rpartition(".")[0]
        if package(name) == room and folder.count(".") == 2:
            used = {each.rpartition(".")[0] for each in graph()[name]}
            assert not {each for each in used - {folder} if each.startswith(f"lib.{room}.")}, name


@pytest.mark.parametrize("module", sorted({**MODULES, **PACKAGES}))
def test_no_package_imports_another_that_the_table_does_not_allow(module: str) -> None:
    here = package(module)
    assert here is not None
    allowed = {here} if here == "domain" else {here, "domain", "runtime", *ARROWS[here]}
    used = {there for name in imports(module) if (there := package(name)) is not None}
    assert used <= allowed, f"{module} may not use {used - allowed}"


def test_no_arrow_of_the_table_leads_from_a_client_to_the_upstream() -> None:
    seen, waiting = set(), ["wires"]
    while waiting:
        seen.add(here := waiting.pop())
        waiting += ARROWS[here] - seen
    assert not {"upstream", "engine", "delivery"} & seen


def test_nothing_that_the_api_is_wired_from_can_import_what_calls_the_upstream() -> None:
    wired = ours([*at_import("main"), *imported(function("_api"))])
    assert {"lib.wires.api", "lib.serving.tail"} <= wired
    assert not {module for module in reachable(*wired) if package(module) in ("upstream", "engine", "delivery")}


def constants(module: str) -> Iterator[tuple[int, str]]:
    """Every string in the code except docstrings, with its line."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            if isinstance(node.value, str):
                yield node.lineno, node.value
            elif isinstance(node.value, bytes):
                yield node.lineno, node.value.decode("latin-1")


# Fields of client protocols that are written from steps, and have such a name too.
OWN_FIELDS = {
    ("lib.wires.firebase_callable.wire", "delta"),
    ("lib.wires.ai_sdk.stream", "delta"),
    ("lib.wires.ai_sdk.stream", "[DONE]"),
    ("lib.wires.responses.compaction", "function_call"),
    ("lib.wires.responses.ids", "function_call"),
    ("lib.wires.responses.input", "function_call"),
    ("lib.wires.responses.items", "function_call"),
    ("lib.wires.responses.items", "logprobs"),
    ("lib.wires.responses.request", "stream_options"),
}


@pytest.mark.parametrize("module", sorted({**MODULES, "main": ROOT / "main.py"}))
def test_only_dialects_name_a_field_of_a_model_api(module: str) -> None:
    if package(module) == "dialects":
        return
    for line, text in constants(module):
        for name in API_FIELDS:
            if (module, name) not in OWN_FIELDS:
                assert not re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", text), f"{module}:{line} names {name}"


def test_the_fields_of_a_model_api_are_looked_for_where_they_are() -> None:
    found = {
        name
        for module in MODULES
        if package(module) == "dialects"
        for _, text in constants(module)
        for name in API_FIELDS
        if name in text
    }
    assert {"choices", "delta", "finish_reason", "stream_options", "[DONE]"} <= found


def test_no_library_is_reached_into_by_its_private_names() -> None:
    """`self._x`, and a private name of a value of ours; never one of a response, a socket or a message."""
    for module in MODULES:
        own = {node.attr for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute) and own_name(node)}
        own |= {node.name for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                known = node.attr in own or ast.unparse(node) == "os._exit"  # which is documented
                assert known, f"{module}:{node.lineno} reaches for {ast.unparse(node)}"


def own_name(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


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
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {error.args[1]}")


def test_nothing_imports_its_way_back_to_the_endpoints_or_to_main() -> None:
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
    # The server imports main before it forks, and gRPC does not work across a fork.
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


def test_garbage_is_collected_once_an_app_was_to_be_built_but_not_among_what_was_imported() -> None:
    collecting = python(
        """
import gc
import main
from flask import Request
from werkzeug.test import EnvironBuilder
imported = gc.isenabled()
body, status = main.api(Request(EnvironBuilder().get_environ()))
kept = gc.get_freeze_count()
main.api(Request(EnvironBuilder().get_environ()))
print(imported, status, gc.isenabled(), kept > len(gc.get_objects()), gc.get_freeze_count() == kept)
"""
    )
    assert collecting.splitlines()[-1] == "False 500 True True True"


def test_main_does_nothing_at_import_but_import_and_define() -> None:
    allowed = {
        "Keepalive.default": "75",
        "_logs": "Logs.for_function(os.environ)",
        "_shutdown": "Shutdown.in_forks(os.environ)",
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
            assert isinstance(node.value, ast.Constant) or ast.unparse(node) in (
                "gc.disable()",
                "limit_arenas()",
                "os.environ.setdefault('GRPC_EXPERIMENTS', '-event_engine_client')",
            )
        else:
            assert isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef), ast.unparse(node)
    assert not {"grpc", "google"} & {name.partition(".")[0] for name in at_import("main")}


def test_each_module_says_what_it_is_for() -> None:
    for module in SOURCES:
        assert ast.get_docstring(tree(module)), module
