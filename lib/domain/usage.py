"""What answers take, what a start reserves, and the accounts on which both are counted. Pure arithmetic.

An account is one user's day or month, or the service's day, in UTC. What a start may take is added to its accounts by
the commit that creates the generation, and the commit that ends it replaces that by what the answer took. So each
answer is counted once, however it ends. Money is in millionths of the price table's currency.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, Self

from lib.domain.end import Fields, State
from lib.domain.generation import Generation

MILLION = 1_000_000
KEPT = timedelta(days=400)  # so that a month can be compared with that of the year before


class Budget(StrEnum):
    """A budget is for a user's day, a user's month, or a day of the whole service."""

    DAY = "day"
    MONTH = "month"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Account:
    """The account of `owner` for a period: `2026-11-28`, or `2026-11`. The service's owner is a shard's number."""

    owner: str
    budget: Budget
    period: str

    @classmethod
    def at(cls, owner: str, budget: Budget, moment: datetime) -> Self:
        form = "%Y-%m" if budget is Budget.MONTH else "%Y-%m-%d"
        return cls(owner, budget, moment.astimezone(UTC).strftime(form))

    @property
    def id(self) -> str:
        """Valid as a document's id, and different for different accounts, whatever the owner is."""
        return f"{self.owner}.{self.budget}.{self.period}"

    @classmethod
    def of(cls, account_id: str) -> Self:
        owner, budget, period = account_id.rsplit(".", 2)
        return cls(owner, Budget(budget), period)

    @property
    def resets(self) -> datetime:
        """When the next period begins."""
        if self.budget is not Budget.MONTH:
            return datetime.strptime(self.period, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)
        first = datetime.strptime(self.period, "%Y-%m").replace(tzinfo=UTC)
        return (first + timedelta(days=31)).replace(day=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What a million tokens of a model cost. `cached_input` is for those of the input that came from a cache."""

    input: float
    output: float
    cached_input: float

    def of(self, spent: Spent) -> int:
        """The cost in millionths, rounded up."""
        cached = min(spent.cached, spent.input)
        exact = (spent.input - cached) * self.input + cached * self.cached_input + spent.output * self.output
        return math.ceil(round(exact, 6))


class Spent(NamedTuple):
    """The tokens of one upstream call, or of several. `cached` of the input's were read from a cache.

    A call whose `input` is 0 had one that the upstream did not say.
    """

    input: int = 0
    output: int = 0
    cached: int = 0

    @property
    def tokens(self) -> int:
        return self.input + self.output


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """What an answer took."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def fields(self) -> Fields:
        return {"inputTokens": self.input_tokens, "outputTokens": self.output_tokens, "cost": self.cost}


@dataclass(frozen=True, kw_only=True, slots=True)
class Booking:
    """What a generation has reserved on its accounts, and what is needed to settle that.

    `input_tokens` is the estimate for the request. Without a `price` nothing costs money.
    """

    accounts: tuple[str, ...]
    input_tokens: int
    output_tokens: int
    price: Price | None = None

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def cost(self) -> int:
        return self.price.of(Spent(self.input_tokens, self.output_tokens)) if self.price else 0

    def charge(self, calls: Iterable[Spent]) -> Charge:
        """What the calls of an answer took. An input that was not said is estimated: it has what was answered before.

        A call that brought nothing and said nothing took nothing.
        """
        total = Spent()
        for call in calls:
            if call.tokens:
                read = call.input or self.input_tokens + total.output
                total = Spent(total.input + read, total.output + call.output, total.cached + call.cached)
        cost = self.price.of(total) if self.price else 0
        return Charge(input_tokens=total.input, output_tokens=total.output, cost=cost)

    def fields(self) -> Fields:
        return {
            "accounts": list(self.accounts),
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "price": asdict(self.price) if self.price else None,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        return cls(
            accounts=tuple(fields["accounts"]),
            input_tokens=fields["inputTokens"],
            output_tokens=fields["outputTokens"],
            price=Price(**fields["price"]) if fields["price"] else None,
        )


def charged(generation: Generation, calls: Iterable[Spent]) -> Charge:
    """What a generation took by these calls: nothing if it is not counted, or failed without any output."""
    if not generation.booked or generation.state is State.FAILED:
        return Charge()
    return Booking.from_fields(generation.booked).charge(calls)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The most that may be taken on an account, in tokens and in money. 0: any number."""

    tokens: int = 0
    cost: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What is counted on an account: what `answers` answers took. `taken` has what running ones have reserved too."""

    account: Account
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    taken_tokens: int = 0
    taken_cost: int = 0
    answers: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @classmethod
    def from_fields(cls, account: Account, fields: Fields) -> Self:
        names = {name: camel for name, camel in COUNTED.items() if camel in fields}
        return cls(account=account, **{name: fields[camel] for name, camel in names.items()})


COUNTED = {
    "taken_tokens": "takenTokens",
    "taken_cost": "takenCost",
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "cost": "cost",
    "answers": "answers",
}
"""The fields of an account's document that are added to."""
