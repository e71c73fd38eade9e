"""Budgets and usage on the whole stack: however an answer ends, it is charged once, and no budget is passed."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from google.cloud.firestore_v1.base_query import FieldFilter

from local.client import Client, question
from local.demo_text import place
from local.stack import Stack

STARTS, ENOUGH_FOR = 50, 10
OUTPUT = 5_000
BUDGET = ENOUGH_FOR * OUTPUT + 2_000  # and what their questions have
MONEY = 1.0
PATIENCE = 60.0
SETTINGS = {
    "BUDGET_USER_DAY_TOKENS": str(BUDGET),
    "BUDGET_USER_MONTH_COST": str(MONEY),
    "BUDGET_SERVICE_DAY_TOKENS": "1000000000",
    "BUDGET_SHARDS": "3",
    "UPSTREAM_PRICES": "demo=2.5/10/1.25&*=1/1",
    "UPSTREAM_SPEAKS": "chat_completions,responses,messages,gemini",
    "MAX_LIVE_GENERATIONS": "60",
    "MAX_USER_STARTS": "60",
    "LEASE_SECONDS": "2",
    "MAX_ATTEMPTS": "1",
}


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    """A pair of functions of its own, with budgets."""
    yield stack.add_functions("budgeted", SETTINGS)
    stack.end("budgeted-api", "budgeted-worker")


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    client = Client(url, f"user-{uuid.uuid4().hex[:12]}")
    yield client
    client.session.close()


def asked(tokens: int, **demo: Any) -> dict[str, Any]:
    name = uuid.uuid4().hex
    return question(f"question {name}", tokens, seed=name, **demo)


def usage(client: Client) -> dict[str, dict[str, Any]]:
    listed = client.request("GET", "/v1/usage")
    assert listed.status_code == 200
    return {each["period"]: each for each in listed.json()["data"]}


def accounts(database: Any, owner: str) -> dict[str, dict[str, Any]]:
    of_owner = FieldFilter("owner", "==", owner)
    return {each.id: each.to_dict() for each in database.collection("holdfastUsage").where(filter=of_owner).get()}


def generation_of(database: Any, generation: str) -> dict[str, Any]:
    found: dict[str, Any] = database.document(f"holdfastGenerations/{generation}").get().to_dict()
    return found


def assert_charged(
    client: Client, database: Any, *, input_tokens: int, output_tokens: int, answers: int = 1, cost: int | None = None
) -> None:
    """Both of the user's accounts have exactly this, and nothing is reserved. `cost` is in millionths."""
    if cost is None:
        cost = math.ceil(input_tokens * 2.5 + output_tokens * 10)
    for each in usage(client).values():
        assert (each["inputTokens"], each["outputTokens"], each["answers"]) == (input_tokens, output_tokens, answers)
        assert (each["tokens"]["used"], each["tokens"]["reserved"]) == (input_tokens + output_tokens, 0)
    money = usage(client)["month"]["cost"]
    assert (round(money["used"] * 1e6), money["reserved"]) == (cost, 0)
    for document in accounts(database, client.user).values():
        assert document["takenTokens"] == input_tokens + output_tokens
        assert document["takenCost"] == document["cost"] == cost


def test_of_fifty_starts_at_once_a_budget_of_ten_lets_ten_pass(client: Client, database: Any) -> None:
    bodies = [asked(OUTPUT, rate=2) for _ in range(STARTS)]
    deadline = time.monotonic() + PATIENCE

    def start(body: dict[str, Any]) -> tuple[int, str, dict[str, Any]]:
        each = Client(client.url, client.user)
        with each.stream(body) as stream:
            if stream.response.status_code == 200:
                return 200, stream.generation, {}
            if stream.response.status_code == 503 and time.monotonic() < deadline:
                return start(body)  # fifty write one document at once, which Firestore may refuse
            return stream.response.status_code, "", {**stream.response.json(), "headers": stream.response.headers}

    with ThreadPoolExecutor(STARTS) as pool:
        results = list(pool.map(start, bodies))
    passed = [generation for status, generation, _ in results if status == 200]
    refused = [body for status, _, body in results if status == 429]
    others = [body for status, _, body in results if status not in (200, 429)]
    assert (len(passed), len(refused)) == (ENOUGH_FOR, STARTS - ENOUGH_FOR), others[:3]
    for body in refused:
        assert (body["error"]["code"], body["error"]["budget"]) == ("budget_reached", "user_day_tokens")
        assert body["headers"]["Retry-After"] == "5"  # running answers hold the rest, so it may be there soon
        assert "X-Should-Retry" not in body["headers"]
    reserved = usage(client)["day"]["tokens"]["reserved"]
    assert ENOUGH_FOR * OUTPUT < reserved <= BUDGET
    assert len(list(client.list())) == ENOUGH_FOR, "nothing is left of those that were refused"
    for generation in passed:
        assert client.request("POST", f"/v1/generations/{generation}/stop").status_code in (200, 202, 409)
        client.wait_until_ended(generation)
    taken = [generation_of(database, each)["charge"] for each in passed]
    assert_charged(
        client,
        database,
        input_tokens=sum(each["inputTokens"] for each in taken),
        output_tokens=sum(each["outputTokens"] for each in taken),
        answers=sum(each["outputTokens"] > 0 for each in taken),
        cost=sum(each["cost"] for each in taken),
    )


