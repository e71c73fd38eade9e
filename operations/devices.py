"""Deletes devices that apps have not registered again for long: `python -m operations.devices --project P --delete`.

Without `--delete` it only counts. An app that registers its device at each start keeps `createdAt` new, so an old one
is of an app that nobody opens any more. FCM itself calls a token expired after 270 days, on Android alone, and until
then takes notifications for it (https://firebase.google.com/docs/cloud-messaging/manage-tokens). A device without a
date counts from when it was last written. It prints counts alone, can be interrupted, and can be run again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from lib.cloud.documents import Delete, Document, Documents, Stale
from lib.domain.collections import DEVICES
from operations.command import add_database, on_database

UNUSED_DAYS = 270
PAGE = 300


class Registered:
    """The devices of all users, counted: `seen`, those that are `old`, and those that were `deleted`."""

    def __init__(self, documents: Documents, before: datetime, *, delete: bool):
        self._documents = documents
        self._before = before
        self._delete = delete
        self.seen = self.old = self.deleted = 0

    def go_through(self) -> None:
        """Errors: `Unreachable`."""
        last: Document | None = None
        while True:
            page = self._documents.group(DEVICES, after=last, limit=PAGE, select=("createdAt",))
            old = [each for each in page if _date(each) < self._before]
            self.seen += len(page)
            self.old += len(old)
            if self._delete and old:
                self._take(old)
            if len(page) < PAGE:
                return
            last = page[-1]

    def _take(self, old: Sequence[Document]) -> None:
        """Deletes devices, unless they were registered again just now."""
        outcomes = self._documents.batch([Delete(each.path, each.version) for each in old])
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, Stale):
                raise outcome
            self.deleted += not isinstance(outcome, Stale)


def _date(device: Document) -> datetime:
    created = device.fields.get("createdAt")
    written: datetime = device.version.ToDatetime(UTC)
    return created if isinstance(created, datetime) else written


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if everything was counted or deleted, and 1 if Firestore can't be reached."""
    parser = argparse.ArgumentParser(
        prog="python -m operations.devices", description="Deletes devices that were not registered again for long."
    )
    add_database(parser)
    parser.add_argument("--days", type=_days, default=UNUSED_DAYS, help="since a device was registered (%(default)s)")
    parser.add_argument("--delete", action="store_true", help="delete them; else they are counted")
    options = parser.parse_args(argv)
    return on_database(options, lambda documents: _go_through(documents, options.days, delete=options.delete))


def _go_through(documents: Documents, days: int, *, delete: bool) -> int:
    devices = Registered(documents, datetime.now(UTC) - timedelta(days=days), delete=delete)
    devices.go_through()
    print(f"{devices.seen:8,} devices\n{devices.old:8,} of them not registered again for {days} days")
    print(f"{devices.deleted:8,} deleted" if delete else "Nothing was deleted. To delete them for good: --delete")
    return 0


def _days(given: str) -> int:
    if not given.isdecimal() or not 1 <= int(given) <= 36_500:
        raise argparse.ArgumentTypeError(f"{given!r} is not a number of days above 0")
    return int(given)


if __name__ == "__main__":
    sys.exit(main())
