"""What a request may ask for: the limits go by what its upstream is asked, and are told in the client's own words."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from lib.dialects import DIALECTS
from lib.dialects.conversation import Conversation, Role, Turn, Words
from lib.domain.errors import InvalidRequest
from lib.runtime.catalog import Catalog, Upstream
from lib.runtime.settings import Settings
from lib.serving.start_request import StartRequest, check_limits, checked
from tests.unit.wires.test_api import NEEDED

SETTINGS = Settings.from_env(NEEDED)
TURNS: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "input": "x"}


def refused(request: StartRequest, speaks: str) -> InvalidRequest:
    catalog = Catalog(
        [Upstream(name="one", base_url="http://one.example", models=("gpt-4o", "mini*"), speaks=(speaks,))]
    )
    with pytest.raises(InvalidRequest) as caught:
        check_limits(checked(request, catalog, DIALECTS).asked, SETTINGS)
    return caught.value


@pytest.mark.parametrize("speaks", DIALECTS)
def test_a_cap_is_told_in_the_client_s_own_words_whatever_the_upstream_speaks(speaks: str) -> None:
    turn = Turn(role=Role.USER, parts=(Words(text="x"),))
    asked = Conversation(model="gpt-4o", turns=(turn,), output_tokens=70_000, output_tokens_field="most_words")
    fault = refused(StartRequest(body=asked), speaks)
    assert (fault.code, fault.param) == ("limit_exceeded", "most_words")
    assert "'most_words' may be 65536 at most here (MAX_OUTPUT_TOKENS), and is 70000" in fault.message


@pytest.mark.parametrize("speaks", DIALECTS)
def test_who_sets_no_limit_asks_for_no_number_of_tokens(speaks: str) -> None:
    """Else a service with a low cap would refuse it, and a budget would reserve the most that a model may say."""
    catalog = Catalog([Upstream(name="one", base_url="http://one.example", speaks=(speaks,))])
    turn = Turn(role=Role.USER, parts=(Words(text="x"),))
    request = StartRequest(body=Conversation(model="claude-sonnet-4-5", turns=(turn,)))
    assert checked(request, catalog, DIALECTS).asked.output_tokens is None


@pytest.mark.parametrize("dialect", ["chat_completions", "messages", "responses"])
def test_a_model_to_fall_back_to_must_be_one_of_the_upstream_s_too(dialect: str) -> None:
    def request(models: object) -> StartRequest:
        return StartRequest(body=orjson.dumps({"model": "gpt-4o", "models": models, **TURNS}), dialect=dialect)

    fault = refused(request(["mini-2", "dear"]), dialect)
    assert (fault.code, fault.param) == ("model_not_found", "models")
    assert "'dear'" in fault.message
    assert refused(request("dear"), dialect).param == "models"
    assert refused(request([["dear"]]), dialect).param == "models"
    catalog = Catalog(
        [Upstream(name="one", base_url="http://one.example", models=("gpt-4o", "mini*"), speaks=(dialect,))]
    )
    assert checked(request(["mini-2"]), catalog, DIALECTS).asked.fallbacks == ("mini-2",)
