"""The price table: which price is a model's, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.domain.errors import ConfigurationError
from lib.domain.usage import Budget, Limits
from lib.runtime.catalog import load
from lib.runtime.prices import millionths, price_of, unpriced
from lib.runtime.settings import Settings

ONE = {"UPSTREAM_BASE_URL": "https://up.example/v1", "UPSTREAM_MODELS": "gpt-4o,gpt-*"}
MUST = {**ONE, "GOOGLE_CLOUD_PROJECT": "p", "WORKER_URL": "https://w.example/", "TASKS_INVOKER": "i@p.example"}


def test_the_closest_price_is_a_model_s_and_both_notations_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "upstreams.toml"
    file.write_text(
        """
        [default]
        base_url = "https://up.example/v1"
        models = ["gpt-4o", "gpt-*"]
        [default.prices]
        "gpt-4o" = { input = 2.5, output = 10, cached_input = 1.25 }
        "gpt-*" = { input = 5, output = 20 }
        """
    )
    by_file = load({"UPSTREAMS_FILE": str(file)})["default"]
    by_variable = load({**ONE, "UPSTREAM_PRICES": "gpt-4o=2.5/10/1.25&gpt-*=5/20"})["default"]
    assert by_file.prices == by_variable.prices
    found = [price_of(by_file.prices, model) for model in ("gpt-4o", "gpt-4o-mini", "gpt-5", "o3")]
    assert [price.input if price else None for price in found] == [2.5, 5, 5, None]
    assert found[1] is not None
    assert (found[0].cached_input if found[0] else None, found[1].cached_input) == (1.25, 5)


@pytest.mark.parametrize(
    "prices", ["gpt-4o", "gpt-4o=", "gpt-4o=1", "gpt-4o=1/x", "gpt-4o=-1/2", "gpt-4o=1/2e9", "a=nan/1"]
)
def test_a_price_that_is_none_is_refused_with_the_form_that_it_has(prices: str) -> None:
    with pytest.raises(ConfigurationError, match=r"upstream default: prices .*such as \{ 'gpt-4o\*' = \{ input = 2.5"):
        load({**ONE, "UPSTREAM_PRICES": prices})


def test_a_pattern_of_models_needs_a_price_for_all_of_them() -> None:
    prices = load({**ONE, "UPSTREAM_PRICES": "gpt-4*=1/1"})["default"].prices
    assert unpriced(prices, ("gpt-4o", "gpt-4*", "gpt-*", "*")) == ["gpt-*", "*"]


def test_a_budget_in_money_needs_a_price_for_each_model_and_one_in_tokens_none() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_env({**MUST, "BUDGET_USER_MONTH_COST": "5", "UPSTREAM_PRICES": "gpt-4o=2.5/10"})
    assert "BUDGET_USER_MONTH_COST: each model needs a price, and these have none: default: gpt-*." in str(
        refused.value
    )
    priced = Settings.from_env({**MUST, "BUDGET_USER_MONTH_COST": "5", "UPSTREAM_PRICES": "*=2.5/10"})
    assert priced.budgets == {Budget.MONTH: Limits(cost=5_000_000)}
    assert Settings.from_env({**MUST, "BUDGET_USER_DAY_TOKENS": "7"}).budgets == {Budget.DAY: Limits(tokens=7)}


def test_without_a_budget_nothing_is_counted_unless_that_is_asked_for() -> None:
    assert Settings.from_env(MUST).budgets == {}
    assert Settings.from_env({**MUST, "COUNT_USAGE": "on"}).budgets == dict.fromkeys(Budget, Limits())


@pytest.mark.parametrize("amount", ["x", "-1", "nan", "inf", "2000000"])
def test_an_amount_of_money_is_a_number(amount: str) -> None:
    assert millionths("2.50") == 2_500_000
    with pytest.raises(ConfigurationError, match="BUDGET_USER_DAY_COST: it must be an amount of money"):
        Settings.from_env({**MUST, "BUDGET_USER_DAY_COST": amount})
