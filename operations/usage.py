"""Prints what answers took: `python -m operations.usage --project P --uid UID`, or `--day 2026-11-28`.

Of a user every day and month that is counted, of a day the service and the users that took most. It reads accounts
alone, and no generation.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence

from lib.cloud.accounts import Accounts
from lib.domain.usage import MILLION, Budget, Usage
from operations.command import add_database, on_database, uid

HEADER = f"{'answers':>9} {'input':>13} {'output':>13} {'reserved':>13} {'cost':>12}  "
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if everything was printed, and 1 if Firestore can't be reached."""
    options = _options(argv)
    return on_database(options, lambda documents: _print(Accounts(documents), options))


def _print(accounts: Accounts, options: argparse.Namespace) -> int:
    rows = of_user(accounts, options.uid, options.day) if options.uid else of_day(accounts, options.day)
    print("\n".join([HEADER + ("period" if options.uid else "user"), *rows[: options.most]]) if rows else "Nothing.")
    return 0


def of_user(accounts: Accounts, uid: str, day: str | None) -> list[str]:
    """A line for each day and month of a user, the newest first, or only for one day."""
    found = sorted(accounts.of_user(uid), key=lambda each: each.account.period, reverse=True)
    return [_line(each.account.period, [each]) for each in found if day in (None, each.account.period)]


def of_day(accounts: Accounts, day: str) -> list[str]:
    """A line for the service, and one for each user, those first that took most."""
    found = accounts.of_day(day)
    service = [each for each in found if each.account.budget is Budget.SERVICE]
    users = [each for each in found if each.account.budget is Budget.DAY]
    users.sort(key=lambda each: (each.cost, each.tokens), reverse=True)
    whole = [_line("(the service)", service)] if service else []
    return whole + [_line(each.account.owner, [each]) for each in users]


def _line(name: str, usage: Iterable[Usage]) -> str:
    """The sum of some accounts. A service's day may be counted on several."""
    every = list(usage)
    counts = [sum(each.answers for each in every), sum(each.input_tokens for each in every)]
    counts += [sum(each.output_tokens for each in every), sum(each.taken_tokens - each.tokens for each in every)]
    answers, *tokens = counts
    cost = sum(each.cost for each in every) / MILLION
    return f"{answers:9,} " + " ".join(f"{each:13,}" for each in tokens) + f" {cost:12,.4f}  {name}"


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m operations.usage", description="Prints what answers took.")
    parser.add_argument("--uid", type=uid, help="a user's Firebase uid")
    parser.add_argument("--day", type=_day, help="a day in UTC, such as 2026-11-28")
    add_database(parser)
    parser.add_argument("--most", type=int, default=100, help="lines (%(default)s)")
    options = parser.parse_args(argv)
    if not options.uid and not options.day:
        parser.error("give --uid, --day, or both")
    return options


def _day(given: str) -> str:
    if not _DAY.fullmatch(given):
        raise argparse.ArgumentTypeError(f"{given!r} is not a day such as 2026-11-28")
    return given


if __name__ == "__main__":
    sys.exit(main())
