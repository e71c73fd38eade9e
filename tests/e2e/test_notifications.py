"""The web example's notifications in a real Chromium: which ends of answers are shown, and where a click leads.

The worker tells FCM's stand-in, `local/push.py`. Google's own servers and the push service of a browser's vendor can't
run here: where the page is closed, DevTools gives the browser what they would.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from local.client import Client
from local.demo_text import seed_of, text
from local.ports import HOST, free_port
from local.process import Process
from local.push import PushService
from local.stack import ROOT, Stack
from local.token import id_token
from tests.e2e.browsing import browse

READY_SECONDS = 60.0
TOKENS = 60

Run = Callable[..., list[Any]]
Calls = Callable[[str], list[dict[str, Any]]]


@dataclass
class Page:
    """The page, its API, and the upstream of that."""

    url: str
    api: str
    upstream: str


@pytest.fixture(scope="module")
def page(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page, and functions that tell the FCM which it plays."""
    fcm = free_port()
    api = stack.add_functions("notified", PushService.settings(f"{HOST}:{fcm}"))
    command = [sys.executable, "-m", "local.web", "--port", "0", "--api-url", api, "--fcm-port", str(fcm)]
    command += ["--firestore", stack.firestore_host]
    served = Process("web", command, os.environ, tmp_path_factory.mktemp("web"), ROOT)
    try:
        served.wait_until(lambda: "ready " in served.printed and "\n" in served.printed, READY_SECONDS)
        yield Page(served.printed.split("ready ")[1].split()[0], api, stack.upstream_url)
    finally:
        served.kill()
        stack.end("notified-api", "notified-worker")


@pytest.fixture
def client(page: Page) -> Iterator[Client]:
    client = Client(page.api, f"user-{uuid.uuid4().hex[:12]}")
    yield client
    client.session.close()


@pytest.fixture
def run(page: Page, client: Client) -> Run:
    """Runs a scenario of `notifications.mjs` as a user of one's own, and gives what it saw."""

    def run(scenario: str, **order: Any) -> list[Any]:
        order |= {
            "url": page.url,
            "api": page.api,
            "upstream": page.upstream,
            "user": client.user,
            "token": id_token(client.user),
        }
        return browse(scenario, scenarios="notifications", **order)

    return run


@pytest.fixture
def devices(database: Any, client: Client) -> Callable[[], list[dict[str, Any]]]:
    collection = database.collection(f"users/{client.user}/holdfastDevices")
    return lambda: [each.to_dict() for each in collection.get()]


def asked() -> str:
    return f"What about the sea? {uuid.uuid4().hex[:8]}"


def only(seen: dict[str, Any], client: Client) -> dict[str, Any]:
    """The one notification that was shown, which must be of the user's one answer, as the page has to open its chat."""
    (shown,) = seen["shown"]
    (generation,) = client.list()
    data = shown["data"].get("FCM_MSG", shown)["data"]
    assert data == {
        "chatId": seen["chat"],
        "messageId": generation["messageId"],
        "generationId": generation["id"],
        "state": "completed",
    }
    assert shown["title"] == "Your answer is ready"
    return dict(shown)


def test_an_answer_that_ends_while_its_tab_is_hidden_is_told(run: Run, client: Client) -> None:
    (seen,) = run("hidden", question=asked(), tokens=TOKENS, rate=30)
    only(seen, client)


def test_one_that_no_page_follows_is_told_by_fcm_and_a_click_opens_its_chat(
    run: Run, client: Client, upstream_calls: Calls, devices: Callable[[], list[dict[str, Any]]]
) -> None:
    question = asked()
    seen, opened = run("unfollowed", question=question, tokens=TOKENS, rate=30)
    only(seen, client)
    (call,) = upstream_calls(question)
    assert opened["text"] == text(seed_of(call["request"]["messages"]), TOKENS)
    (device,) = devices()
    assert device.keys() == {"token", "platform", "createdAt"}
    assert device["platform"] == "web"


def test_one_whose_page_is_closed_is_shown_by_the_service_worker_that_a_push_wakes(
    run: Run, client: Client, upstream_calls: Calls
) -> None:
    question = asked()
    seen, opened = run("closed", question=question, tokens=TOKENS, rate=30)
    assert len(only(seen, client)["tag"]) == 32
    (call,) = upstream_calls(question)
    assert opened["text"] == text(seed_of(call["request"]["messages"]), TOKENS)


def test_a_watched_tab_is_told_nothing(run: Run) -> None:
    assert run("watched", question=asked(), tokens=20, rate=100) == [{"shown": 0}]


@pytest.mark.parametrize("signs_out", [False, True])
def test_a_browser_whose_user_has_switched_it_off_or_signed_out_is_no_device(
    run: Run, devices: Callable[[], list[dict[str, Any]]], signs_out: bool
) -> None:
    run("off", signsOut=signs_out)
    assert devices() == []
