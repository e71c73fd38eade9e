"""Firebase's web SDK with the shipped security rules: what it can read, and what it is denied."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from lib.domain.end import LIVE, State
from lib.domain.generation import Generation
from local.client import Client, question
from local.demo_text import seed_of, text
from local.stack import QUEUE, Stack
from tests.conftest import database_of
from tests.e2e.web_sdk import WEB, Attempt, WebSdk, path_of

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "firestore.rules"
DOC = ROOT / "docs" / "clients.md"
SECONDS = 120.0
DENIED = "permission-denied"
NOW = {"$": "now"}
NONE = {"$": "none"}


@pytest.fixture(scope="module")
def sdk(stack: Stack) -> WebSdk:
    assert (WEB / "node_modules").is_dir(), "The web SDK is not there: run './local/setup.sh tests'."
    return WebSdk(stack)


@pytest.fixture
def paused(stack: Stack) -> Iterator[Callable[[], object]]:
    """The queue is paused until this is called."""
    with grpc.insecure_channel(stack.tasks_host) as channel:
        tasks = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        tasks.pause_queue(name=QUEUE)
        yield partial(tasks.resume_queue, name=QUEUE)
        tasks.resume_queue(name=QUEUE)


# An app that listens, and reads no event stream.
#
# The emulator leaves a listener without its last snapshot where another one hangs up during the last commit (the commit
# then answers with an error, too). So these answers last for seconds after the one who asked has left.


@pytest.mark.parametrize(
    ("tokens", "demo"),
    [
        (200, {"rate": 40}),
        (6_000, {"rate": 2_000}),
        (1_500, {"rate": 500, "token_bytes": 600}),
        (6, {"rate": 3, "token_bytes": 500_000}),
    ],
    ids=["200 tokens", "many segments", "more than one document of text", "events of several documents"],
)
def test_a_listener_sees_the_text_grow_to_the_whole_answer(
    sdk: WebSdk, client: Client, database: Any, tokens: int, demo: dict[str, Any]
) -> None:
    asked = question(f"followed {tokens}", tokens, **demo)
    *shown, last = sdk.follow(client.user, "m1", asked)
    expected = text(seed_of(asked["messages"]), tokens, demo.get("token_bytes", 0))

    texts = [each["text"] for each in shown]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert expected.startswith(texts[-1])
    assert len({text for text in texts if 0 < len(text) < len(expected)}) > 1
    assert last["message"]["content"] == expected
    journal = database.collection(f"{path_of(client.user, 'm1')}/holdfastJournal").order_by("first").get()
    assert "".join(each.get("text") for each in journal) == expected


def test_a_listener_sees_each_state_in_its_turn(sdk: WebSdk, client: Client, paused: Callable[[], object]) -> None:
    states = []
    for shown in sdk.follow(client.user, "m1", question("states", 60, rate=20)):
        if "state" in shown and shown["state"] not in states[-1:]:
            states.append(shown["state"])
            if states[-1] == "queued":
                paused()
    assert states == [None, "queued", "streaming", "completed"]
    assert shown["message"]["state"] == "completed"


def test_the_documented_example_shows_the_answer_to_its_end(sdk: WebSdk, client: Client) -> None:
    example, _ = snippets()
    asked = question("as documented", 80, rate=40)
    given = "model: 'demo', messages, stream: true"
    assert example.count(given) == 1
    around = f"""
        import {{ firestoreOf, order, say }} from './app.mjs';
        const {{ url, token, chat, id, body }} = order;
        const db = firestoreOf(token);
        const user = {{ uid: order.user, getIdToken: async () => token }};
        const bubble = {{ set textContent(text) {{ say(text); }} }};
        {example.replace(given, "...body, stream: true")}
        process.exit();
    """
    shown = sdk.run(around, client.user, "m1", asked)
    assert shown[-1] == text(seed_of(asked["messages"]), 80)
    assert all(later.startswith(earlier) for earlier, later in pairwise(shown))


def test_the_documented_stop_saves_what_there_is(sdk: WebSdk, client: Client) -> None:
    imports, _, stop = snippets()[1].partition("\n\n")
    asked = question("stopped as documented", 4_000, rate=40)
    around = f"""
        {imports}
        import * as firestore from '@firebase/firestore';
        import {{ follow }} from 'holdfast-client';
        import {{ firestoreOf, order, say }} from './app.mjs';
        import {{ ask }} from './asking.mjs';
        const db = firestoreOf(order.token);
        let stopped;
        const onUpdate = ({{ text, message }}) => {{ if (text) stopped ??= stop(message); }};
        const following = follow(firestore, db, order.path, {{ onUpdate }});
        await ask(order);
        const {{ state, content }} = await following;
        say([state, content]);
        process.exit();
        async function stop(message) {{ {stop} }}
    """
    ((state, content),) = sdk.run(around, client.user, "m1", asked)
    whole = text(seed_of(asked["messages"]), 4_000)
    assert (state, whole.startswith(content), 0 < len(content) < len(whole)) == ("stopped", True, True)


def test_a_listener_passes_over_what_a_lost_attempt_left_of_large_events(
    sdk: WebSdk, client: Client, database: Any
) -> None:
    """Its successor has other events at those numbers, and more documents are left than it overwrites."""
    *_, last = sdk.follow(client.user, "m1", question("left", 6_000, rate=0))
    message = database.document(path_of(client.user, "m1"))
    journal = message.collection("holdfastJournal")
    segment = next(each for each in journal.order_by("first").get() if 1 < each.get("first") < each.get("last") - 1)
    for number in (segment.get("first"), segment.get("first") + 1):
        for part in range(1, 4):
            left = {**segment.to_dict(), "first": number, "last": number, "text": "lost", "attempt": 0}
            journal.document(f"{number}.{part:03}").set(left)
    message.update({"finishedAt": None})
    listening = """
        import * as firestore from '@firebase/firestore';
        import { follow } from 'holdfast-client';
        import { firestoreOf, order, say } from './app.mjs';
        const db = firestoreOf(order.token);
        const onUpdate = ({ text }) => { if (text) { say(text); process.exit(); } };
        await follow(firestore, db, order.path, { onUpdate });
    """
    assert sdk.run(listening, client.user, "m1", {}) == [last["message"]["content"]]


def snippets() -> list[str]:
    """The JavaScript of the document's section."""
    _, _, section = DOC.read_text(encoding="utf-8").partition("## Firestore listener")
    return re.findall(r"```js\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)


# What the rules allow, and what they deny


@dataclass(frozen=True)
class Kept:
    """A whole answer's documents: what its owner may read, and what is the server's."""

    owner: str
    message: str
    generation: str
    sealed: str
    part: str

    @property
    def shown(self) -> list[str]:
        return [self.message, f"{self.message}/holdfastJournal/head", self.sealed, self.part]

    @property
    def hidden(self) -> list[str]:
        return [self.generation, f"{self.generation}/holdfastRequest/0", "holdfastTurns/one"]


@pytest.fixture(scope="module", params=["in a chat", "of no chat"])
def kept(request: pytest.FixtureRequest, stack: Stack, database: Any) -> Kept:
    owner = f"user-{uuid.uuid4().hex[:12]}"
    client = Client(stack.url, owner)
    headers = {"X_Chat_Id": "kept", "X_Message_Id": "answer"} if request.param == "in a chat" else {}
    with client.stream(question(request.param, 1_000, rate=0, token_bytes=1_000), **headers) as stream:
        assert [frame.data for frame in stream.frames()][-1] == "[DONE]"
    client.session.close()
    generation = f"holdfastGenerations/{stream.generation}"
    message = database.document(generation).get().get("messagePath")
    database.document(f"{generation}/holdfastRequest/0").set({"body": b"{}"})
    database.document("holdfastTurns/one").set({"turns": [stream.generation]})
    part = database.document(message).get().get("parts")[0]
    return Kept(owner, message, generation, f"{message}/holdfastJournal/1", f"{message}/holdfastParts/{part}")


def parent(path: str) -> str:
    return path.rpartition("/")[0]


def reads(kept: Kept, user: str | None) -> list[Attempt]:
    """Every way to read what an owner may read."""
    return [
        *[Attempt(user, action, path) for path in kept.shown for action in ("get", "listen")],
        *[Attempt(user, action, parent(path)) for path in kept.shown for action in ("list", "follow")],
        Attempt(user, "ordered", f"{kept.message}/holdfastJournal"),
    ]


def test_an_owner_reads_the_message_its_journal_and_its_parts(sdk: WebSdk, kept: Kept, database: Any) -> None:
    assert all(database.document(path).get().exists for path in kept.shown)
    assert set(sdk.outcomes(reads(kept, kept.owner))) == {"ok"}


@pytest.mark.parametrize("user", ["mallory", None], ids=["another user", "nobody"])
def test_nobody_else_reads_any_of_it(sdk: WebSdk, kept: Kept, user: str | None) -> None:
    assert set(sdk.outcomes(reads(kept, user))) == {DENIED}


def test_an_owner_reads_nothing_beside_his_own_answers(sdk: WebSdk, kept: Kept) -> None:
    attempts = [
        *[Attempt(kept.owner, action, path) for path in kept.hidden for action in ("get", "listen")],
        *[Attempt(kept.owner, action, parent(path)) for path in kept.hidden for action in ("list", "follow")],
        Attempt(kept.owner, "owned", "holdfastGenerations", kept.owner),
        *[
            Attempt(kept.owner, "group", name)
            for name in ("messages", "holdfastJournal", "holdfastParts", "holdfastRequest", "holdfastTurns")
        ],
        Attempt(kept.owner, "get", "users/mallory/messages/m1"),
        Attempt(kept.owner, "get", f"users/{kept.owner}"),
        Attempt(kept.owner, "get", "else/where"),
    ]
    assert set(sdk.outcomes(attempts)) == {DENIED}


@pytest.mark.parametrize("who", ["the owner", "another user", "nobody"])
def test_no_client_writes_a_message_a_journal_a_part_a_generation_or_a_request(
    sdk: WebSdk, kept: Kept, database: Any, who: str
) -> None:
    user = {"the owner": kept.owner, "another user": "mallory", "nobody": None}[who]
    paths = [*kept.shown, *kept.hidden]
    before = [database.document(path).get() for path in paths]
    assert all(each.exists for each in before)
    attempts = [
        *[Attempt(user, "update", path, {"text": "mine"}) for path in paths],
        *[Attempt(user, "merge", path, {"text": "mine"}) for path in paths],
        *[Attempt(user, "set", path, {"owner": user, "text": "mine"}) for path in paths],
        *[Attempt(user, "delete", path) for path in paths],
        *[Attempt(user, "set", f"{parent(path)}/new", {"owner": user, "text": "mine"}) for path in paths],
        *[Attempt(user, "set", f"{path}/below/new", {"owner": user, "text": "mine"}) for path in paths],
    ]
    assert set(sdk.outcomes(attempts)) == {DENIED}
    after = [database.document(path).get() for path in paths]
    assert [each.update_time for each in after] == [each.update_time for each in before]
    assert not any(database.document(f"{parent(path)}/new").get().exists for path in paths)


# A stop by a write


def test_a_client_stops_its_answer_with_a_write(sdk: WebSdk, client: Client) -> None:
    asked = question("stopped by a write", 4_000, rate=40)
    *shown, last = sdk.follow(client.user, "m1", asked, stop_at=400)
    message = last["message"]
    assert (message["state"], message["reason"], message["stoppedBy"]) == ("stopped", "stopped", "user")
    whole = text(seed_of(asked["messages"]), 4_000)
    assert 0 < len(message["content"]) < len(whole)
    assert whole.startswith(message["content"])
    assert message["content"].startswith(shown[-1]["text"])
    assert client.show(message["generationId"])["state"] == "stopped"


def test_a_stop_that_is_written_before_a_worker_comes_makes_no_upstream_call(
    sdk: WebSdk,
    client: Client,
    database: Any,
    paused: Callable[[], object],
    upstream_calls: Callable[[str], list[dict[str, Any]]],
) -> None:
    what = f"never asked for {uuid.uuid4().hex}"
    message = database.document(path_of(client.user, "m1"))
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(client.stream, question(what, 20), X_Chat_Id="followed", X_Message_Id="m1")
        while not (queued := message.get()).exists:
            assert not asking.done(), asking.exception()
            time.sleep(0.05)
        generation = queued.get("generationId")
        stop = Attempt(client.user, "update", f"holdfastGenerations/{generation}", {"stopRequestedAt": NOW})
        assert sdk.outcomes([stop]) == ["ok"]
        paused()
        asking.result().leave()
    assert client.wait_until_ended(generation)["state"] == "stopped"
    assert message.get().get("content") == ""
    assert upstream_calls(what) == []


def running(database: Any, **changes: Any) -> str:
    """A generation's document as it is while it is worked, with these changes; nobody works this one."""
    now = datetime.now(UTC)
    generation = Generation(
        id=uuid.uuid4().hex,
        owner="alice",
        message_path="users/alice/messages/m1",
        chat_id=None,
        message_id="m1",
        model="demo",
        dialect="chat_completions",
        upstream="default",
        request=b"{}",
        request_hash="",
        created_at=now,
        expire_at=now + timedelta(days=7),
        state=State.STREAMING,
    )
    document = database.document(generation.path)
    document.create(replace(generation, **changes).fields())
    return str(document.path)


@pytest.mark.parametrize("state", LIVE)
def test_an_owner_may_ask_for_a_stop_while_the_answer_is_live(sdk: WebSdk, database: Any, state: State) -> None:
    path = running(database, state=state)
    before = database.document(path).get().to_dict()
    asked = datetime.now(UTC)
    assert sdk.outcomes([Attempt("alice", "update", path, {"stopRequestedAt": NOW})]) == ["ok"]
    after = database.document(path).get().to_dict()
    assert asked - timedelta(minutes=1) < after["stopRequestedAt"] < datetime.now(UTC) + timedelta(minutes=1)
    assert after == before | {"stopRequestedAt": after["stopRequestedAt"]}


MISUSES: dict[str, tuple[dict[str, Any], Attempt]] = {
    "another's generation": ({"owner": "bob"}, Attempt("alice", "update", "", {"stopRequestedAt": NOW})),
    "nobody": ({}, Attempt(None, "update", "", {"stopRequestedAt": NOW})),
    "another field": ({}, Attempt("alice", "update", "", {"state": "stopped"})),
    "another field as well": ({}, Attempt("alice", "update", "", {"stopRequestedAt": NOW, "state": "stopped"})),
    "a further field": ({}, Attempt("alice", "update", "", {"stopRequestedAt": NOW, "mine": 1})),
    "a viewer's lease": ({}, Attempt("alice", "update", "", {"stopRequestedAt": NOW, "watchers.mine": NOW})),
    "the owner": ({}, Attempt("alice", "update", "", {"stopRequestedAt": NOW, "owner": "bob"})),
    "the whole document": ({}, Attempt("alice", "set", "", {"stopRequestedAt": NOW, "owner": "alice"})),
    "another field gone": ({}, Attempt("alice", "update", "", {"stopRequestedAt": NOW, "expireAt": NONE})),
    "a time that is past": ({}, Attempt("alice", "update", "", {"stopRequestedAt": {"$": "seconds", "from": -3600}})),
    "a time to come": ({}, Attempt("alice", "update", "", {"stopRequestedAt": {"$": "seconds", "from": 3600}})),
    "the client's own time": ({}, Attempt("alice", "update", "", {"stopRequestedAt": {"$": "seconds", "from": 0}})),
    "no time": ({}, Attempt("alice", "update", "", {"stopRequestedAt": True})),
    "a map of it": ({}, Attempt("alice", "update", "", {"stopRequestedAt.at": NOW})),
    "nothing changed": ({}, Attempt("alice", "update", "", {"stopRequestedAt": None})),
    "the field gone": ({}, Attempt("alice", "update", "", {"stopRequestedAt": NONE})),
    "twice": ({"stop_requested_at": datetime.now(UTC)}, Attempt("alice", "update", "", {"stopRequestedAt": NOW})),
    "taken back": ({"stop_requested_at": datetime.now(UTC)}, Attempt("alice", "update", "", {"stopRequestedAt": None})),
    "removed": ({"stop_requested_at": datetime.now(UTC)}, Attempt("alice", "update", "", {"stopRequestedAt": NONE})),
    "the document gone": ({}, Attempt("alice", "delete", "")),
    **{
        f"after it is {state}": ({"state": state}, Attempt("alice", "update", "", {"stopRequestedAt": NOW}))
        for state in State
        if state.terminal
    },
}


def test_a_client_may_write_nothing_else_to_a_generation_than_a_stop_and_that_once(sdk: WebSdk, database: Any) -> None:
    paths = [running(database, **changes) for changes, _ in MISUSES.values()]
    before = [database.document(path).get() for path in paths]
    attempts = [replace(attempt, path=path) for path, (_, attempt) in zip(paths, MISUSES.values(), strict=True)]
    outcomes = sdk.outcomes(attempts)
    assert dict(zip(MISUSES, outcomes, strict=True)) == dict.fromkeys(MISUSES, DENIED)
    after = [database.document(path).get() for path in paths]
    assert [each.update_time for each in after] == [each.update_time for each in before]


def test_a_stop_tells_nothing_of_whether_another_s_generation_is_there(sdk: WebSdk, database: Any) -> None:
    paths = [running(database), f"holdfastGenerations/{uuid.uuid4().hex}"]
    for action in ("update", "merge", "set", "delete", "get"):
        attempts = [Attempt("mallory", action, path, {"stopRequestedAt": NOW}) for path in paths]
        assert sdk.outcomes(attempts) == [DENIED, DENIED]


# An app's own rules beside these


@pytest.fixture(scope="module")
def merged(stack: Stack) -> WebSdk:
    """A project whose rules are ours and, as their comment says, an app's for its own messages."""
    project = f"demo-{uuid.uuid4().hex[:12]}"
    rules = RULES.read_text(encoding="utf-8")
    theirs = "\n".join(line.removeprefix("//   ") for line in rules.split("\n") if line.startswith("//   "))
    assert theirs.count("allow ") == 3
    opened = re.subn(r"(?m)^    match .*/messages/\{message\} \{$", lambda match: f"{match[0]}\n{theirs}", rules)
    assert opened[1] == 2
    content = {"rules": {"files": [{"name": "firestore.rules", "content": opened[0]}]}}
    url = f"http://{stack.firestore_host}/emulator/v1/projects/{project}:securityRules"
    answer = requests.put(url, json=content, timeout=SECONDS)
    assert answer.status_code == 200, answer.text
    return WebSdk(stack, project)


@pytest.mark.parametrize("messages", ["users/alice/messages", "users/alice/chats/c1/messages"])
def test_an_app_may_let_users_write_their_own_messages_and_no_answer(
    merged: WebSdk, stack: Stack, messages: str
) -> None:
    answer, own = f"{messages}/answer", f"{messages}/own"
    database = database_of(stack, merged.project)
    database.document(answer).set({"role": "assistant", "content": "hello", "generationId": "g1"})
    written = database.document(answer).get().update_time
    allowed = [
        Attempt("alice", "set", own, {"role": "user", "content": "hi"}),
        Attempt("alice", "update", own, {"content": "hi there"}),
        Attempt("alice", "list", messages),
    ]
    assert merged.outcomes(allowed) == ["ok"] * 3
    denied = [
        Attempt("alice", "update", answer, {"content": "mine"}),
        Attempt("alice", "update", answer, {"generationId": NONE}),
        Attempt("alice", "set", answer, {"role": "user", "content": "mine"}),
        Attempt("alice", "delete", answer),
        Attempt("alice", "set", f"{messages}/forged", {"role": "assistant", "generationId": "g2"}),
        Attempt("alice", "update", own, {"generationId": "g2"}),
        Attempt("alice", "set", f"{own}/holdfastJournal/head", {"text": "mine"}),
        Attempt("mallory", "set", f"{messages}/other", {"role": "user"}),
        Attempt("mallory", "delete", own),
        Attempt(None, "update", own, {"content": "mine"}),
    ]
    assert merged.outcomes(denied) == [DENIED] * len(denied)
    assert database.document(answer).get().update_time == written
    assert merged.outcomes([Attempt("alice", "delete", own)]) == ["ok"]
