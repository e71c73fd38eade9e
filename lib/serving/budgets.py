"""What users and the service may take: what a start reserves, whether that is within the budgets, and what is used.

A start reserves what it may take in the commit that creates it, and Firestore says in its answer what the accounts have
come to. Commits on an account happen one after the other, so of starts that come together exactly those pass that the
budget is enough for, and nothing is read for it.
"""

from __future__ import annotations

import logging
import math
import random
import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from lib.cloud.accounts import Accounts
from lib.dialects.protocol import Asked
from lib.domain.end import Fields
from lib.domain.errors import BudgetReached
from lib.domain.generation import Generation
from lib.domain.usage import Account, Booking, Budget, Limits, Price, Usage
from lib.runtime.catalog import Upstream
from lib.runtime.prices import price_of
from lib.runtime.settings import Settings

BYTES_A_TOKEN = 4
PICTURE_TOKENS = 2_000
RETRY_SECONDS = 5  # where running answers hold the rest
# The beginnings of a JPEG, PNG, GIF and WebP in Base64. What it costs does not depend on its bytes.
_PICTURE = re.compile(rb"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/_=-]{1000,}")
_NAMES = {
    Budget.DAY: "Your budget for today",
    Budget.MONTH: "Your budget for this month",
    Budget.SERVICE: "This service's budget for today",
}
_OWNERS = {Budget.DAY: "user_day", Budget.MONTH: "user_month", Budget.SERVICE: "service_day"}
_UNITS = {"tokens": "tokens", "cost": "money"}

log = logging.getLogger(__name__)


class Budgets:
    """The budgets of the settings. Without any, nothing is counted, unless the settings ask for that."""

    def __init__(self, settings: Settings, accounts: Accounts):
        self._limits = settings.budgets
        self._output_tokens = settings.budget_output_tokens
        self._shards = settings.budget_shards
        self._accounts = accounts

    def booking(self, owner: str, asked: Asked, body: bytes, upstream: Upstream, now: datetime) -> Fields:
        """What a new generation reserves, for its `booked`: what its request may take.

        That is an estimate of its input, and the most output tokens that it asks for, for each of its answers.
        """
        if not self._limits:
            return {}
        owners = {Budget.SERVICE: str(random.randrange(self._shards))}  # noqa: S311
        return Booking(
            accounts=tuple(Account.at(owners.get(budget, owner), budget, now).id for budget in self._limits),
            input_tokens=input_tokens(body),
            output_tokens=(asked.output_tokens or self._output_tokens) * asked.choices,
            price=_dearest([price_of(upstream.prices, model) for model in (asked.model, *asked.fallbacks)]),
        ).fields()

    def check(self, generation: Generation, usage: Sequence[Usage]) -> None:
        """Checks what the accounts have come to with what a generation has reserved. Errors: `BudgetReached`."""
        reached = [error for each in usage for error in self._reached(generation, each)]
        if reached:
            latest = max(reached, key=lambda error: error.retry_after)
            log.warning("budget reached", extra={"generation": generation.id, "budget": latest.details["budget"]})
            raise latest

    def _reached(self, generation: Generation, usage: Usage) -> Iterator[BudgetReached]:
        booking, limits = Booking.from_fields(generation.booked), self._limit(usage.account)
        for unit, limit, taken, used, asked in (
            ("tokens", limits.tokens, usage.taken_tokens, usage.tokens, booking.tokens),
            ("cost", limits.cost, usage.taken_cost, usage.cost, booking.cost),
        ):
            if limit and taken > limit:
                held = used + asked <= limit
                yield _error(usage.account, unit, generation.created_at, held=held)

    def _limit(self, account: Account) -> Limits:
        """An account's limit, which for one of several shards is its share."""
        limits = self._limits.get(account.budget, Limits())
        if account.budget is not Budget.SERVICE:
            return limits
        tokens, cost = (max(1, limit // self._shards) if limit else 0 for limit in (limits.tokens, limits.cost))
        return Limits(tokens=tokens, cost=cost)

    def of(self, uid: str, now: datetime) -> list[tuple[Usage, Limits]]:
        """What is counted for a user in the current periods, with the limits. Errors: `Unreachable`."""
        own = {budget: limits for budget, limits in self._limits.items() if budget is not Budget.SERVICE}
        if not own:
            return []
        usage = self._accounts.read([Account.at(uid, budget, now) for budget in own])
        return list(zip(usage, own.values(), strict=True))

    def now(self, generation: Generation) -> list[Usage]:
        """A generation's accounts as they are now, where the commit that reserved on them was answered by nobody.

        Errors: `Unreachable`.
        """
        if not generation.booked:
            return []
        return self._accounts.read([Account.of(each) for each in Booking.from_fields(generation.booked).accounts])

    def service_percent(self, usage: Sequence[Usage]) -> int | None:
        """How much of the service's day is taken, by its account among those of a generation."""
        for each in usage:
            limits = self._limit(each.account)
            if each.account.budget is Budget.SERVICE and limits != Limits():
                shares = [(each.taken_tokens, limits.tokens), (each.taken_cost, limits.cost)]
                return max(round(100 * taken / limit) for taken, limit in shares if limit)
        return None


def _dearest(prices: Sequence[Price | None]) -> Price | None:
    """The price of a request that any of several models may answer."""
    known = [price for price in prices if price is not None]
    return max(known, key=lambda price: price.input + price.output, default=None)


def _error(account: Account, unit: str, now: datetime, *, held: bool) -> BudgetReached:
    """The refusal. `held`: running answers hold what the request needs, so that it may be there when one has ended."""
    resets = account.resets.isoformat().replace("+00:00", "Z")
    rest = "Running answers hold the rest of it: wait for one to end. " if held else ""
    words = f"{_NAMES[account.budget]} of {_UNITS[unit]} is not enough for this request. {rest}It resets at {resets}."
    seconds = RETRY_SECONDS if held else max(1, math.ceil((account.resets - now).total_seconds()))
    error = BudgetReached(words, retry_after=seconds)
    error.retryable = held
    error.details = {"budget": f"{_OWNERS[account.budget]}_{unit}", "resets": resets}
    return error


def input_tokens(body: bytes) -> int:
    """An estimate of a request's input tokens, rather too high than too low: by its bytes, but for pictures."""
    rest, pictures = _PICTURE.subn(b"", body)
    return -(-len(rest) // BYTES_A_TOKEN) + pictures * PICTURE_TOKENS
