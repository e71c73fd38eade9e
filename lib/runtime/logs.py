"""The log: one JSON object per line for Cloud Logging, without any text from users or models.

Messages are constants in the code. Values go into the fields listed here, which hold numbers and words that this code
chooses. Everything else is dropped, whoever logs it: arguments that are not numbers, text that a library formatted, and
exception messages, which may quote a prompt or an answer. An exception is logged by its type and stack.

Fields follow "Structured logging" (Cloud Logging). Stack traces have the format that Error Reporting groups by.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TextIO

from lib.runtime import trace

LABELS = ("generation", "attempt")
FIELDS = {
    "state": "the generation's state",
    "reason": "why it ended, or is to be tried again",
    "upstream": "the upstream's name in the settings",
    "status": "the upstream's HTTP status",
    "cause": "the kind of error, in a word",
    "channel": "where an answer's end is told: `webhook` or `push`",
    "receivers": "how many took it: the webhook, or so many devices",
    "tries": "how many times that was tried, this one included",
    "lateMs": "from the answer's end to this try",
    "settings": "the settings that are wrong, a line each",
    "index": "the index that a query lacks: its collection and fields",
    "waitMs": "from the request to the first claim, unless it waited for its turn",
    "ttftMs": "from the request to the first saved event, unless it waited for its turn",
    "durationMs": "from the request to the end",
    "retryMs": "how long until the next attempt or task",
    "bytes": "the size of the request",
    "ahead": "how many answers of its chat it waits for",
    "events": "how many events the journal has",
    "tokens": "output tokens, as the upstream counted them",
    "inputTokens": "input tokens, as the upstream counted them",
    "costMicros": "what the answer cost, in millionths of the price table's currency, if it is counted",
    "budget": "the budget that was not enough for a request",
    "budgetPercent": "how much of the service's budget for the day is taken or reserved",
    "commits": "how many commits this attempt made",
    "writes": "how many documents they wrote, which is what Firestore bills",
    "commitErrors": "how many commits failed and were tried again",
    "flushMs": "how long a commit took, on average",
    "flushMaxMs": "how long the slowest commit took",
    "live": "attempts running in this process, this one included",
    "changes": "how many changes of the head were received",
    "lagMs": "from a commit to its arrival in this process, on average",
    "lagMaxMs": "the longest of these delays",
}
_SEVERITIES = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")
_OURS = ("lib", "main")
_REPORTED = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"
_FRAMES = 50
_CHAIN = 10
_CAUSE = "The above exception was the direct cause of the following exception:"  # as Python prints it
_CONTEXT = "During handling of the above exception, another exception occurred:"

log = logging.getLogger(__name__)
_labels: ContextVar[Mapping[str, object] | None] = ContextVar("labels", default=None)


@contextmanager
def labelled(**labels: object) -> Iterator[None]:
    """Adds labels to every line logged inside, and in copies of the context: `generation`, `attempt`."""
    before = _labels.set(labels)
    try:
        yield
    finally:
        _labels.reset(before)


class Line(logging.Formatter):
    """Formats a record as one line of JSON. Until `project` is known, lines have no trace."""

    project = ""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "severity": _severity(record.levelno),
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "message": _message(record),
            "logger": record.name,
        }
        line |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        labels = {**(_labels.get() or {}), **{name: vars(record)[name] for name in LABELS if name in vars(record)}}
        if labels:
            line["logging.googleapis.com/labels"] = {name: str(value) for name, value in labels.items()}
        if (place := trace.current.get()) is not None and self.project:
            line["logging.googleapis.com/trace"] = f"projects/{self.project}/traces/{place.trace_id}"
            line["logging.googleapis.com/spanId"] = place.span_id
            line["logging.googleapis.com/trace_sampled"] = place.sampled
        if record.levelno >= logging.WARNING:
            line["logging.googleapis.com/sourceLocation"] = {
                "file": record.pathname,
                "line": str(record.lineno),
                "function": record.funcName,
            }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and record.levelno < logging.ERROR:
            line.setdefault("cause", _kind(error))  # with a stack, Error Reporting would count it as an error
        elif error is not None:
            line["stack_trace"] = stack(error)
        elif record.levelno >= logging.ERROR:
            line["@type"] = _REPORTED  # tells Error Reporting that it is an error despite having no stack
        return json.dumps(line, default=lambda value: type(value).__name__)


class Logs:
    """All logging of a process: the service's, the server's and the libraries'."""

    def __init__(self, stream: TextIO):
        self._line = Line()
        self._handler = logging.StreamHandler(stream)
        self._handler.setFormatter(self._line)

    @classmethod
    def for_function(cls, environ: Mapping[str, str]) -> Self:
        """Takes over all logging, if functions-framework runs this process."""
        logs = cls(sys.stdout)
        if "FUNCTION_TARGET" in environ:  # functions-framework sets it before it imports main.py
            logs.install()
        return logs

    def set_project(self, project: str) -> None:
        """Sets the project that trace ids belong to."""
        self._line.project = project

    def install(self) -> None:
        logging.raiseExceptions = False  # else a failure to write a line prints it, with its arguments
        root = logging.getLogger()
        root.handlers[:] = [self._handler]
        root.setLevel(logging.WARNING)
        for name in _OURS:
            logging.getLogger(name).setLevel(logging.INFO)
        for name in ("gunicorn.error", "gunicorn.access"):
            # gunicorn adds its own handlers later; a filter runs before any handler.
            logging.getLogger(name).addFilter(self._divert)
        logging.captureWarnings(True)
        sys.excepthook = _uncaught
        sys.unraisablehook = lambda unraisable: _uncaught(unraisable.exc_type, unraisable.exc_value, None)
        threading.excepthook = lambda failed: _uncaught(failed.exc_type, failed.exc_value, failed.exc_traceback)

    def _divert(self, record: logging.LogRecord) -> bool:
        self._handler.handle(record)
        return False


def stack(error: BaseException) -> str:
    """A traceback as Python prints it, with causes, but without the exceptions' messages."""
    text = ""
    each: BaseException | None = error
    for _ in range(_CHAIN):
        if each is None:
            break
        frames = "".join(traceback.format_tb(each.__traceback__, -_FRAMES))
        text = f"Traceback (most recent call last):\n{frames}{_kind(each)}\n{text}"
        if each.__cause__ is not None:
            each, text = each.__cause__, f"\n{_CAUSE}\n\n{text}"
        elif each.__context__ is not None and not each.__suppress_context__:
            each, text = each.__context__, f"\n{_CONTEXT}\n\n{text}"
        else:
            break
    return text


def _kind(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name}: [Errno {error.errno}]" if isinstance(error, OSError) and isinstance(error.errno, int) else name


def _message(record: logging.LogRecord) -> str:
    """The message as written in the code, with only numbers filled in."""
    ours = record.name.partition(".")[0] in _OURS
    if not isinstance(record.msg, str) or not (ours or record.args):
        return f"{record.name} has something to say, which may hold what a user said"
    if not isinstance(record.args, tuple) or not record.args:
        return record.msg
    try:
        return record.msg % tuple(arg if isinstance(arg, int | float) else "…" for arg in record.args)
    except (TypeError, ValueError):
        return record.msg


def _severity(level: int) -> str:
    return next(name for name in _SEVERITIES if level >= logging.getLevelName(name) or name == "DEBUG")


def _uncaught(kind: type[BaseException], error: BaseException | None, frames: TracebackType | None) -> None:
    if error is not None and not issubclass(kind, KeyboardInterrupt | SystemExit):
        log.critical("uncaught exception", exc_info=(kind, error, frames))
