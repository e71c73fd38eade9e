"""Titles in whichever API the answer and the title's model speak, and what may happen between reading and writing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest

from lib.cloud.credentials import GoogleTokens
from lib.cloud.documents import Create, Documents, Patch, Put, Write
from lib.cloud.store import Store
from lib.dialects import DIALECTS
from lib.dialects.protocol import Outgoing
from lib.domain.collections import TITLES
from lib.domain.end import State
from lib.domain.errors import Unreachable
from lib.domain.generation import Generation
from lib.engine.titles import TITLE_CHARACTERS, Titles, tidied
from lib.runtime.catalog import Catalog, Upstream
from lib.runtime.settings import Settings
from lib.upstream.call import Call, new_session
from lib.upstream.credential import Credential
from tests.receiver import PATIENCE, Answer, Got, Receiver
from tests.unit.engine.memory import NEEDED, RETENTION, MemoryDocuments, new_generation, now

CHAT = "users/user/chats/chat"
ASKED = {
    "chat_completions": {"messages": [{"role": "user", "content": "First?"}, {"role": "user", "content": "Why?"}]},
    "messages": {
        "messages": [
            {"role": "user", "content": "First?"},
            {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
            {"role": "assistant", "content": "So."},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "5"}]},
        ]
    },
    "responses": {
        "input": [
            {"type": "reasoning", "content": [{"type": "text", "text": "Hm."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Why?"}]},
            {"type": "function_call_output", "call_id": "1", "output": "5"},
        ]
    },
    "gemini": {"contents": [{"parts": [{"inlineData": {}}, {"text": "Why?"}]}, {"role": "model", "parts": []}]},
}
SAID: dict[str, Any] = {
    "chat_completions": {"choices": [{"index": 0, "message": {"content": "A title"}, "finish_reason": "stop"}]},
    "messages": {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "A title"}],
        "stop_reason": "end_turn",
    },
    "responses": {
        "object": "response",
        "id": "resp_1",
        "status": "completed",
        "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A title"}]}],
    },
    "gemini": {"candidates": [{"content": {"parts": [{"text": "A title"}]}, "finishReason": "STOP"}]},
}


class Titler:
    """Firestore in memory with a chat and an ended answer, and the server of the title's model."""

    def __init__(self, speaks: str = "chat_completions") -> None:
        self.documents = MemoryDocuments()
        self.store = Store(cast(Documents, self.documents), RETENTION)
        self.server = Receiver(lambda _: says(SAID[speaks]))
        self.upstream = Upstream(name="titles", base_url=f"{self.server.url}/v1", models=("titler",), speaks=(speaks,))
        environ = {**NEEDED, "UPSTREAM_BASE_URL": self.upstream.base_url, "TITLE_MODEL": "titler"}
        self.settings = replace(Settings.from_env(environ), catalog=Catalog([self.upstream]))
        self.session = new_session()
        self.documents.commit(Create(CHAT, {"lastMessageAt": now()}))

    def ended(self, dialect: str = "chat_completions", **fields: Any) -> Generation:
        request = orjson.dumps({"model": "demo", **ASKED[dialect]})
        generation = new_generation(**{"dialect": dialect, "request": request, "state": State.COMPLETED, **fields})
        self.documents.commit(
            Create(generation.path, generation.fields()), Create(generation.message_path, {"content": "Because."})
        )
        return generation

    def write(self, generation: Generation, seconds: float = PATIENCE) -> None:
        Titles(self.settings, self.store, DIALECTS, self._call, now, seconds=seconds).write(generation.id)

    def _call(self, upstream: Upstream, outgoing: Outgoing) -> Call:
        return Call(self.session, upstream, Credential(upstream, None, GoogleTokens()), outgoing)

    @property
    def title(self) -> Any:
        (chat,) = self.documents.get(CHAT)
        return chat.fields.get("title") if chat else None


def says(body: Any) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())


@pytest.fixture
def titler() -> Iterator[Titler]:
    titler = Titler()
    yield titler
    titler.server.server_close()
    titler.session.close()


