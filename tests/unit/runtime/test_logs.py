"""Log lines: what they contain, in which format, and what never gets into one."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from lib.runtime import trace
from lib.runtime.logs import FIELDS, LABELS, Line, labelled, stack
from lib.runtime.metrics import CommitMetrics
from lib.runtime.trace import Trace

ROOT = Path(__file__).resolve().parents[3]
CANARY = "canary"
PLACE = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True)


def line(
    name: str, message: object, *args: object, level: int = logging.INFO, project: str = "demo", **more: Any
) -> dict[str, Any]:
    """What a logger of this name writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    formatter = Line()
    formatter.project = project
    handler.setFormatter(formatter)
    logger = logging.Logger(name)
    logger.addHandler(handler)
    logger.log(level, message, *args, **more)
    (written,) = stream.getvalue().splitlines()
    found: dict[str, Any] = json.loads(written)
    return found


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.fixture
def in_a_trace() -> Iterator[None]:
    before = trace.current.set(PLACE)
    yield
    trace.current.reset(before)


def test_a_line_has_its_severity_time_words_and_logger() -> None:
    written = line("lib.module", "it happened")
    assert written.keys() == {"severity", "time", "message", "logger"}
    assert (written["severity"], written["message"], written["logger"]) == ("INFO", "it happened", "lib.module")


@pytest.mark.parametrize(
    ("level", "severity"),
    [
        (5, "DEBUG"),
        (10, "DEBUG"),
        (20, "INFO"),
        (25, "INFO"),
        (30, "WARNING"),
        (40, "ERROR"),
        (50, "CRITICAL"),
        (99, "CRITICAL"),
    ],
)
def test_a_level_is_a_severity_that_cloud_logging_knows(level: int, severity: str) -> None:
    assert line("lib.module", "it happened", level=level)["severity"] == severity


def test_only_the_fields_that_are_named_get_through() -> None:
    written = line(
        "lib.module", "it happened", extra={"events": 3, "state": "queued", "prompt": CANARY, "path": CANARY}
    )
    assert (written["events"], written["state"]) == (3, "queued")
    assert CANARY not in json.dumps(written)


def test_the_generation_and_the_attempt_are_labels_which_are_strings() -> None:
    with labelled(generation="g1", attempt=2):
        assert line("lib.module", "a")["logging.googleapis.com/labels"] == {"generation": "g1", "attempt": "2"}
        other = line("lib.module", "a", extra={"generation": "g2"})
        assert other["logging.googleapis.com/labels"] == {"generation": "g2", "attempt": "2"}
        context = copy_context()
    assert "logging.googleapis.com/labels" not in line("lib.module", "a")
    assert "logging.googleapis.com/labels" in context.run(line, "lib.module", "a")


@pytest.mark.usefixtures("in_a_trace")
def test_a_line_is_of_the_trace_at_hand() -> None:
    written = line("lib.module", "it happened")
    assert written["logging.googleapis.com/trace"] == f"projects/demo/traces/{PLACE.trace_id}"
    assert written["logging.googleapis.com/spanId"] == PLACE.span_id
    assert written["logging.googleapis.com/trace_sampled"] is True


@pytest.mark.usefixtures("in_a_trace")
def test_before_the_project_is_known_a_trace_is_left_out() -> None:
    assert "logging.googleapis.com/trace" not in line("lib.module", "it happened", project="")


@pytest.mark.parametrize(
    ("message", "args"),
    [
        (f"a text with the {CANARY} in it", ()),
        (ValueError(CANARY), ()),
        ({"body": CANARY}, ()),
        ("a template: %s", (CANARY,)),
        ("a template: %r", (ValueError(CANARY),)),
        ("a template: %(what)s", ({"what": CANARY},)),
        ("a template: %d", (CANARY,)),
        ("a template: %s %s", (CANARY,)),
    ],
)
def test_what_a_library_says_is_its_template_at_most(message: object, args: tuple[object, ...]) -> None:
    written = json.dumps(line("urllib3.connectionpool", message, *args, level=logging.WARNING))
    assert CANARY not in written
    assert ("a template" in written) == bool(args)


def test_numbers_are_filled_into_a_template_and_nothing_else() -> None:
    written = line("gunicorn.error", "Worker (pid:%s) was sent %s! Perhaps out of memory?", 17, CANARY)
    assert written["message"] == "Worker (pid:17) was sent …! Perhaps out of memory?"


def test_a_stack_is_as_python_prints_it() -> None:
    def failing() -> None:
        try:
            {}["x"]
        except KeyError:
            try:
                raise TimeoutError
            except TimeoutError as error:
                raise ValueError from error

    with pytest.raises(ValueError, match=r"^$") as caught:
        failing()
    caught.value.__cause__.__context__.args = ()  # type: ignore[union-attr]
    assert stack(caught.value) == "".join(traceback.format_exception(caught.value))


def test_a_stack_has_no_message_of_any_exception_in_the_chain() -> None:
    try:
        try:
            raise KeyError(CANARY)
        except KeyError as error:
            raise ValueError(CANARY) from error
    except ValueError as error:
        written = line("lib.module", "it failed", level=logging.ERROR, exc_info=error)
    assert CANARY not in json.dumps(written)
    assert written["stack_trace"].splitlines()[-1] == "ValueError"
    assert "KeyError" in written["stack_trace"]