def test_an_answer_whose_reader_left_is_charged_what_the_upstream_said(client: Client, database: Any) -> None:
    body = asked(300, rate=1000)
    with client.stream(body) as stream:
        next(stream.frames())
    assert client.wait_until_ended(stream.generation)["state"] == "completed"
    assert_charged(client, database, input_tokens=len(json.dumps(body["messages"])) // 4, output_tokens=300)


def test_a_whole_body_is_charged_what_the_upstream_said(client: Client, database: Any) -> None:
    body = asked(30, rate=0)
    answer = client.complete(body)
    said = answer.json()["usage"]
    assert_charged(client, database, input_tokens=said["prompt_tokens"], output_tokens=said["completion_tokens"])


def test_a_stopped_answer_is_charged_what_was_seen(client: Client, database: Any) -> None:
    body = asked(OUTPUT, rate=50)
    with client.stream(body, X_Chat_Id="chat") as stream:
        frames = stream.frames()
        for _ in range(20):
            next(frames)
        assert client.request("POST", f"/v1/generations/{stream.generation}/stop").status_code == 200
    booked, output = booked_and_seen(database, stream.generation, body)
    assert 10 < output < OUTPUT
    assert_charged(client, database, input_tokens=booked["inputTokens"], output_tokens=output)


def booked_and_seen(database: Any, its: str, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """What a generation has reserved, and the tokens that its message has, or a fourth of its characters."""
    found = generation_of(database, its)
    content = database.document(found["messagePath"]).get().to_dict()["content"]
    return found["booked"], max(place(body["demo"]["seed"], content)[0], -(-len(content) // 4))


def test_an_answer_whose_worker_was_killed_is_charged_what_was_seen(
    client: Client, database: Any, stack: Stack
) -> None:
    body = asked(OUTPUT, rate=50)
    with client.stream(body) as stream:
        frames = stream.frames()
        for _ in range(20):
            next(frames)
        stack.processes["budgeted-worker"].kill()
        stack.restart("budgeted-worker", {**SETTINGS, "WORKER_URL": stack.url_of("budgeted-worker")})
        stack.wait_for("budgeted-worker")
        shown = client.wait_until_ended(stream.generation)
    assert shown["state"] == "incomplete"
    booked, output = booked_and_seen(database, stream.generation, body)
    assert_charged(client, database, input_tokens=booked["inputTokens"], output_tokens=output)


def test_an_answer_that_is_deleted_while_it_runs_is_charged_what_was_saved(client: Client, database: Any) -> None:
    with client.stream(asked(OUTPUT, rate=50)) as stream:
        frames = stream.frames()
        for _ in range(20):
            next(frames)
        booked = generation_of(database, stream.generation)["booked"]
        assert client.request("DELETE", f"/v1/generations/{stream.generation}").status_code == 204
    day = usage(client)["day"]
    assert (day["inputTokens"], day["answers"]) == (booked["inputTokens"], 1)
    assert 15 <= day["outputTokens"] < OUTPUT
    assert_charged(client, database, input_tokens=day["inputTokens"], output_tokens=day["outputTokens"])


def test_deleting_an_answer_that_has_ended_charges_nothing_more(client: Client, database: Any) -> None:
    answer = client.complete(asked(30, rate=0))
    said, its = answer.json()["usage"], answer.headers["X-Generation-Id"]
    assert client.request("DELETE", f"/v1/generations/{its}").status_code == 204
    assert_charged(client, database, input_tokens=said["prompt_tokens"], output_tokens=said["completion_tokens"])


def test_an_upstream_that_fails_without_output_costs_nothing(client: Client, database: Any) -> None:
    answer = client.complete(asked(30, fault={"kind": "refuse", "status": 500}))
    assert answer.status_code == 500
    assert_charged(client, database, input_tokens=0, output_tokens=0, answers=0)


def test_the_same_request_again_is_charged_once(client: Client, database: Any) -> None:
    body = asked(30, rate=0)
    first = client.complete(body, Idempotency_Key="once")
    again = client.complete(body, Idempotency_Key="once")
    assert first.headers["X-Generation-Id"] == again.headers["X-Generation-Id"]
    said = first.json()["usage"]
    assert_charged(client, database, input_tokens=said["prompt_tokens"], output_tokens=said["completion_tokens"])


def test_a_request_beyond_the_day_is_told_when_it_resets_and_gives_back_what_it_reserved(
    client: Client, database: Any
) -> None:
    refused = client.complete(asked(BUDGET))
    error = refused.json()["error"]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT00:00:00Z")
    assert refused.status_code == 429
    assert (error["code"], error["budget"], error["resets"]) == ("budget_reached", "user_day_tokens", tomorrow)
    assert "Your budget for today of tokens is not enough" in error["message"]
    assert tomorrow in error["message"]
    left = datetime.fromisoformat(tomorrow) - datetime.now(UTC)
    assert abs(int(refused.headers["Retry-After"]) - left.total_seconds()) < 30
    assert refused.headers["X-Should-Retry"] == "false"
    assert list(client.list()) == []
    assert_charged(client, database, input_tokens=0, output_tokens=0, answers=0)


MESSAGES = [{"role": "user", "content": "hello"}]
WIRES: dict[str, tuple[str, dict[str, Any], Callable[[Any], tuple[str, str]]]] = {
    "chat completions": (
        "/v1/chat/completions",
        {"model": "demo", "messages": MESSAGES, "max_tokens": BUDGET, "stream": True},
        lambda body: (body["error"]["resets"], body["error"]["code"]),
    ),
    "responses": (
        "/v1/responses",
        {"model": "demo", "input": "hello", "max_output_tokens": BUDGET, "stream": True},
        lambda body: (body["error"]["resets"], body["error"]["code"]),
    ),
    "messages": (
        "/v1/messages",
        {"model": "demo", "messages": MESSAGES, "max_tokens": BUDGET},
        lambda body: (body["error"]["details"]["resets"], body["error"]["details"]["error_code"]),
    ),
    "gemini": (
        "/v1beta/models/demo:generateContent",
        {"contents": [{"parts": [{"text": "hello"}]}], "generationConfig": {"maxOutputTokens": BUDGET}},
        lambda body: (body["error"]["details"][0]["metadata"]["resets"], body["error"]["details"][0]["reason"]),
    ),
    "callable": (
        "/",
        {"data": {"model": "demo", "messages": MESSAGES, "max_tokens": BUDGET}},
        lambda body: (body["error"]["details"]["resets"], body["error"]["details"]["code"]),
    ),
}


@pytest.mark.parametrize("wire", WIRES)
def test_each_client_protocol_says_when_the_budget_resets(client: Client, wire: str) -> None:
    path, body, read = WIRES[wire]
    refused = client.request("POST", path, json=body)
    assert refused.status_code == 429
    resets, code = read(refused.json())
    assert code == "budget_reached"
    assert datetime.fromisoformat(resets) > datetime.now(UTC)
    if wire == "callable":
        assert refused.json()["error"]["status"] == "RESOURCE_EXHAUSTED"
        assert refused.json()["error"]["details"]["retryAfter"] > 0
    else:
        assert int(refused.headers["Retry-After"]) > 0


def test_an_ai_sdk_s_chat_says_when_the_budget_resets(client: Client) -> None:
    words = "word " * (4 * BUDGET // 5)
    chat = {"id": "c", "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": words}]}]}
    refused = client.request("POST", "/api/chat", json={**chat, "model": "demo", "trigger": "submit-message"})
    assert (refused.status_code, refused.headers["Content-Type"]) == (429, "text/plain; charset=utf-8")
    assert "It resets at " in refused.text
    assert int(refused.headers["Retry-After"]) > 0


def test_money_is_counted_by_the_price_table_and_has_a_budget_of_its_own(client: Client, database: Any) -> None:
    dear = {**asked(BUDGET // 2), "n": 4}  # tokens are refused as well, but the month resets later, or on the same day
    error = client.complete(dear).json()["error"]
    assert error["budget"] in ("user_month_cost", "user_day_tokens")
    month = usage(client)["month"]
    assert (month["tokens"]["limit"], month["cost"]) == (None, {"used": 0.0, "reserved": 0.0, "limit": MONEY})


def test_nobody_sees_the_usage_of_another(client: Client, url: str) -> None:
    client.complete(asked(30, rate=0))
    other = Client(url, f"user-{uuid.uuid4().hex[:12]}")
    assert usage(client)["day"]["answers"] == 1
    assert usage(other)["day"]["answers"] == 0
    assert requests.get(f"{url}/v1/usage", timeout=PATIENCE).status_code == 401


def test_a_callable_tells_the_same_usage(client: Client) -> None:
    client.complete(asked(30, rate=0))
    told = client.request("POST", "/", json={"data": {"usage": True}}).json()
    assert told["result"]["data"] == list(usage(client).values())


def of_the_service(database: Any) -> dict[str, int]:
    """The sums of the service's day, over its shards."""
    every = [each.to_dict() for each in database.collection("holdfastUsage").get() if ".service." in each.id]
    names = ("takenTokens", "takenCost", "inputTokens", "outputTokens", "cost", "answers")
    return {name: sum(each[name] for each in every) for name in names}


def test_the_service_s_account_has_what_its_users_took(client: Client, database: Any) -> None:
    before = of_the_service(database)
    for _ in range(3):
        client.complete(asked(30, rate=0))
    day = next(each for name, each in accounts(database, client.user).items() if ".day." in name)
    after = of_the_service(database)
    assert {name: after[name] - before[name] for name in after} == {name: day[name] for name in after}
    assert day["answers"] == 3


def test_nothing_is_counted_without_a_budget(stack: Stack, database: Any) -> None:
    client = Client(stack.url, f"user-{uuid.uuid4().hex[:12]}")
    assert client.complete(asked(3, rate=0)).status_code == 200
    assert client.request("GET", "/v1/usage").json() == {"object": "list", "data": []}
    assert accounts(database, client.user) == {}