@pytest.mark.parametrize("speaks", DIALECTS)
def test_a_model_of_any_api_writes_a_title(speaks: str) -> None:
    titler = Titler(speaks)
    titler.write(titler.ended())
    assert titler.title == "A title"
    (got,) = titler.server.got
    sent = json.dumps(got.json)
    assert "<question>Why?</question>" in sent
    assert "<answer>Because.</answer>" in sent
    assert titler.settings.title_prompt in sent
    assert "100" in sent
    titler.server.server_close()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_was_asked_is_read_in_any_api(dialect: str) -> None:
    assert DIALECTS[dialect].question({"model": "demo", **ASKED[dialect]}) == "Why?"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("said", [None, 5, [], [None], [{}], [{"role": "user"}], [{"role": "user", "content": [5]}]])
def test_a_request_without_words_asks_nothing(dialect: str, said: Any) -> None:
    for field in ("messages", "input", "contents"):
        assert DIALECTS[dialect].question({"model": "demo", field: said}) == ""


def test_a_text_alone_is_a_question_of_responses() -> None:
    assert DIALECTS["responses"].question({"model": "demo", "input": "Why?"}) == "Why?"


def test_a_title_that_comes_between_reading_and_writing_stays(titler: Titler) -> None:
    def before(_: str, writes: Sequence[Write]) -> None:
        if isinstance(writes[0], Patch) and "title" in writes[0].fields:
            titler.documents.before = lambda *_: None
            titler.documents.commit(Put(CHAT, {"title": "Mine"}))

    titler.documents.before = before
    titler.write(titler.ended())
    assert titler.title == "Mine"


def test_another_change_of_the_chat_in_between_does_no_harm(titler: Titler) -> None:
    def before(_: str, writes: Sequence[Write]) -> None:
        if isinstance(writes[0], Patch) and "title" in writes[0].fields:
            titler.documents.before = lambda *_: None
            titler.documents.commit(Patch(CHAT, {"lastMessageAt": now()}))

    titler.documents.before = before
    titler.write(titler.ended())
    assert titler.title == "A title"


def test_the_claim_is_there_before_the_call(titler: Titler) -> None:
    claims: list[bool] = []

    def answer(_: Got) -> Answer:
        claims.append(f"{CHAT}/{TITLES}/claim" in titler.documents.paths())
        return says(SAID["chat_completions"])

    titler.server.answer = answer
    titler.write(titler.ended())
    assert claims == [True]


def test_firestore_that_is_away_and_a_mistake_of_ours_raise_nothing(titler: Titler) -> None:
    def away(*_: Any) -> None:
        raise Unreachable("away")

    generation = titler.ended()
    titler.documents.before = away
    titler.write(generation)
    titler.documents.before = lambda *_: None
    titler.write(titler.ended(dialect="chat_completions", request=b"not JSON"))
    assert titler.title == "A title"
    titler.documents.lose(f"{CHAT}/{TITLES}/claim")
    titler.documents.commit(Put(CHAT, {}))
    titler.settings = replace(titler.settings, catalog=Catalog([replace(titler.upstream, speaks=("none",))]))
    titler.write(titler.ended())
    assert titler.title is None


def test_a_model_that_takes_too_long_is_given_up(titler: Titler) -> None:
    over = threading.Event()

    def answer(_: Got) -> Answer:
        over.wait(PATIENCE)
        return says(SAID["chat_completions"])

    titler.server.answer = answer
    titler.write(titler.ended(), seconds=0.2)
    over.set()
    assert titler.title is None
    assert f"{CHAT}/{TITLES}/claim" not in titler.documents.paths()


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("A title", "A title"),
        ('  "A  title"  ', "A title"),
        ("\n\n# **Der Titel**\nHere is why.", "Der Titel"),
        ("「海の話」", "「海の話」"),
        ("«Titre»", "Titre"),
        ('""', ""),
        ("", ""),
        ("x" * 500, "x" * TITLE_CHARACTERS + "…"),
    ],
)
def test_a_title_is_one_line_without_marks_around_it(said: str, title: str) -> None:
    assert tidied(said) == title
