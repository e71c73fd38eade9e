"""Measures Firestore and Cloud Tasks in your project: `make measure PROJECT=…`, or `python -m operations.measure`.

The first part commits to one document at several rates for a minute each, and listens to it, as a worker and a viewer
do. The second part, which is there if a location is given, sends a hundred tasks through a queue of its own. It prints
what it has measured as it goes. What it makes it removes, also after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError

from lib.cloud.documents import Documents, Stale
from lib.cloud.listen import TARGETS_PER_EMULATOR_STREAM, TARGETS_PER_STREAM, Listener
from lib.domain.errors import Unreachable
from operations.commit_rate import Measured, MeasuredDocument, suggested
from operations.task_delay import SILENT, Delays, OwnQueue

RATES = (1.0, 2.0, 5.0, 10.0, 20.0)
SECONDS = 60.0
TASKS = 100
PATIENCE = 600.0  # tasks may be minutes late
INTERRUPTED = 130
REMEDY = "Check --project, --database, --location and --queue, and log in with: gcloud auth application-default login"
HEAD = f"{'':>18}{'commit, ms':^27}{'seen by a listener, ms':^27}"
COLUMNS = (
    f"{'a second':>9}{'made':>9}" + f"{'p50':>9}{'p95':>9}{'max':>9}" * 2 + f"{'ABORTED':>9}{'failed':>9}{'missed':>9}"
)


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Returns 0 if all was measured, 1 if something could not be reached or removed, and 130 after Ctrl-C."""
    options = _options(argv)
    try:
        _measure_commits(options, environ.get("FIRESTORE_EMULATOR_HOST"))
        if options.location:
            _measure_tasks(options, environ.get("TASKS_EMULATOR_HOST"))
        else:
            print("\nTasks were not measured: that takes the queue's --location.")
        return 0
    except KeyboardInterrupt:
        print("Interrupted. What was made is removed.", file=sys.stderr)
        return INTERRUPTED
    except Unreachable as error:
        print(f"Firestore can't be reached ({error.cause}).\n{REMEDY}", file=sys.stderr)
    except (Stale, GoogleAPICallError, RetryError, GoogleAuthError) as error:
        print(f"Refused: {error.__cause__ if isinstance(error, Stale) else error}\n{REMEDY}", file=sys.stderr)
    return 1


def _measure_commits(options: argparse.Namespace, emulator: str | None) -> None:
    documents = Documents(options.project, options.database, emulator)
    listener = Listener(documents, TARGETS_PER_EMULATOR_STREAM if emulator else TARGETS_PER_STREAM)
    document = MeasuredDocument(documents, listener)
    with closing(documents):
        trip = document.round_trip() * 1000
        print(f"Firestore, one document: {document.path}\nA read takes {trip:,.0f} ms from here.\n\n{HEAD}\n{COLUMNS}")
        measured = []
        with _removing(document.remove, f"the document {document.path}"):
            for rate in options.rates:
                measured.append(document.measure(rate, options.seconds))
                print(_row(measured[-1]), flush=True)
    interval = suggested(measured)
    if interval is None:
        print("\nEven the lowest rate does not hold. Run this in the database's region, where the functions run.")
    else:
        print(f"\nFLUSH_SECONDS={interval:g} holds here: every commit of a watched answer is through before the next.")


def _row(each: Measured) -> str:
    counts = "".join(f"{count:>9,}" for count in (each.aborted, each.failed, each.missed))
    return f"{each.rate:>9g}{each.reached:>9.1f}{each.commit}{each.delivery}{counts}"


def _measure_tasks(options: argparse.Namespace, emulator: str | None) -> None:
    queue = OwnQueue(options.project, options.location, emulator)
    limits = queue.limits_of(options.queue)
    with _removing(queue.delete, f"the queue {queue.path}"):
        queue.create(limits)
        print(f"\nCloud Tasks, {options.tasks} tasks through a new queue: {queue.name}", flush=True)
        print(_said(queue.measure(options.tasks, options.target, options.patience)))


def _said(delays: Delays) -> str:
    known = len(delays.late.seconds)
    lines = [
        f"{'':>18}{'dispatched late, ms':^27}",
        f"{'':>18}{'p50':>9}{'p95':>9}{'max':>9}",
        f"{'':>18}{delays.late}",
    ]
    if waiting := delays.sent - known - delays.gone:
        lines.append(f"{waiting} were not dispatched in time.")
    if delays.refused:
        lines.append(
            f"{delays.refused} were refused by the target, which slows a queue down: it may be faster than this."
        )
    if delays.gone:
        lines.append(
            f"{delays.gone} were accepted by the target, so nothing is known of them: use one that never answers."
        )
    return "\n".join(lines)


@contextmanager
def _removing(remove: Callable[[], None], what: str) -> Iterator[None]:
    """Removes what was made when the block ends. A second Ctrl-C does not prevent that."""
    try:
        yield
    finally:
        previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            remove()
        except (Unreachable, GoogleAPICallError, RetryError, GoogleAuthError):
            print(f"It could not be removed; remove it by hand: {what}", file=sys.stderr)
            raise
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m operations.measure", description="Measures Firestore and Cloud Tasks in a project of yours."
    )
    parser.add_argument("--project", required=True, help="the Google Cloud project (make measure PROJECT=…)")
    parser.add_argument("--database", default="(default)", help="the Firestore database (%(default)s)")
    parser.add_argument("--location", help="the queue's location; without it, tasks are not measured")
    parser.add_argument("--queue", default="holdfast", help="the queue whose limits are taken over (%(default)s)")
    parser.add_argument("--rates", type=_rates, default=RATES, help="commits a second, comma-separated (1,2,5,10,20)")
    parser.add_argument("--seconds", type=_number, default=SECONDS, help="how long each rate lasts (%(default)g)")
    parser.add_argument("--tasks", type=_count, default=TASKS, help="how many tasks are sent (%(default)s)")
    parser.add_argument("--target", default=SILENT, help="where they go: a URL that never answers (%(default)s)")
    parser.add_argument(
        "--patience", type=_number, default=PATIENCE, help="seconds that tasks are waited for (%(default)g)"
    )
    return parser.parse_args(argv)


def _number(given: str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = 0.0
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError(f"{given!r} is not a number above 0, and at most 3600")
    return number


def _rates(given: str) -> list[float]:
    return [_number(each) for each in given.split(",")]


def _count(given: str) -> int:
    if not given.isdecimal() or not 0 < int(given) <= 1000:
        raise argparse.ArgumentTypeError(f"{given!r} is not a whole number from 1 to 1000")
    return int(given)


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.default_int_handler)
    sys.exit(main())
