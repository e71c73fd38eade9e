"""The fault matrix's judgement of what is charged: right sums pass, and each wrong one is a broken promise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.bills import about_the_bill
from chaos.promise import Observation
from tests.unit.tools.test_chaos import WHOLE, observed, saved

SAID = 40


def bill(**changes: object) -> list[str]:
    """What is broken of a completed answer of one call, charged rightly but for `changes`."""
    charge = {"inputTokens": 12, "outputTokens": SAID, "cost": 0}
    account = {"inputTokens": 12, "outputTokens": SAID, "takenTokens": 12 + SAID, "answers": 1}
    charge |= {name: changes[name] for name in charge if name in changes}
    account |= changes.pop("account", {})  # type: ignore[arg-type]
    attempt = changes.get("attempt", 1)
    last = replace(
        saved(WHOLE), attempts=(1,) * len(WHOLE), attempt=attempt, charge=charge, accounts=(account, account)
    )
    one_call = bool(changes.get("one_call"))
    seen: Observation = replace(observed(WHOLE), billed=((12, SAID),), readings=(last,), one_call=one_call)
    return list(about_the_bill(seen, last))


def test_what_the_upstream_said_and_nothing_else_is_right() -> None:
    assert bill() == []


@pytest.mark.parametrize(
    "account", [{"takenTokens": 2 * (12 + SAID)}, {"outputTokens": 2 * SAID}, {"answers": 2}, {"inputTokens": 0}, {}]
)
def test_an_account_that_has_anything_else_is_a_broken_promise(account: dict[str, int]) -> None:
    broken = bill(account=account)
    assert len(broken) == (2 if account else 0)
    assert all("expected each account to have what the answer took, once" in each for each in broken)


def test_a_charge_that_is_not_the_upstream_s_is_a_broken_promise() -> None:
    assert any("tokens of output to be charged, found 41" in each for each in bill(outputTokens=41))
    assert any("expected 12 tokens of input to be charged, found 13" in each for each in bill(inputTokens=13))


def test_a_prompt_that_only_a_lost_attempt_heard_of_may_be_estimated() -> None:
    assert not any("tokens of input" in each for each in bill(inputTokens=63, attempt=2))
    assert any("tokens of input" in each for each in bill(inputTokens=63, attempt=2, one_call=True))
