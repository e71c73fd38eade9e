"""How much of something the users of this process may hold at once, each of them and all together.

Counts what is held now, not requests per minute: threads and memory are what one user could take from the others.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable
from typing import Self

from lib.domain.errors import TooManyRequests


class Quota:
    """At most `per_user` for each user, or whatever else is told apart, and `total` for all.

    `code` and `message` are those of the refusal; `message` says what to do about one's own limit. `retry_seconds` is
    when to come back.
    """

    def __init__(self, per_user: int, total: int, *, code: str, message: str, retry_seconds: int):
        self._per_user = per_user
        self._total = total
        self._code = code
        self._message = message
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._held: Counter[Hashable] = Counter()

    def take(self, user: Hashable, amount: int = 1) -> Share:
        """A share for `user`. Close it, or use it as a context manager. Errors: `TooManyRequests`."""
        share = Share(self, user)
        share.add(amount)
        return share

    def _add(self, user: Hashable, amount: int) -> None:
        with self._lock:
            if self._held[user] + amount > self._per_user:
                message = self._message
            elif self._held.total() + amount > self._total:
                message = f"This server is busy. Try again in {self._retry_seconds} s."
            else:
                self._held[user] += amount
                return
            self._forget(user)
        raise TooManyRequests(message, code=self._code, retry_after=self._retry_seconds)

    def _give(self, user: Hashable, amount: int) -> None:
        with self._lock:
            self._held[user] -= amount
            self._forget(user)

    def _forget(self, user: Hashable) -> None:
        if not self._held[user]:
            del self._held[user]


class Share:
    """What one request holds of a quota."""

    def __init__(self, quota: Quota, user: Hashable):
        self._quota = quota
        self._user = user
        self._amount = 0

    def add(self, amount: int) -> None:
        """Holds `amount` more. Errors: `TooManyRequests`."""
        self._quota._add(self._user, amount)
        self._amount += amount

    def close(self) -> None:
        """Gives everything back. Safe to call twice."""
        amount, self._amount = self._amount, 0
        self._quota._give(self._user, amount)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
