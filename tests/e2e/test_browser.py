"""The web example in a real Chromium: what its user sees, compared with what the upstream sent."""

from __future__ import annotations

import os
import random
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.client import Client
from local.demo_text import seed_of, text
from local.process import Process
from local.stack import Stack
from local.token import id_token
from tests.e2e.browsing import browse

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60.0
ROUNDS = 20
LONG = 10_000  # tokens of an answer that is stopped, however slow the machine is

Run = Callable[..., list[Any]]
Calls = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def url(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page, served as `make web` serves it, for this stack."""
    command = [sys.executable, "-m", "local.web", "--port", "0", "--api-url", stack.url]
    served = Process("web", command, os.environ, tmp_path_factory.mktemp("web"), ROOT)
    try:
        served.wait_until(lambda: "ready " in served.printed and "\n" in served.printed, READY_SECONDS)
        yield served.printed.split("ready ")[1].split()[0]
    finally:
        served.kill()


@pytest.fixture
def run(stack: Stack, client: Client, url: str) -> Run:
    """Runs a scenario of `scenarios.mjs` as a user of one's own, and gives what it saw."""

    def run(scenario: str, **order: Any) -> list[Any]:
        order |= {
            "url": url,
            "api": stack.url,
            "upstream": stack.upstream_url,
            "user": client.user,
            "token": id_token(client.user),
        }
        return browse(scenario, **order)

    return run


def said(calls: list[dict[str, Any]], tokens: int) -> str:
    """What the upstream said, which must have been asked once."""
    assert len(calls) == 1
    return text(seed_of(calls[0]["request"]["messages"]), tokens)


@pytest.fixture
def stopped(client: Client, database: Any, upstream_calls: Calls) -> Callable[[str], str]:
    """What is kept of the user's one answer, which must have been stopped, and be how the upstream's begins."""

    def stopped(question: str) -> str:
        (generation,) = client.list()
        assert generation["state"] == "stopped"
        path = f"users/{client.user}/chats/{generation['chatId']}/messages/{generation['messageId']}"
        content = str(database.document(path).get().get("content"))
        assert said(upstream_calls(question), LONG).startswith(content)
        return content

    return stopped


def asked() -> str:
    return f"What about the sea? {uuid.uuid4().hex[:8]}"


def test_a_reload_amid_an_answer_continues_where_it_was(run: Run, upstream_calls: Calls) -> None:
    question = asked()
    first, second, last = run("reload", question=question, tokens=1200, rate=400)
    assert 0 < first["before"]["seq"] <= second["at"]["seq"] < last["after"]["seq"]
    assert second["at"]["text"].startswith(first["before"]["text"])
    assert last["after"]["text"] == said(upstream_calls(question), 1200)
    start, resumed = last["calls"]
    assert start["messages"][0]["content"] == question
    assert resumed["after"] >= first["before"]["seq"]
    assert last["after"]["seams"] == 1


def test_twenty_reloads_at_random_moments_of_2000_tokens_lose_and_repeat_nothing(
    run: Run, upstream_calls: Calls
) -> None:
    question, seed = asked(), random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    moments = [chance.randrange(1_900) for _ in range(ROUNDS)]
    seen = run("reloads", question=question, tokens=2000, rate=1000, rounds=ROUNDS, moments=moments)
    equal = [each["text"] == said(upstream_calls(each["question"]), 2000) for each in seen]
    print(f"seed {seed}: left at {[each['left'] for each in seen]}; equal {sum(equal)} of {len(equal)}")
    assert equal == [True] * ROUNDS
    assert all(each["left"] < each["seq"] for each in seen), "a reload was not amid its answer"


def test_a_page_that_forgets_its_cursor_is_found_out(run: Run, stopped: Callable[[str], str]) -> None:
    question = asked()
    (seen,) = run("forgetful", question=question, tokens=LONG, rate=100)
    kept = stopped(question)
    assert seen["text"].endswith(kept)
    assert len(seen["text"]) > len(kept)


def test_a_stop_keeps_what_is_on_the_page(run: Run, stopped: Callable[[str], str]) -> None:
    question = asked()
    (seen,) = run("stop", question=question, tokens=LONG, rate=50)
    assert seen["text"] == stopped(question)


def test_an_answer_continues_while_the_page_is_offline_or_switched_off(run: Run, stopped: Callable[[str], str]) -> None:
    question = asked()
    *visits, last = run("offline", question=question, tokens=LONG, rate=80)
    assert len(visits) == 2
    for visit in visits:
        assert visit["at"] == visit["before"]
        assert visit["served"] > visit["at"]["seq"]
    assert last["after"]["text"] == stopped(question)
    resumed = [call["after"] for call in last["calls"] if "resume" in call]
    assert resumed == [visit["at"]["seq"] for visit in visits]


def test_another_device_finds_what_is_running_and_follows_it(run: Run, stopped: Callable[[str], str]) -> None:
    question = asked()
    (seen,) = run("elsewhere", question=question, tokens=LONG, rate=80)
    assert seen["text"] == stopped(question)


def test_two_tabs_queue_two_prompts_and_both_end_in_order(run: Run, client: Client, upstream_calls: Calls) -> None:
    questions = [asked(), asked()]
    states, *answers = run("tabs", questions=questions, tokens=600, rate=400)
    assert states == ["queued", "streaming"]
    for question, answer in zip(questions, answers, strict=True):
        assert answer["text"] == said(upstream_calls(question), 600)
    second, first = client.list()
    assert [first["state"], second["state"]] == ["completed", "completed"]
    assert first["chatId"] == second["chatId"]
    assert first["finishedAt"] <= second["startedAt"]


def test_while_the_service_can_not_be_reached_the_page_says_so_and_asks_again(run: Run, upstream_calls: Calls) -> None:
    question = asked()
    away, back = run("down", question=question, tokens=40, rate=500)
    assert away == {"said": "Connection lost, trying again.", "barriers": []}
    assert back["said"] == "Answer: Complete."
    assert back["text"] == said(upstream_calls(question), 40)


def test_a_sign_in_whose_token_has_run_out_is_renewed_without_a_word(run: Run, upstream_calls: Calls) -> None:
    question = asked()
    (seen,) = run("expired", question=question, tokens=40, rate=500)
    assert seen["text"] == said(upstream_calls(question), 40)


def test_who_signs_out_amid_an_answer_finds_it_again_and_nobody_else_does(
    run: Run, stopped: Callable[[str], str]
) -> None:
    question = asked()
    other, seen = run("signedOut", question=question, tokens=LONG, rate=80)
    assert other == {"focused": "name", "turns": 0}
    assert seen["text"] == stopped(question)


def test_a_refusal_says_why_and_can_be_tried_again(run: Run) -> None:
    for seen in run("refused", question=asked(), tokens=40, rate=500):
        assert seen["state"] == "Not answered"
        assert re.fullmatch(r"uid can't be used as an id: .*\.", seen["error"])
        assert seen["said"] == f"Answer: Not answered. {seen['error']}"
        assert seen["barriers"] == []


def test_the_page_is_used_by_keys_alone_and_has_no_barriers(run: Run) -> None:
    for seen in run("keys", question=asked()):
        assert seen["barriers"] == [], seen
        assert not seen["overflows"], seen
        assert seen["opened"], seen
        assert seen["said"] == "Answer: Stopped."
