"""The turns of a chat on the whole stack: what a second prompt does while an answer runs, over each protocol."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import requests
from google.cloud.firestore_v1.base_query import FieldFilter

from local.client import Client, question
from local.demo_text import seed_of, text
from local.stack import Stack
from tests.e2e.turns import WIRES, Chat

WAIT_SECONDS = 60.0
DEVICES = 6
UNENDING = {"tokens": 4000, "rate": 50}
STALL = {"kind": "stall", "at": 10, "times": 1}  # of the first call, which so ends by a kill alone


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def chat(client: Client) -> Chat:
    return Chat(client)


def in_order(database: Any, generation: str) -> list[Any]:
    """The documents of chats whose order a generation is in."""
    in_it = FieldFilter("turns", "array_contains", generation)
    return list(database.collection("holdfastTurns").where(filter=in_it).get())


@pytest.fixture
def order_of(database: Any) -> Callable[[str], list[str]]:
    """The order that a chat's document has, found by a generation that is in it."""

    def order_of(generation: str) -> list[str]:
        return next((each.to_dict()["turns"] for each in in_order(database, generation)), [])

    return order_of


def wait_for(something: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := something()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
    return found


def in_turn(*ended: dict[str, Any]) -> bool:
    """Whether none was begun before the one before it had ended."""
    return all(one["finishedAt"] <= next_["startedAt"] for one, next_ in pairwise(ended))


def test_a_prompt_that_is_not_to_wait_is_refused_with_the_running_one_s_id(chat: Chat, wire: str) -> None:
    running = chat.begin("reject", wire=wire, **UNENDING)
    refused = chat.ask("reject", wire=wire, stream=False)
    its = WIRES[wire]
    assert refused.status_code == 409
    assert refused.headers["X-Should-Retry" if wire != "callable" else "Content-Type"] in ("false", "application/json")
    assert running in its.message(refused)
    assert its.generation(refused) in (running, None)
    if wire == "callable":
        assert refused.json()["error"]["status"] == "ABORTED"
    chat.stop(running)
    assert chat.ended(chat.begin("reject", wire=wire))[0]["state"] == "completed"
    assert len(list(chat.client.list(chat_id=chat.id))) == 2


def test_a_prompt_that_interrupts_begins_once_the_running_one_is_stopped_and_saved(
    chat: Chat, wire: str, database: Any
) -> None:
    with chat.ask("queue", **UNENDING) as running:
        lines = running.iter_lines()  # once it is dropped, its connection is closed
        next(lines)
        first = running.headers["X-Generation-Id"]
        second = chat.begin("interrupt", wire=wire)
        stopped, ended = chat.ended(first, second)
    assert (stopped["state"], ended["state"]) == ("stopped", "completed")
    assert in_turn(stopped, ended)
    message = database.document(f"users/{chat.client.user}/chats/{chat.id}/messages/{first}").get().to_dict()
    assert (message["state"], message["stoppedBy"]) == ("stopped", "user")
    assert message["content"]


def test_a_prompt_that_queues_is_listed_and_shown_and_begins_when_the_one_before_has_ended(
    chat: Chat, wire: str, database: Any
) -> None:
    first = chat.begin("queue", **UNENDING)
    second = chat.begin("queue", wire=wire)
    message = database.document(f"users/{chat.client.user}/chats/{chat.id}/messages/{second}").get().to_dict()
    assert chat.queued() == [second]
    assert (message["state"], message["content"]) == ("queued", "")
    chat.stop(first)
    ended = chat.ended(first, second)
    assert [each["state"] for each in ended] == ["stopped", "completed"]
    assert in_turn(*ended)


def test_without_a_word_prompts_run_beside_each_other(chat: Chat, wire: str, database: Any) -> None:
    first = chat.begin(wire=wire, **UNENDING)
    second = chat.begin(wire=wire)
    third = chat.begin("parallel", wire=wire)
    assert {each["state"] for each in chat.ended(second, third)} == {"completed"}
    assert chat.client.show(first)["state"] == "streaming"
    chat.stop(first)
    assert not in_order(database, first)


def test_an_answer_that_was_started_without_a_word_is_in_the_way_of_a_prompt_that_takes_a_turn(chat: Chat) -> None:
    first = chat.begin(**UNENDING)
    refused = chat.ask("reject", stream=False)
    assert refused.status_code == 409
    assert first in refused.json()["error"]["message"]
    second = chat.begin("queue")
    assert chat.queued() == [second]
    chat.stop(first)
    ended = chat.ended(first, second)
    assert [each["state"] for each in ended] == ["stopped", "completed"]
    assert in_turn(*ended)


@pytest.mark.parametrize("turn", ["reject", "interrupt", "queue"])
def test_a_turn_needs_a_chat(client: Client, turn: str) -> None:
    answer = client.complete(question("which chat?", 3), X_Turn=turn)
    assert answer.status_code == 400
    assert all(name in answer.json()["error"]["message"] for name in ("X-Turn", "X-Chat-Id"))
    data = {"model": "demo", **question("which chat?", 3), "turn": turn}
    called = client.request("POST", "/", json={"data": data})
    assert called.status_code == 400
    assert all(name in called.json()["error"]["message"] for name in ("'turn'", "'chatId'"))
    assert client.complete(question("which chat?", 3), X_Turn="parallel").status_code == 200


def test_a_turn_that_there_is_not_is_refused(chat: Chat, client: Client) -> None:
    answer = client.complete(question("how?", 3), X_Chat_Id=chat.id, X_Turn="later")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Turn")
    assert "parallel, reject, interrupt, queue" in answer.json()["error"]["message"]


@pytest.mark.parametrize("attempt", range(20))
@pytest.mark.parametrize("turn", ["queue", "interrupt"])
def test_two_devices_at_one_instant_get_one_order(stack: Stack, chat: Chat, turn: str, attempt: int) -> None:
    devices = [Client(stack.url, chat.client.user) for _ in range(2)]

    def ask(device: Client) -> str:
        its = Chat(device)
        its.id = chat.id
        return its.begin(turn, tokens=4, rate=100)

    with ThreadPoolExecutor(2) as pool:
        asked = list(pool.map(ask, devices))
    ended = sorted(chat.ended(*asked), key=lambda each: each["startedAt"] or each["finishedAt"])
    assert all(each["state"] in ("completed", "stopped" if turn == "interrupt" else "") for each in ended)
    assert ended[-1]["state"] == "completed"
    assert in_turn(*[each for each in ended if each["startedAt"]])
    assert {each["attempt"] for each in ended} <= {0, 1}


def test_of_many_devices_at_one_instant_one_is_taken_and_the_others_are_refused(stack: Stack, chat: Chat) -> None:
    def ask(_: int) -> requests.Response:
        its = Chat(Client(stack.url, chat.client.user))
        its.id = chat.id
        with its.ask("reject", **UNENDING) as answer:
            if answer.status_code != 200:
                assert answer.content  # reads it
            return answer

    with ThreadPoolExecutor(DEVICES) as pool:
        answers = list(pool.map(ask, range(DEVICES)))
    (taken,) = [each.headers["X-Generation-Id"] for each in answers if each.status_code == 200]
    assert [each.status_code for each in answers].count(409) == DEVICES - 1
    assert all(each.json()["error"]["generation"] == taken for each in answers if each.status_code == 409)
    chat.stop(taken)


def test_a_request_that_is_repeated_finds_its_answer_whatever_turn_it_takes(chat: Chat) -> None:
    running = chat.begin("queue", **UNENDING)
    body = question(f"again {uuid.uuid4().hex}", 3)
    for turn in ("queue", "reject"):
        asked = {"X_Chat_Id": chat.id, "X_Turn": turn, "Idempotency_Key": "again"}
        with chat.client.stream(body, **asked) as first, chat.client.stream(body, **asked) as second:
            if turn == "queue":
                assert first.generation == second.generation
            else:
                assert first.generation == second.generation == chat.queued()[0]
    assert len(chat.queued()) == 1
    chat.stop(chat.queued()[0])
    chat.stop(running)


def test_one_that_waits_is_stopped_and_the_next_moves_up(chat: Chat, order_of: Callable[[str], list[str]]) -> None:
    running = chat.begin("queue", **UNENDING)
    second, third = chat.begin("queue"), chat.begin("queue")
    assert order_of(running) == [running, second, third]
    stopped = chat.stop(second)
    assert (stopped["state"], stopped["attempt"], stopped["startedAt"]) == ("stopped", 0, None)
    assert order_of(running) == [running, third]
    chat.stop(running)
    assert chat.ended(third)[0]["state"] == "completed"
    assert order_of(third) == []


def test_one_that_waits_is_deleted_and_so_is_the_running_one_and_the_next_moves_up(
    chat: Chat, order_of: Callable[[str], list[str]]
) -> None:
    running = chat.begin("queue", **UNENDING)
    second, third = chat.begin("queue"), chat.begin("queue")
    for gone in (second, running):
        assert chat.client.request("DELETE", f"/v1/generations/{gone}").status_code == 204
        assert order_of(gone) == []
    assert chat.ended(third)[0]["state"] == "completed"


def test_one_that_interrupts_goes_before_those_that_wait_and_stops_one_that_was_to(
    chat: Chat, order_of: Callable[[str], list[str]]
) -> None:
    running = chat.begin("queue", tokens=4000, rate=50)
    queued = chat.begin("queue")
    one = chat.begin("interrupt", **UNENDING)
    wait_for(lambda: chat.client.show(one)["state"] == "streaming")
    assert order_of(one) == [one, queued]
    other = chat.begin("interrupt")
    ended = chat.ended(running, one, other, queued)
    assert [each["state"] for each in ended] == ["stopped", "stopped", "completed", "completed"]
    assert in_turn(*ended)


def test_a_viewer_of_one_that_waits_gets_keep_alives_and_then_its_answer(chat: Chat) -> None:
    running = chat.begin("queue", **UNENDING)
    with chat.ask("queue") as waiting:
        pieces = waiting.iter_content(None)
        assert next(pieces).startswith(b":"), "a comment"
        chat.stop(running)
        assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


def test_no_more_wait_than_may(stack: Stack, client: Client) -> None:
    url = stack.add_functions("few", {"MAX_WAITING_TURNS": "2", "CHAT_TURNS": "queue"})
    try:
        chat = Chat(Client(url, client.user))
        running, *waiting = [chat.begin(**UNENDING) for _ in range(3)]
        refused = chat.ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_waiting")
        assert "MAX_WAITING_TURNS" in refused.json()["error"]["message"]
        assert refused.headers["Retry-After"] == "5"
        assert chat.queued() == waiting[::-1]
        assert chat.ended(chat.begin("parallel"))[0]["state"] == "completed"
        for each in (*waiting, running):
            chat.stop(each)
    finally:
        stack.end("few-api", "few-worker")


@pytest.fixture(scope="module")
def fragile(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """Functions whose worker is to be killed, and whose answers go on from what is saved: the URL and the settings."""
    catalog = tmp_path_factory.mktemp("turns") / "upstreams.toml"
    catalog.write_text(
        f'[one]\nbase_url = "{stack.upstream_url}/v1"\nmodels = ["demo"]\n'
        'continue = "prefill"\nprefill_style = "openrouter"\n'
    )
    settings = {"UPSTREAMS_FILE": str(catalog), "LEASE_SECONDS": "2", "UNWATCHED_FLUSH_SECONDS": "0.1"}
    url = stack.add_functions("fragile", settings)
    yield url, {**settings, "WORKER_URL": stack.url_of("fragile-worker")}
    stack.end("fragile-api", "fragile-worker")


def test_a_queue_of_five_prompts_ends_whole_in_order_and_once_though_the_worker_is_killed_in_each(
    stack: Stack,
    client: Client,
    fragile: tuple[str, dict[str, str]],
    database: Any,
) -> None:
    url, settings = fragile
    chat = Chat(Client(url, client.user))
    bodies = [question(f"killed {uuid.uuid4().hex}", 60, rate=40, fault=STALL) for _ in range(5)]
    asked = []
    for body in bodies:
        with chat.client.stream(body, X_Chat_Id=chat.id, X_Turn="queue") as stream:
            asked.append(stream.generation)
    for each in asked:
        wait_for(lambda each=each: chat.client.show(each)["lastSeq"] > 3)
        stack.processes["fragile-worker"].kill()
        stack.restart("fragile-worker", settings)
        stack.wait_for("fragile-worker")
    ended = chat.ended(*asked)
    assert [each["state"] for each in ended] == ["completed"] * 5
    assert all(each["attempt"] > 1 for each in ended), "each was amid its answer"
    assert in_turn(*ended)
    for each, body in zip(asked, bodies, strict=True):
        message = database.document(f"users/{client.user}/chats/{chat.id}/messages/{each}").get().to_dict()
        assert message["content"] == text(seed_of(body["messages"]), 60)
    assert len(list(chat.client.list(chat_id=chat.id))) == 5


@pytest.fixture
def queue(stack: Stack) -> Iterator[Callable[..., None]]:
    """Switches faults of the queue on, which end with the test."""
    url = f"{stack.tasks_http}/faults"

    def queue(**faults: Any) -> None:
        requests.post(url, json=faults, timeout=WAIT_SECONDS).raise_for_status()

    yield queue
    queue(unavailable=False)


def test_of_a_worker_killed_between_the_last_commit_and_the_queue_the_next_turn_comes_once_it_is_back(
    stack: Stack, client: Client, fragile: tuple[str, dict[str, str]], queue: Callable[..., None]
) -> None:
    url, settings = fragile
    chat = Chat(Client(url, client.user))
    with chat.ask("queue", tokens=20, rate=2) as running:  # slow enough for all that has to be done before its end
        lines = running.iter_lines()
        next(lines)
        first, second = running.headers["X-Generation-Id"], chat.begin("queue")
        queue(unavailable=True)
        list(lines)  # the end of the stream means saved
    stack.processes["fragile-worker"].kill()
    queue(unavailable=False)
    assert chat.queued() == [second]
    stack.restart("fragile-worker", settings)
    stack.wait_for("fragile-worker")
    ended = chat.ended(first, second)
    assert [(each["state"], each["attempt"]) for each in ended] == [("completed", 1)] * 2


def test_a_turn_that_the_api_could_not_pass_on_begins_though_nobody_asks_for_it(
    client: Client, chat: Chat, queue: Callable[..., None], database: Any
) -> None:
    """The running one is stopped before a worker has it, while the queue is away."""
    first = chat.begin("queue", **UNENDING)
    second = chat.begin("queue")
    queue(unavailable=True)
    assert client.request("DELETE", f"/v1/generations/{first}").status_code == 204
    queue(unavailable=False)
    its = database.document(f"holdfastGenerations/{second}")
    wait_for(lambda: its.get().to_dict()["state"] == "completed")
    assert its.get().to_dict()["attempt"] == 1


def test_what_failed_for_a_passing_reason_takes_a_new_turn_when_it_is_asked_again(chat: Chat) -> None:
    fault = {"kind": "refuse", "status": 503, "times": 3}
    body = {**question(f"anew {uuid.uuid4().hex}", 3, fault=fault), "stream": True}
    headers = {"X_Chat_Id": chat.id, "X_Turn": "queue", "Idempotency_Key": "anew", "X_Stainless_Retry_Count": "1"}
    with chat.client.stream(body, **headers) as failed:
        first = failed.generation
    assert chat.ended(first)[0]["state"] == "failed"
    running = chat.begin("queue", **UNENDING)
    with chat.client.stream(body, **headers) as again:
        assert again.generation == first
        assert chat.queued() == [first]
        chat.stop(running)
        list(again.frames())
    assert chat.ended(first)[0]["state"] in ("completed", "failed")
