"""Firebase's web SDK with the shipped security rules: an app registers its user's devices, and nobody else's."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from local.stack import Stack
from tests.e2e.web_sdk import Attempt, WebSdk

DENIED = "permission-denied"
NOW = {"$": "now"}
PHONE = {"token": "t", "platform": "ios", "createdAt": NOW}
NO_DEVICES: dict[str, dict[str, Any]] = {
    "without a token": {"platform": "ios", "createdAt": NOW},
    "without a platform": {"token": "t", "createdAt": NOW},
    "without a time": {"token": "t", "platform": "ios"},
    "an empty token": {**PHONE, "token": ""},
    "a token that is no text": {**PHONE, "token": 7},
    "a token that is too long": {**PHONE, "token": "t" * 4097},
    "another platform": {**PHONE, "platform": "fridge"},
    "a time that is none": {**PHONE, "createdAt": "now"},
    "a further field": {**PHONE, "mine": 1},
}


@pytest.fixture(scope="module")
def sdk(stack: Stack) -> WebSdk:
    return WebSdk(stack)


@pytest.fixture
def path() -> str:
    return f"users/alice/holdfastDevices/{uuid.uuid4().hex}"


def test_a_user_s_devices_are_registered_read_changed_and_removed(sdk: WebSdk, path: str) -> None:
    attempts = [
        Attempt("alice", "set", path, PHONE),
        Attempt("alice", "get", path),
        Attempt("alice", "list", path.rpartition("/")[0]),
        Attempt("alice", "update", path, {"token": "t" * 4096}),
        Attempt("alice", "delete", path),
    ]
    assert sdk.outcomes(attempts) == ["ok"] * len(attempts)


def test_what_is_no_device_is_not_registered(sdk: WebSdk, path: str) -> None:
    made = [Attempt("alice", "set", f"{path}-{n}", device) for n, device in enumerate(NO_DEVICES.values())]
    assert dict(zip(NO_DEVICES, sdk.outcomes(made), strict=True)) == dict.fromkeys(NO_DEVICES, DENIED)
    changed = [Attempt("alice", "set", path, PHONE), Attempt("alice", "update", path, {"platform": "fridge"})]
    assert sdk.outcomes(changed) == ["ok", DENIED]


@pytest.mark.parametrize("user", ["mallory", None], ids=["another user", "nobody"])
def test_nobody_else_reads_or_writes_them(sdk: WebSdk, path: str, user: str | None) -> None:
    assert sdk.outcomes([Attempt("alice", "set", path, PHONE)]) == ["ok"]
    attempts = [
        *[Attempt(user, action, path) for action in ("get", "listen", "delete")],
        Attempt(user, "list", path.rpartition("/")[0]),
        Attempt(user, "group", "holdfastDevices"),
        Attempt(user, "set", path, PHONE),
        Attempt(user, "set", f"{path}-new", PHONE),
        Attempt(user, "update", path, {"token": "mine"}),
    ]
    assert sdk.outcomes(attempts) == [DENIED] * len(attempts)
