"""The accounts on which usage is counted: one document each, which is only ever added to.

`holdfastUsage/{account}` has the sums, `owner` and `period`. No client may read it. Sums are added by Firestore itself,
in the commits that create and end generations, so that nothing is read before and nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.cloud.documents import Add, Documents, Write
from lib.domain.collections import USAGE
from lib.domain.end import Fields
from lib.domain.usage import COUNTED, KEPT, Account, Booking, Budget, Charge, Usage


class Accounts:
    """The accounts of all users, and of the service."""

    def __init__(self, documents: Documents):
        self._documents = documents

    def read(self, accounts: Sequence[Account]) -> list[Usage]:
        """What is counted on these accounts now, in one read. Errors: `Unreachable`."""
        found = self._documents.get(*[f"{USAGE}/{account.id}" for account in accounts])
        return [
            Usage.from_fields(account, document.fields if document else {})
            for account, document in zip(accounts, found, strict=True)
        ]

    def count(self, booking: Booking, charge: Charge) -> None:
        """Counts what was taken beside a generation's answer, as for its chat's title. Errors: `Unreachable`.

        It is no answer, and nothing was reserved for it.
        """
        if charge.tokens:
            added = {"takenTokens": charge.tokens, "takenCost": charge.cost, **charge.fields()}
            self._documents.commit(*[_adding(account, added) for account in booking.accounts])

    def of_day(self, day: str) -> list[Usage]:
        """All accounts of a day. Errors: `Unreachable`."""
        return self._found("period", day)

    def of_user(self, uid: str) -> list[Usage]:
        """All accounts of a user. Errors: `Unreachable`."""
        return [each for each in self._found("owner", uid) if each.account.budget is not Budget.SERVICE]

    def _found(self, field: str, value: str) -> list[Usage]:
        found = self._documents.query(USAGE, where=[(field, "==", value)])
        return [Usage.from_fields(Account.of(each.path.rpartition("/")[2]), each.fields) for each in found]


def reserving(booked: Fields) -> list[Write]:
    """The writes that reserve what a generation may take. Their sums say what is taken then."""
    if not booked:
        return []
    booking = Booking.from_fields(booked)
    added = dict.fromkeys(COUNTED.values(), 0) | {"takenTokens": booking.tokens, "takenCost": booking.cost}
    return [_adding(account, added) for account in booking.accounts]


def settling(booked: Fields, charge: Charge) -> list[Write]:
    """The writes that replace what a generation has reserved by what it took."""
    if not booked:
        return []
    booking = Booking.from_fields(booked)
    added = {
        "takenTokens": charge.tokens - booking.tokens,
        "takenCost": charge.cost - booking.cost,
        "answers": int(charge.tokens > 0),
        **charge.fields(),
    }
    return [_adding(account, added) for account in booking.accounts]


def usage_of(booked: Fields, sums: Sequence[Mapping[str, int]]) -> list[Usage]:
    """What is counted on a generation's accounts, by the sums of `reserving`."""
    accounts = Booking.from_fields(booked).accounts if booked else ()
    return [Usage.from_fields(Account.of(each), dict(its)) for each, its in zip(accounts, sums, strict=True)]


def _adding(account_id: str, added: Mapping[str, int]) -> Add:
    account = Account.of(account_id)
    about = {"owner": account.owner, "period": account.period, "expireAt": account.resets + KEPT}
    return Add(f"{USAGE}/{account_id}", about, added)
