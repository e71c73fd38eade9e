"""The operator's webhook: what is sent and signed, as the specification's own library and OpenAI's SDK read it."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import openai
import pytest
import standardwebhooks

from lib.cloud.documents import Documents
from lib.cloud.store import Store
from lib.delivery.channels import senders
from lib.delivery.sender import ALL_SECONDS, Undelivered
from lib.delivery.webhook import Webhook, secrets
from lib.domain.end import End, State
from lib.domain.errors import ConfigurationError
from lib.domain.generation import Generation
from lib.runtime.settings import Settings
from lib.upstream.call import new_session
from local.ports import HOST
from tests.receiver import Answer, Got, Receiver
from tests.unit.domain.test_generation import QUEUED
from tests.unit.engine.memory import NEEDED, MemoryDocuments

KEYS = [bytes(range(32)), bytes(range(32, 64))]
SECRETS = [f"whsec_{base64.b64encode(key).decode()}" for key in KEYS]
ENDS = {
    State.COMPLETED: End(state=State.COMPLETED, usage={"words": "canary"}),
    State.STOPPED: End(state=State.STOPPED, reason="stopped"),
    State.INCOMPLETE: End(state=State.INCOMPLETE, reason="upstream_idle", error={"message": "canary", "code": "x"}),
    State.FAILED: End(state=State.FAILED, reason="upstream_status", error={"message": "canary", "body": "canary"}),
}


def ended(state: State = State.COMPLETED, **fields: Any) -> Generation:
    generation = replace(QUEUED, id="0" * 32, request=b"canary", model="canary", headers={"h": "canary"}, **fields)
    return generation.ended(ENDS[state], 9, datetime.now(UTC))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.server_close()


@pytest.fixture
def hooked(receiver: Receiver) -> Callable[..., Webhook]:
    def hooked(url: str = receiver.url, now: datetime | None = None, seconds: float = ALL_SECONDS) -> Webhook:
        return Webhook(url, KEYS, new_session(), lambda: now or datetime.now(UTC), seconds=seconds)

    return hooked


def only(receiver: Receiver) -> Got:
    (got,) = receiver.got
    return got


@pytest.mark.parametrize("state", ENDS)
def test_each_end_has_its_event_which_names_ids_and_states_and_not_a_word(
    hooked: Callable[..., Webhook], receiver: Receiver, state: State
) -> None:
    generation = ended(state)
    hooked(f"{receiver.url}/hook?of=mine").send(generation)
    got = only(receiver)
    assert got.path == "/hook?of=mine"
    assert got.headers["content-type"] == "application/json"
    event = got.json
    assert (event["type"], event["id"]) == (f"generation.{state}", got.headers["webhook-id"])
    assert generation.finished_at is not None
    assert datetime.fromisoformat(event["timestamp"]) == generation.finished_at
    assert event["data"] == {
        "id": generation.id,
        "generationId": generation.id,
        "userId": "alice",
        "chatId": "c1",
        "messageId": "m1",
        "state": str(state),
        "reason": ENDS[state].reason,
        "createdAt": generation.created_at.isoformat(),
        "finishedAt": event["timestamp"],
    }
    assert b"canary" not in got.body
    assert "canary" not in str(got.headers)


@pytest.mark.parametrize("secret", SECRETS)
def test_whoever_knows_one_of_the_two_secrets_can_verify_an_event(
    hooked: Callable[..., Webhook], receiver: Receiver, secret: str
) -> None:
    hooked().send(ended())
    got = only(receiver)
    assert standardwebhooks.Webhook(secret).verify(got.body, dict(got.headers)) == got.json
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(f"whsec_{base64.b64encode(bytes(32)).decode()}").verify(got.body, dict(got.headers))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(secret).verify(got.body + b" ", dict(got.headers))


def test_another_try_has_the_same_id_and_a_new_time(hooked: Callable[..., Webhook], receiver: Receiver) -> None:
    generation, later = ended(), datetime.now(UTC) + timedelta(hours=1)
    hooked().send(generation)
    hooked(now=later).send(generation)
    first, second = receiver.got
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert int(second.headers["webhook-timestamp"]) == int(later.timestamp())
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


def test_a_generation_that_is_started_anew_under_its_id_has_another_event(
    hooked: Callable[..., Webhook], receiver: Receiver
) -> None:
    hooked().send(ended(State.FAILED))
    hooked().send(ended(created_at=QUEUED.created_at + timedelta(seconds=1)))
    first, second = receiver.got
    assert first.headers["webhook-id"] != second.headers["webhook-id"]


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (State.COMPLETED, "response.completed"),
        (State.STOPPED, "response.cancelled"),
        (State.INCOMPLETE, "response.incomplete"),
        (State.FAILED, "response.failed"),
    ],
)
def test_openai_s_sdk_unwraps_the_end_of_a_response(
    hooked: Callable[..., Webhook], receiver: Receiver, state: State, kind: str
) -> None:
    generation = ended(state, dialect="responses")
    hooked().send(generation)
    got = only(receiver)
    with openai.OpenAI(api_key="none") as client:
        event: Any = client.webhooks.unwrap(got.body.decode(), dict(got.headers), secret=SECRETS[1])
        assert type(event).__name__ == f"{kind.title().replace('.', '')}WebhookEvent"
        assert (event.type, event.data.id) == (kind, f"resp_{generation.id}")
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(got.body.decode() + " ", dict(got.headers), secret=SECRETS[1])


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_any_2xx_is_a_success(hooked: Callable[..., Webhook], receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _: Answer(status)
    hooked().send(ended())


def test_a_2xx_is_a_success_whatever_its_body_is_packed_in(hooked: Callable[..., Webhook], receiver: Receiver) -> None:
    receiver.answer = lambda _: Answer(200, {"Content-Encoding": "br"}, b"ok")
    hooked().send(ended())


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 404, 409, 429, 500, 503])
def test_anything_else_may_pass(hooked: Callable[..., Webhook], receiver: Receiver, status: int) -> None:
    receiver.answer = lambda got: Answer(status if got.path == "/hook" else 200, {"Location": "/elsewhere"})
    with pytest.raises(Undelivered) as failed:
        hooked(f"{receiver.url}/hook").send(ended())
    assert (failed.value.cause, failed.value.status, failed.value.final) == ("status", status, False)
    assert [got.path for got in receiver.got] == ["/hook"], "a redirect was followed"


def test_gone_is_the_end(hooked: Callable[..., Webhook], receiver: Receiver) -> None:
    receiver.answer = lambda _: Answer(410)
    with pytest.raises(Undelivered) as failed:
        hooked().send(ended())
    assert (failed.value.cause, failed.value.final) == ("gone", True)


def test_a_receiver_that_is_down_may_come_back(hooked: Callable[..., Webhook]) -> None:
    with pytest.raises(Undelivered) as failed:
        hooked("http://127.0.0.1:9/").send(ended())
    assert (failed.value.cause, failed.value.status, failed.value.final) == ("unreachable", None, False)


def test_a_receiver_that_says_nothing_is_waited_for_no_longer_than_the_bound(hooked: Callable[..., Webhook]) -> None:
    with socket.create_server((HOST, 0)) as silent, pytest.raises(Undelivered) as failed:
        hooked(f"http://{HOST}:{silent.getsockname()[1]}/", seconds=0.2).send(ended())
    assert (failed.value.cause, failed.value.final) == ("timeout", False)


@pytest.mark.parametrize("given", [SECRETS[0], " ".join(SECRETS), ",".join(SECRETS), f" {SECRETS[0]} , {SECRETS[1]} "])
def test_one_secret_is_given_or_two(given: str) -> None:
    assert secrets(given) == KEYS[: given.count("whsec_")]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "secret",
        SECRETS[0].removeprefix("whsec_"),
        "whsec_",
        "whsec_!!!!",
        f"whsec_{base64.b64encode(bytes(23)).decode()}",
        f"whsec_{base64.b64encode(bytes(65)).decode()}",
        " ".join([*SECRETS, SECRETS[0]]),
        f"{SECRETS[0]} secret",
    ],
)
def test_a_secret_that_is_none_is_refused_with_the_remedy_and_not_repeated(given: str) -> None:
    store = Store(cast(Documents, MemoryDocuments()), timedelta(days=1))
    with pytest.raises(ConfigurationError, match="WEBHOOK_SECRETS: it must be one secret, or two") as refused:
        senders(Settings.from_env(settings("https://app.example/hook")), store, {"WEBHOOK_SECRETS": given})
    assert "openssl" in str(refused.value)
    for part in given.split():
        assert len(part) < 7 or part not in str(refused.value)


def settings(url: str) -> dict[str, str]:
    return NEEDED | {"UPSTREAM_BASE_URL": "http://127.0.0.1:9/v1", "WEBHOOK_URL": url}


@pytest.mark.parametrize(
    "url", ["app.example", "ftp://app.example/", "https://key@app.example/", "https://a.example/#b"]
)
def test_a_url_that_can_t_be_called_is_refused_by_its_name(url: str) -> None:
    with pytest.raises(ConfigurationError, match="WEBHOOK_URL"):
        Settings.from_env(settings(url))


def test_without_a_url_there_is_no_channel() -> None:
    assert Settings.from_env(settings("")).channels == ()
    assert Settings.from_env(settings("https://app.example/hook")).channels == ("webhook",)


def test_the_event_is_json_as_any_parser_takes_it(hooked: Callable[..., Webhook], receiver: Receiver) -> None:
    hooked().send(ended())
    assert json.loads(only(receiver).body)["object"] == "event"