def test_a_cause_that_was_put_aside_stays_aside_and_a_circle_ends() -> None:
    first, second = raised(ValueError()), raised(KeyError())
    first.__cause__, second.__cause__ = second, first
    assert stack(first).count("Traceback") <= 10
    alone = raised(TypeError())
    alone.__context__, alone.__suppress_context__ = raised(KeyError()), True
    assert "KeyError" not in stack(alone)


def test_an_error_of_the_system_has_its_number() -> None:
    assert stack(raised(OSError(28, CANARY, CANARY))).splitlines()[-1] == "OSError: [Errno 28]"


def test_what_is_no_error_has_an_exception_s_kind_and_no_stack_which_would_make_it_one() -> None:
    written = line("urllib3.connection", "odd: %s", CANARY, level=logging.WARNING, exc_info=raised(KeyError(CANARY)))
    assert (written["cause"], "stack_trace" in written) == ("KeyError", False)


def test_an_error_without_a_stack_is_one_for_error_reporting_all_the_same() -> None:
    assert line("lib.module", "it failed", level=logging.ERROR)["@type"].endswith("ReportedErrorEvent")
    assert "@type" not in line("lib.module", "it failed", level=logging.ERROR, exc_info=raised(ValueError()))
    assert "@type" not in line("lib.module", "careful", level=logging.WARNING)


SERVER = """
import logging, os, sys, threading, warnings
os.environ["FUNCTION_TARGET"] = "api"
import main
error = logging.getLogger("gunicorn.error")
error.propagate = False
error.addHandler(logging.StreamHandler(sys.stderr))  # as gunicorn does, once main is imported
error.error("Connection in use: %s", "canary")
logging.getLogger("google.auth").warning("canary")
logging.getLogger("google.auth").info("canary")
logging.getLogger("lib.module").info("ours %s", "canary")
logging.getLogger("lib.module").info("%d", "canary")
warnings.warn("canary")
class Full:
    def write(self, text):
        raise OSError(28, "canary")
handler = logging.getLogger().handlers[0]
out = handler.setStream(Full())
logging.getLogger("lib.module").info("lost %s", "canary")
handler.stream = out
def fail():
    raise ValueError("can" + "ary")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
class Broken:
    def __del__(self):
        fail()
Broken()
fail()
"""


def test_all_that_a_process_says_is_lines_whoever_says_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVER], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    lines = [json.loads(each) for each in done.stdout.splitlines()]
    assert "canary" not in done.stdout
    assert [(each["severity"], each["logger"]) for each in lines] == [
        ("ERROR", "gunicorn.error"),
        ("WARNING", "google.auth"),
        ("INFO", "lib.module"),
        ("INFO", "lib.module"),
        ("WARNING", "py.warnings"),
        *[("CRITICAL", "lib.runtime.logs")] * 3,
    ]
    assert all(each["stack_trace"].splitlines()[-1] == "ValueError" for each in lines[-3:])


def calls_of_a_log() -> Iterator[tuple[str, ast.Call]]:
    for path in (*sorted((ROOT / "lib").rglob("*.py")), ROOT / "main.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of = ast.unparse(node.func.value)
                if of in ("log", "logging.getLogger(__name__)") or of.endswith("logger"):
                    yield f"{path.name}:{node.lineno}", node


def constants(node: ast.expr) -> list[str]:
    """The texts an expression may be; none where it may be anything else."""
    if isinstance(node, ast.IfExp) and constants(node.body) and constants(node.orelse):
        return constants(node.body) + constants(node.orelse)
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def words_of(call: ast.Call) -> list[ast.expr]:
    assert isinstance(call.func, ast.Attribute)
    return call.args[1:] if call.func.attr == "log" else call.args


def test_the_words_of_every_line_of_ours_are_constants_and_its_fields_are_known() -> None:
    known = {*FIELDS, *LABELS}
    found = 0
    for where, call in calls_of_a_log():
        words = words_of(call)
        assert len(words) == 1, where
        assert constants(words[0]), where
        for extra in (each.value for each in call.keywords if each.arg == "extra"):
            assert isinstance(extra, ast.Dict), where
            for key, value in zip(extra.keys, extra.values, strict=True):
                if key is None:
                    assert ast.unparse(value) in ("metrics.fields()", "journal.metrics.fields()"), where
                else:
                    assert ast.literal_eval(key) in known, where
        found += 1
    assert found > 25
    assert CommitMetrics().fields().keys() <= known


DOCUMENT = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")


def test_the_table_of_fields_is_the_fields() -> None:
    _, _, rest = DOCUMENT.partition("<!-- fields: made from lib/runtime/logs.py -->\n")
    there, _, _ = rest.partition("\n<!-- end of fields -->")
    rows = [f"| `{name}` | {about} |" for name, about in FIELDS.items()]
    assert there.splitlines() == ["| field | what it is |", "|---|---|", *rows]


def test_every_line_of_ours_is_in_the_document_and_no_other() -> None:
    ours = {text for _, call in calls_of_a_log() for text in constants(words_of(call)[0])}
    rows = [line for line in DOCUMENT.partition("The fields are:")[0].splitlines() if line.startswith("| `")]
    assert {text for row in rows for text in re.findall(r"`([^`]+)`", row.split("|")[1])} == ours
