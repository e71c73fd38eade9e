"""The page with useChat in a real Chromium: what its user sees, compared with what the upstream sent."""

from __future__ import annotations

import json
import os
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from local.client import Client
from local.demo_text import arguments, reasoning_seed, seed_of, text
from local.process import Process
from local.stack import Stack
from local.token import id_token
from tests.e2e.browsing import browse
from tests.e2e.scripted_upstream import DONE, ROLE, Peer, Server, delta

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 60.0
ROUNDS = 20
LONG = 10_000  # tokens of an answer that is stopped, however slow the machine is
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
DATA_URL = f"data:image/png;base64,{PICTURE}"

Run = Callable[..., list[Any]]
Calls = Callable[[str], list[dict[str, Any]]]


@contextmanager
def page(api_url: str, folder: Path) -> Iterator[str]:
    """The page for this API, served as `make web` serves it."""
    command = [sys.executable, "-m", "local.web", "--port", "0", "--api-url", api_url]
    served = Process("web", command, os.environ, folder, ROOT)
    try:
        served.wait_until(lambda: "ready " in served.printed and "\n" in served.printed, WAIT_SECONDS)
        yield served.printed.split("ready ")[1].split()[0] + "/usechat/"
    finally:
        served.kill()


@pytest.fixture(scope="module")
def url(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with page(stack.url, tmp_path_factory.mktemp("web")) as url:
        yield url


@pytest.fixture
def run(stack: Stack, client: Client, url: str) -> Run:
    """Runs a scenario of `chats.mjs` as a user of one's own, and gives what it saw."""

    def run(scenario: str, **order: Any) -> list[Any]:
        told = {
            "url": url,
            "api": stack.url,
            "upstream": stack.upstream_url,
            "user": client.user,
            "token": id_token(client.user),
            **order,
        }
        return browse(scenario, "chats", **told)

    return run


def asked() -> str:
    return f"What about the sea? {uuid.uuid4().hex[:8]}"


def seed(question: str) -> str:
    return seed_of([{"role": "user", "content": question}])


def only(seen: Any) -> Any:
    """The one answer on the page."""
    (answer,) = seen["answers"]
    return answer


def messages(database: Any, client: Client) -> list[dict[str, Any]]:
    """What Firestore has of the user's answers, oldest first."""
    places = [(each["chatId"], each["messageId"]) for each in client.list()]
    paths = [f"users/{client.user}/chats/{chat}/messages/{message}" for chat, message in reversed(places)]
    return [database.document(path).get().to_dict() for path in paths]


def test_a_reload_amid_an_answer_goes_on_with_it_and_one_after_it_asks_for_nothing(
    run: Run, upstream_calls: Calls
) -> None:
    question = asked()
    before, after, last = run("reload", question=question, tokens=300, rate=300)
    answer = only(last)
    assert only(before)["id"] == only(after)["id"] == answer["id"]
    assert answer["texts"] == [text(seed(question), 300)]
    assert answer["texts"][0].startswith("".join(only(before)["texts"]))
    assert answer["reasoning"] == [text(reasoning_seed(seed(question)), 60)]
    assert answer["about"].startswith("Complete360 tokens")
    assert last["asked"][0] == last["asked"][1]
    assert len(upstream_calls(question)) == 1


def test_twenty_reloads_at_random_moments_show_each_answer_whole_and_once(run: Run, upstream_calls: Calls) -> None:
    """Two are before the question has arrived, and each before its answer has ended."""
    question, number = asked(), random.SystemRandom().randrange(1 << 32)
    chance = random.Random(number)
    moments = [0, 0, *(chance.randrange(2_000) for _ in range(ROUNDS - 2))]
    seen = run("reloads", question=question, tokens=300, rate=300, rounds=ROUNDS, moments=moments)
    left = [len("".join(each["left"]["texts"])) if each["left"] else 0 for each in seen]
    print(f"seed {number}: left at {left}")
    for at, each in enumerate(seen):
        assert each["questions"] == [f"{question} {at}"]
        assert only(each)["texts"] == [text(seed(f"{question} {at}"), 300)], f"round {at} of seed {number}"
    assert len(seen) == len(upstream_calls(question)) == ROUNDS
    assert all(one < len(only(each)["texts"][0]) for one, each in zip(left, seen, strict=True))


def test_a_second_tab_follows_an_answer_that_runs_and_one_that_is_asked_for_later(
    run: Run, upstream_calls: Calls
) -> None:
    question = asked()
    first, second = run("twoTabs", question=question, tokens=300, rate=300)
    assert first == second
    assert first["questions"] == [question, f"{question} again"]
    assert first["answers"][0]["texts"] == [text(seed(question), 300)]
    assert len(upstream_calls(f"{question} again")) == 1
    assert len(upstream_calls(question)) == 2


def test_a_stop_ends_the_upstream_s_read_and_keeps_what_is_on_the_page(
    run: Run, client: Client, database: Any, upstream_calls: Calls
) -> None:
    question = asked()
    stopped, reloaded = run("stop", question=question, tokens=LONG, rate=60)
    assert stopped == reloaded
    (message,) = messages(database, client)
    assert (message["state"], [message["content"]]) == ("stopped", only(stopped)["texts"])
    deadline = time.monotonic() + WAIT_SECONDS
    while not upstream_calls(question)[0]["client_gone"]:
        assert time.monotonic() < deadline, "the upstream is still read"
        time.sleep(0.05)


def test_an_answer_goes_on_while_there_is_no_network_and_then_on_the_page(run: Run, upstream_calls: Calls) -> None:
    question = asked()
    away, back = run("offline", question=question, tokens=400, rate=300)
    assert away["at"] == away["before"]
    assert only(back)["texts"] == [text(seed(question), 400)]
    assert len(upstream_calls(question)) == 1


def test_an_answer_that_ends_while_there_is_no_network_is_there_afterwards(run: Run, upstream_calls: Calls) -> None:
    question = asked()
    (seen,) = run("longOffline", question=question, tokens=200, rate=300)
    assert only(seen)["texts"] == [text(seed(question), 200)]
    assert len(upstream_calls(question)) == 1


def test_while_the_service_can_not_be_reached_the_page_says_so_and_asks_again(run: Run, upstream_calls: Calls) -> None:
    question = asked()
    away, seen = run("down", question=question, tokens=40, rate=500)
    assert away["barriers"] == []
    assert only(seen)["texts"] == [text(seed(question), 40)]
    assert len(upstream_calls(question)) == 1


def test_a_page_that_could_not_come_back_at_once_is_no_reason_for_another_answer(
    run: Run, upstream_calls: Calls
) -> None:
    question = asked()
    (seen,) = run("refusedReturn", question=question, tokens=300, rate=300)
    assert only(seen)["texts"] == [text(seed(question), 300)]
    assert len(upstream_calls(question)) == 1


def test_a_question_that_is_asked_before_the_page_knows_what_runs_is_answered_once(
    run: Run, upstream_calls: Calls
) -> None:
    question = asked()
    (seen,) = run("atOnce", question=question, tokens=300, rate=300)
    assert only(seen)["texts"] == [text(seed(question), 300)]
    assert seen["asked"] == len(upstream_calls(question)) == 1


@pytest.mark.parametrize("decision", ["Allow", "Deny"])
def test_a_tool_call_waits_for_the_user_across_reloads_and_then_the_answer_goes_on(
    run: Run, decision: str, upstream_calls: Calls
) -> None:
    question = asked()
    first, second, last = run("approval", question=question, tokens=12, rate=5, decision=decision)
    note = json.loads(arguments(seed(question), 0, 12))["text"]
    for seen in (first, second):
        assert only(seen)["tools"] == [["approval-requested", note]]
    assert second["barriers"] == []
    called, answered = last["answers"]
    allowed = decision == "Allow"
    assert called["tools"] == [["output-available" if allowed else "output-error", note]]
    assert last["notes"] == ([note] if allowed else None)
    _, *rest = upstream_calls(question)
    assert len(rest) == 1
    sent = rest[0]["request"]["messages"]
    assert sent[-1]["content"] == ('{"saved":true,"notes":1}' if allowed else "The user denied this tool call.")
    assert answered["texts"] == [text(seed_of(sent), 12)]


def test_another_answer_takes_the_first_one_s_place_and_both_are_kept(
    run: Run, client: Client, database: Any, upstream_calls: Calls
) -> None:
    question = asked()
    first, second = run("regenerate", question=question, tokens=30, rate=200)
    assert only(second["after"])["id"] != only(first)["id"]
    assert second["reloaded"] == second["after"]
    kept = messages(database, client)
    assert [each["state"] for each in kept] == ["completed", "completed"]
    assert [each["generationId"] for each in kept] == [only(first)["id"], only(second["after"])["id"]]
    assert len(upstream_calls(question)) == 2


@pytest.mark.parametrize(
    ("does", "state", "words"),
    [("breaks off", "incomplete", "saved as incomplete"), ("refuses", None, "refused with status 400")],
)
def test_an_error_says_why_and_another_try_succeeds(run: Run, does: str, state: str | None, words: str) -> None:
    question = asked()
    failed, seen = run("failing", question=question, tokens=60, rate=200, does=does, state=state)
    assert words in failed["error"]
    assert failed["barriers"] == []
    assert [(each["state"], each["texts"]) for each in failed["answers"]] == (
        [(state, [text(seed(question), 20)])] if state else []
    )
    assert only(seen)["texts"] == [text(seed(question), 60)]


class Painter(Peer):
    """Answers with a picture, another that is elsewhere, and a source."""

    def question(self) -> str:
        return ""

    def answer(self, more: bytes = b"") -> None:
        images = [{"type": "image_url", "image_url": {"url": url}} for url in (DATA_URL, "https://example.com/a.png")]
        source = {"type": "url_citation", "url_citation": {"url": "https://example.com/sea", "title": "The sea"}}
        self.stream(
            ROLE, delta(content="Here."), delta(images=images), delta(annotations=[source]), delta("stop"), DONE
        )


def test_pictures_and_sources_are_shown_and_none_is_fetched_from_elsewhere(
    stack: Stack, run: Run, tmp_path: Path
) -> None:
    with Server(Painter) as server:
        api = stack.add_functions("painter", {"UPSTREAM_BASE_URL": f"http://{server.address}/v1"})
        try:
            with page(api, tmp_path) as url:
                first, reloaded = run("files", question=asked(), picture=PICTURE, url=url, api=api)
        finally:
            stack.end("painter-api", "painter-worker")
        (request,) = server.requests[""]
    sent = next(part for part in request["messages"][0]["content"] if part["type"] == "image_url")
    assert sent["image_url"]["url"] == DATA_URL
    assert first == reloaded
    assert first == {
        "sent": DATA_URL,
        "picture": 1,
        "links": [["image/*", "https://example.com/a.png"], ["The sea", "https://example.com/sea"]],
    }


def test_the_page_is_used_by_keys_alone_and_has_no_barriers(run: Run) -> None:
    for seen in run("keys", question=asked()):
        assert seen["barriers"] == [], seen
        assert not seen["overflows"], seen
        assert seen["said"] == "Ready."


def test_each_page_leads_to_the_other_and_one_sign_in_is_enough(run: Run) -> None:
    assert run("links") == ["/", "/usechat/"]
