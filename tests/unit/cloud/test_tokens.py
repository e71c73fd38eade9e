"""Which tokens are accepted or rejected, and why: Firebase users' (signed, and the emulator's), apps', the queue's.

Keys are generated here and served locally.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt
from google.auth.crypt import RSASigner

from lib.cloud.tokens import (
    KEYS_SECONDS,
    REFETCH_SECONDS,
    SIGNATURE_REMOVED,
    AppTokens,
    QueueTokens,
    UserTokens,
    bearer,
)
from lib.domain.errors import HoldfastError, InvalidRequest, Unauthenticated, Unavailable

PROJECT = "demo-holdfast"
AUDIENCE = "https://worker.example/"
EMAIL = "invoker@demo-holdfast.iam.gserviceaccount.com"
UID = "alice-uid-0123456789"


@dataclass(frozen=True)
class Key:
    """A key, as Google would publish its public part under `id`."""

    id: str
    signer: RSASigner
    private: rsa.RSAPrivateKey

    def token(self, claims: dict[str, Any]) -> str:
        return str(jwt.encode(self.signer, claims, key_id=self.id).decode())


def make_key(key_id: str) -> Key:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return Key(key_id, RSASigner.from_string(pem, key_id), private)


class KeyServer:
    """Serves a JWKS, and counts requests."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b""
        self.asked = 0
        self.answers = threading.Event()
        self.answers.set()
        self.was_asked = threading.Event()
        keys = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                keys.asked += 1
                keys.was_asked.set()
                keys.answers.wait(30)
                self.send_response(keys.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(keys.body)))
                self.end_headers()
                self.wfile.write(keys.body)

            def log_message(self, *_: object) -> None:
                """It is quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/jwks"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def publish(self, *keys: Key) -> None:
        published = [pyjwt.algorithms.RSAAlgorithm.to_jwk(key.private.public_key(), as_dict=True) for key in keys]
        named = [
            {**each, "kid": key.id, "use": "sig", "alg": "RS256"} for each, key in zip(published, keys, strict=True)
        ]
        self.status, self.body = 200, json.dumps({"keys": named}).encode()

    def close(self) -> None:
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)


@pytest.fixture(scope="module")
def key() -> Key:
    return make_key("key-one")


@pytest.fixture(scope="module")
def other_key() -> Key:
    return make_key("key-two")


@pytest.fixture
def key_server(key: Key) -> Iterator[KeyServer]:
    server = KeyServer()
    server.publish(key)
    yield server
    server.close()


@pytest.fixture
def users(key_server: KeyServer) -> UserTokens:
    return UserTokens(PROJECT, keys_url=key_server.url)


Verify = Callable[[str | None], None]  # of an `Authorization` header


def alone(tokens: QueueTokens) -> Verify:
    return lambda header: tokens.verify({"Authorization": header} if header else {})


@pytest.fixture
def queue(key_server: KeyServer) -> Verify:
    return alone(QueueTokens(AUDIENCE, EMAIL, key_server.url))


@pytest.fixture(params=["nobody answers", "the answer does not come"])
def unreachable(request: pytest.FixtureRequest, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents verifiers made later from fetching keys."""
    monkeypatch.setattr("lib.cloud.tokens.FETCH_SECONDS", 0.2)
    if request.param == "nobody answers":
        key_server.close()
    else:
        key_server.answers.clear()


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Makes the fetched keys older."""
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + seconds)


def user_claims(**change: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {
        "iss": f"https://securetoken.google.com/{PROJECT}",
        "aud": PROJECT,
        "sub": UID,
        "user_id": UID,
        "auth_time": now - 60,
        "iat": now - 60,
        "exp": now + 3600,
        "firebase": {"identities": {}, "sign_in_provider": "custom"},
        **change,
    }
    return {name: value for name, value in claims.items() if value is not ...}


def task_claims(**change: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {
        "iss": "https://accounts.google.com",
        "aud": AUDIENCE,
        "email": EMAIL,
        "email_verified": True,
        "sub": "1234567890",
        "iat": now - 5,
        "exp": now + 3600,
        **change,
    }
    return {name: value for name, value in claims.items() if value is not ...}


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(claims: Any, header: Any = None) -> str:
    return f"{segment({'alg': 'none', 'typ': 'JWT'} if header is None else header)}.{segment(claims)}."


def refusal(verify: Callable[[str], object], token: str) -> HoldfastError:
    """The error for a token, after checking that it contains no part of the token."""
    with pytest.raises(HoldfastError) as refused:
        verify(f"Bearer {token}")
    said = refused.value.message + json.dumps(refused.value.body())
    for part in (token, *token.split("."), UID, "mallory"):
        assert len(part) < 4 or part not in said
    return refused.value


# The header


def test_a_bearer_token_is_taken_in_any_case_and_without_its_spaces() -> None:
    assert bearer("Bearer a.b.c") == bearer("bearer  a.b.c ") == bearer(" BEARER a.b.c") == "a.b.c"


@pytest.mark.parametrize("header", [None, ""])
def test_a_missing_header_is_told_how_to_send_one(header: str | None) -> None:
    with pytest.raises(Unauthenticated) as refused:
        bearer(header)
    assert (refused.value.status, refused.value.code) == (401, "missing_token")
    assert "Authorization: Bearer" in refused.value.message


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "a.b.c", "Bearera.b.c", "Token: abcdef"])
def test_a_header_of_another_form_is_malformed(header: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        bearer(header)
    assert (refused.value.status, refused.value.code) == (401, "malformed_token")
    assert not [word for word in header.split() if len(word) > 6 and word in refused.value.message]


# A user's ID token, signed by Google


def test_a_valid_id_token_is_its_user_s(users: UserTokens, key: Key) -> None:
    assert users.uid(f"Bearer {key.token(user_claims())}") == UID


def test_a_token_that_ended_a_moment_ago_is_still_taken(users: UserTokens, key: Key) -> None:
    assert users.uid(f"Bearer {key.token(user_claims(exp=int(time.time()) - 1))}") == UID


def test_the_keys_are_fetched_once_for_many_users(users: UserTokens, key: Key, key_server: KeyServer) -> None:
    for _ in range(3):
        users.uid(f"Bearer {key.token(user_claims())}")
    assert key_server.asked == 1


MALFORMED = [
    "abc",
    "a.b",
    "a.b.c",
    "a.b.c.d",
    "..",
    "....",
    "day.día.日本",
    f"{segment([])}.{segment([])}.x",
    f"{segment({'alg': 'RS256', 'kid': 'key-one'})}.{segment([1])}.x",
    f"{segment(1)}.{segment({})}.x",
    f"{segment(b'{')}.{segment({})}.x",
    f"{segment(bytes([255, 254]))}.{segment({})}.x",
    f"{segment({'alg': 'RS256', 'kid': 'key-one'})}.{segment(bytes([255, 254]))}.x",
    "x" * 100_000,
]


@pytest.mark.parametrize("token", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_token_is_malformed(users: UserTokens, token: str) -> None:
    refused = refusal(users.uid, token)
    assert isinstance(refused, Unauthenticated)
    assert refused.code == "malformed_token"


def test_an_expired_token_is_told_so(users: UserTokens, key: Key) -> None:
    now = int(time.time())
    refused = refusal(users.uid, key.token(user_claims(iat=now - 7200, exp=now - 3600)))
    assert isinstance(refused, Unauthenticated)
    assert refused.code == "expired_token"


def test_a_token_of_another_project_is_told_so(users: UserTokens, key: Key) -> None:
    claims = user_claims(aud="other-project", iss="https://securetoken.google.com/other-project")
    refused = refusal(users.uid, key.token(claims))
    assert isinstance(refused, Unauthenticated)
    assert refused.code == "wrong_project"


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://securetoken.google.com/mallory"},
        {"iss": "https://accounts.google.com"},
        {"iss": ...},
        {"sub": ...},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 129},
        {"exp": ...},
        {"iat": ...},
        {"iat": int(time.time()) + 3600},
    ],
    ids=",".join,
)
def test_a_signed_token_with_a_claim_that_is_wrong_is_invalid(
    users: UserTokens, key: Key, change: dict[str, Any]
) -> None:
    refused = refusal(users.uid, key.token(user_claims(**change)))
    assert isinstance(refused, Unauthenticated)
    assert refused.code == "invalid_token"


def test_a_token_signed_by_another_key_is_invalid(users: UserTokens, key: Key, other_key: Key) -> None:
    forged = jwt.encode(other_key.signer, user_claims(), key_id=key.id).decode()
    assert refusal(users.uid, forged).code == "invalid_token"


def test_a_token_of_an_unknown_key_is_invalid(users: UserTokens, other_key: Key) -> None:
    assert refusal(users.uid, other_key.token(user_claims())).code == "invalid_token"


def test_a_token_whose_words_were_changed_is_invalid(users: UserTokens, key: Key) -> None:
    header, _, signature = key.token(user_claims()).split(".")
    changed = f"{header}.{segment(user_claims(sub='mallory'))}.{signature}"
    assert refusal(users.uid, changed).code == "invalid_token"


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "typ": "JWT"},
        {"alg": "none", "kid": "key-one"},
        {"alg": "RS256", "kid": "key-one"},
        {"alg": "RS256", "kid": ["key-one"]},
        {"alg": "HS256", "kid": "key-one"},
        {"alg": "ES256", "kid": "key-one"},
        {"alg": ["RS256"], "kid": "key-one"},
        {},
    ],
    ids=json.dumps,
)
def test_an_unsigned_token_is_invalid(users: UserTokens, header: dict[str, Any]) -> None:
    refused = refusal(users.uid, unsigned(user_claims(), header))
    assert isinstance(refused, Unauthenticated)
    assert refused.code == "invalid_token"


def test_where_the_keys_can_not_be_reached_the_service_is_unavailable(
    unreachable: None, key: Key, key_server: KeyServer
) -> None:
    refused = refusal(UserTokens(PROJECT, keys_url=key_server.url).uid, key.token(user_claims()))
    assert isinstance(refused, Unavailable)
    assert (refused.status, refused.code) == (503, "unavailable")
    assert key_server.url not in refused.message


@pytest.mark.parametrize("status", [404, 500, 503])
def test_where_the_keys_are_not_served_the_service_is_unavailable(
    users: UserTokens, key: Key, key_server: KeyServer, status: int
) -> None:
    key_server.status = status
    assert isinstance(refusal(users.uid, key.token(user_claims())), Unavailable)


def test_a_user_whose_name_no_path_can_take_is_refused(users: UserTokens, key: Key) -> None:
    with pytest.raises(InvalidRequest) as refused:
        users.uid(f"Bearer {key.token(user_claims(sub='alice/messages'))}")
    assert refused.value.param == "uid"


# On the Firebase Auth emulator


@pytest.fixture
def emulated(key_server: KeyServer) -> UserTokens:
    return UserTokens(PROJECT, emulated=True, keys_url=key_server.url)


def test_with_the_emulator_an_unsigned_token_is_its_user_s(emulated: UserTokens, key_server: KeyServer) -> None:
    assert emulated.uid(f"Bearer {unsigned(user_claims())}") == UID
    assert key_server.asked == 0


def test_with_the_emulator_too_an_expired_token_is_told_so(emulated: UserTokens) -> None:
    now = int(time.time())
    assert refusal(emulated.uid, unsigned(user_claims(iat=now - 7200, exp=now - 3600))).code == "expired_token"


def test_with_the_emulator_a_token_of_another_project_is_told_so(emulated: UserTokens) -> None:
    claims = user_claims(aud="other-project", iss="https://securetoken.google.com/other-project")
    assert refusal(emulated.uid, unsigned(claims)).code == "wrong_project"


@pytest.mark.parametrize("token", MALFORMED, ids=range(len(MALFORMED)))
def test_with_the_emulator_too_what_is_no_token_is_malformed(emulated: UserTokens, token: str) -> None:
    assert refusal(emulated.uid, token).code == "malformed_token"


def test_with_the_emulator_a_token_without_a_user_is_invalid(emulated: UserTokens) -> None:
    assert refusal(emulated.uid, unsigned(user_claims(sub=...))).code == "invalid_token"


def test_with_the_emulator_the_header_is_needed_all_the_same(emulated: UserTokens) -> None:
    with pytest.raises(Unauthenticated) as refused:
        emulated.uid(None)
    assert refused.value.code == "missing_token"


# The queue's token


def test_the_queue_s_own_token_is_taken(queue: Verify, key: Key) -> None:
    queue(f"Bearer {key.token(task_claims())}")
    queue(f"Bearer {key.token(task_claims(iss='accounts.google.com'))}")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"aud": "https://other.example/"}, "wrong_audience"),
        ({"aud": AUDIENCE.rstrip("/")}, "wrong_audience"),
        ({"aud": ...}, "invalid_token"),
        ({"iat": int(time.time()) - 7200, "exp": int(time.time()) - 3600}, "expired_token"),
        ({"iat": int(time.time()) + 3600, "exp": int(time.time()) + 7200}, "invalid_token"),
        ({"exp": ...}, "invalid_token"),
        ({"iss": "https://mallory.example"}, "wrong_issuer"),
        ({"iss": ...}, "wrong_issuer"),
        ({"email": "mallory@demo-holdfast.iam.gserviceaccount.com"}, "wrong_email"),
        ({"email": ...}, "wrong_email"),
        ({"email": [EMAIL]}, "wrong_email"),
        ({"email_verified": False}, "wrong_email"),
        ({"email_verified": "true"}, "wrong_email"),
        ({"email_verified": ...}, "wrong_email"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else value,
)
@pytest.mark.parametrize("removed", [False, True], ids=["signed", "signature removed"])
def test_a_task_s_token_with_a_claim_that_is_wrong_is_refused(
    queue: Verify, platform: Verify, key: Key, change: dict[str, Any], code: str, removed: bool
) -> None:
    token = key.token(task_claims(**change))
    refused = refusal(platform, without_signature(token)) if removed else refusal(queue, token)
    assert isinstance(refused, Unauthenticated)
    assert refused.code == code


def test_a_task_s_token_signed_by_another_key_is_refused(queue: Verify, key: Key, other_key: Key) -> None:
    forged = jwt.encode(other_key.signer, task_claims(), key_id=key.id).decode()
    assert refusal(queue, forged).code == "invalid_token"
    assert refusal(queue, other_key.token(task_claims())).code == "invalid_token"


@pytest.mark.parametrize("token", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_task_s_token_is_refused(queue: Verify, token: str) -> None:
    refused = refusal(queue, token)
    assert isinstance(refused, Unauthenticated)
    assert refused.code == "invalid_token"


@pytest.mark.parametrize(
    "header",
    [{"alg": "none"}, {"alg": "none", "kid": "key-one"}, {"alg": "RS256", "kid": "key-one"}, {"kid": ["key-one"]}],
    ids=json.dumps,
)
def test_an_unsigned_task_s_token_is_refused(queue: Verify, key: Key, header: dict[str, Any]) -> None:
    queue(f"Bearer {key.token(task_claims())}")
    refused = refusal(queue, unsigned(task_claims(), header))
    assert isinstance(refused, Unauthenticated)
    assert refused.code == "invalid_token"


@pytest.mark.parametrize("header", [None, "", "Basic x"])
def test_a_task_without_a_token_is_refused(queue: Verify, header: str | None) -> None:
    with pytest.raises(Unauthenticated):
        queue(header)


def test_the_keys_are_fetched_once_for_many_tasks(queue: Verify, key: Key, key_server: KeyServer) -> None:
    for _ in range(5):
        queue(f"Bearer {key.token(task_claims())}")
    assert key_server.asked == 1


def test_a_key_that_is_new_is_fetched_once_and_then_taken(
    queue: Verify, key: Key, other_key: Key, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(f"Bearer {key.token(task_claims())}")
    key_server.publish(key, other_key)
    later(monkeypatch, REFETCH_SECONDS + 1)
    for each in (other_key, key, other_key):
        queue(f"Bearer {each.token(task_claims())}")
    assert key_server.asked == 2


def test_an_unknown_key_does_not_make_every_task_fetch_keys(
    queue: Verify, key: Key, other_key: Key, key_server: KeyServer
) -> None:
    queue(f"Bearer {key.token(task_claims())}")
    for _ in range(5):
        assert refusal(queue, other_key.token(task_claims())).code == "invalid_token"
    assert key_server.asked == 1


def test_a_key_that_was_withdrawn_is_not_trusted_for_ever(
    queue: Verify, key: Key, other_key: Key, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(f"Bearer {key.token(task_claims())}")
    key_server.publish(other_key)
    later(monkeypatch, KEYS_SECONDS + 1)
    assert refusal(queue, key.token(task_claims())).code == "invalid_token"


def test_where_the_queue_s_keys_can_not_be_reached_the_task_is_to_come_again(
    unreachable: None, key: Key, key_server: KeyServer
) -> None:
    refused = refusal(alone(QueueTokens(AUDIENCE, EMAIL, key_server.url)), key.token(task_claims()))
    assert isinstance(refused, Unavailable)
    assert refused.status == 503


@pytest.mark.parametrize(
    ("status", "body"), [(500, b"{}"), (404, b"{}"), (200, b""), (200, b"<html>"), (200, b'["key-one"]')]
)
def test_where_something_else_is_served_than_keys_the_task_is_to_come_again(
    queue: Verify, key: Key, key_server: KeyServer, status: int, body: bytes
) -> None:
    key_server.status, key_server.body = status, body
    assert isinstance(refusal(queue, key.token(task_claims())), Unavailable)
    key_server.publish(key)
    queue(f"Bearer {key.token(task_claims())}")


def test_while_a_key_that_nobody_knows_is_looked_for_those_that_are_known_need_not_wait(
    queue: Verify, key: Key, other_key: Key, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(f"Bearer {key.token(task_claims())}")
    later(monkeypatch, REFETCH_SECONDS + 1)
    key_server.answers.clear()
    key_server.was_asked.clear()
    refused: list[HoldfastError] = []
    unknown = threading.Thread(target=lambda: refused.append(refusal(queue, other_key.token(task_claims()))))
    unknown.start()
    try:
        assert key_server.was_asked.wait(30)
        queue(f"Bearer {key.token(task_claims())}")
        assert not refused
    finally:
        key_server.answers.set()
        unknown.join(30)
    assert [each.code for each in refused] == ["invalid_token"]


@pytest.mark.parametrize("body", [b"<html>", b"{}"])
def test_a_key_that_can_not_be_looked_for_is_not_one_that_is_wrong(
    queue: Verify, key: Key, other_key: Key, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    queue(f"Bearer {key.token(task_claims())}")
    later(monkeypatch, REFETCH_SECONDS + 1)
    key_server.body = body
    assert isinstance(refusal(queue, other_key.token(task_claims())), Unavailable)


# A token that Cloud Run has checked


def without_signature(token: str) -> str:
    return f"{token.rpartition('.')[0]}.{SIGNATURE_REMOVED}"


@pytest.fixture
def platform_tokens(key_server: KeyServer) -> QueueTokens:
    return QueueTokens(AUDIENCE, EMAIL, key_server.url, platform=True)


@pytest.fixture
def platform(platform_tokens: QueueTokens) -> Verify:
    return alone(platform_tokens)


def test_a_token_whose_signature_cloud_run_has_removed_is_taken_where_that_is_said(
    platform: Verify, key: Key, key_server: KeyServer
) -> None:
    platform(f"Bearer {without_signature(key.token(task_claims()))}")
    assert key_server.asked == 0


def test_unless_that_is_said_it_is_refused_with_the_remedy(queue: Verify, key: Key) -> None:
    refused = refusal(queue, without_signature(key.token(task_claims())))
    assert (refused.status, refused.code) == (401, "signature_removed")
    assert "WORKER_TOKENS=platform" in refused.message


def test_where_signatures_may_be_removed_one_that_is_there_is_verified(
    platform: Verify, key: Key, other_key: Key
) -> None:
    platform(f"Bearer {key.token(task_claims())}")
    forged = jwt.encode(other_key.signer, task_claims(), key_id=key.id).decode()
    assert refusal(platform, forged).code == "invalid_token"
    for end in ("", "x", f"{SIGNATURE_REMOVED}x", SIGNATURE_REMOVED.lower()):
        assert refusal(platform, f"{forged.rpartition('.')[0]}.{end}").code == "invalid_token"


@pytest.mark.parametrize("token", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_token_is_refused_though_signatures_may_be_removed(platform: Verify, token: str) -> None:
    assert isinstance(refusal(platform, token), Unauthenticated)
    assert isinstance(refusal(platform, f"{token}.{SIGNATURE_REMOVED}"), Unauthenticated)


def test_of_two_tokens_the_one_that_cloud_run_checks_is_taken(platform_tokens: QueueTokens, key: Key) -> None:
    """Cloud Run passes the other header on as it came, so anybody who may call the service could forge it."""
    theirs = without_signature(key.token(task_claims(email="mallory@demo-holdfast.iam.gserviceaccount.com")))
    ours = without_signature(key.token(task_claims()))
    with pytest.raises(Unauthenticated) as refused:
        platform_tokens.verify({"X-Serverless-Authorization": f"Bearer {theirs}", "Authorization": f"Bearer {ours}"})
    assert refused.value.code == "wrong_email"
    platform_tokens.verify({"X-Serverless-Authorization": f"Bearer {ours}", "Authorization": f"Bearer {theirs}"})


# An app's own token, of App Check


@pytest.fixture
def apps(key_server: KeyServer) -> AppTokens:
    return AppTokens(PROJECT, key_server.url)


def app_claims(**change: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {
        "iss": "https://firebaseappcheck.googleapis.com/123456789",
        "aud": ["projects/123456789", f"projects/{PROJECT}"],
        "sub": "1:123456789:web:0123456789abcdef",
        "iat": now - 5,
        "exp": now + 3600,
        **change,
    }
    return {name: value for name, value in claims.items() if value is not ...}


def app_refusal(apps: AppTokens, token: str | None) -> HoldfastError:
    with pytest.raises(HoldfastError) as refused:
        apps.verify(token)
    for part in (token or "").split("."):
        assert len(part) < 4 or part not in refused.value.message
    return refused.value


def test_a_token_of_the_project_s_own_app_is_taken(apps: AppTokens, key: Key) -> None:
    apps.verify(key.token(app_claims()))
    apps.verify(key.token(app_claims(aud=f"projects/{PROJECT}")))
    apps.verify(key.token(app_claims(exp=int(time.time()) - 1)))


@pytest.mark.parametrize("token", [None, ""])
def test_a_call_without_an_app_check_token_is_told_what_to_do(apps: AppTokens, token: str | None) -> None:
    refused = app_refusal(apps, token)
    assert (refused.status, refused.code) == (401, "missing_app_check")
    assert "App Check" in refused.message


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "projects/other-project"},
        {"aud": ["projects/1", "projects/2"]},
        {"aud": PROJECT},
        {"aud": ...},
        {"iss": "https://firebaseappcheck.googleapis.com"},
        {"iss": "https://mallory.example/https://firebaseappcheck.googleapis.com/1"},
        {"iss": f"https://securetoken.google.com/{PROJECT}"},
        {"iss": 7},
        {"iss": ...},
        {"sub": ...},
        {"exp": ...},
        {"iat": int(time.time()) - 7200, "exp": int(time.time()) - 3600},
    ],
    ids=",".join,
)
def test_an_app_check_token_with_a_claim_that_is_wrong_is_refused(
    apps: AppTokens, key: Key, change: dict[str, Any]
) -> None:
    refused = app_refusal(apps, key.token(app_claims(**change)))
    assert (refused.status, refused.code) == (401, "invalid_app_check")


def test_an_app_check_token_signed_by_another_key_is_refused(apps: AppTokens, key: Key, other_key: Key) -> None:
    forged = jwt.encode(other_key.signer, app_claims(), key_id=key.id).decode()
    assert app_refusal(apps, forged).code == "invalid_app_check"
    header, _, signature = key.token(app_claims()).split(".")
    changed = f"{header}.{segment(app_claims(sub='mallory'))}.{signature}"
    assert app_refusal(apps, changed).code == "invalid_app_check"


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "typ": "JWT"},
        {"alg": "none", "kid": "key-one"},
        {"alg": "RS256", "kid": "key-one"},
        {"alg": "HS256", "kid": "key-one"},
        {"alg": "RS256", "kid": ["key-one"]},
        {"alg": "RS256"},
    ],
    ids=json.dumps,
)
def test_an_unsigned_app_check_token_is_refused(apps: AppTokens, header: dict[str, Any]) -> None:
    assert app_refusal(apps, unsigned(app_claims(), header)).code == "invalid_app_check"


def test_an_app_check_token_that_is_signed_with_the_public_key_as_a_secret_is_refused(
    apps: AppTokens, key: Key
) -> None:
    public = json.loads(pyjwt.algorithms.RSAAlgorithm.to_jwk(key.private.public_key()))["n"]
    forged = pyjwt.encode(app_claims(), public, algorithm="HS256", headers={"kid": key.id})
    assert app_refusal(apps, forged).code == "invalid_app_check"


@pytest.mark.parametrize("token", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_app_check_token_is_refused(apps: AppTokens, token: str) -> None:
    assert app_refusal(apps, token).code == "invalid_app_check"


def test_the_keys_are_fetched_once_for_many_apps_and_an_unknown_one_changes_nothing(
    apps: AppTokens, key: Key, other_key: Key, key_server: KeyServer
) -> None:
    for _ in range(3):
        apps.verify(key.token(app_claims()))
        assert app_refusal(apps, other_key.token(app_claims())).code == "invalid_app_check"
    assert key_server.asked == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (404, b"{}"),
        (200, b""),
        (200, b"<html>"),
        (200, b"\xff"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"keys": []}'),
    ],
)
def test_where_the_app_check_keys_are_not_served_the_service_is_unavailable(
    apps: AppTokens, key: Key, key_server: KeyServer, status: int, body: bytes
) -> None:
    key_server.status, key_server.body = status, body
    refused = app_refusal(apps, key.token(app_claims()))
    assert isinstance(refused, Unavailable)
    assert (refused.status, refused.code) == (503, "unavailable")
    key_server.publish(key)
    apps.verify(key.token(app_claims()))


def test_where_nobody_serves_the_app_check_keys_the_service_is_unavailable(
    apps: AppTokens, key: Key, key_server: KeyServer
) -> None:
    key_server.close()
    assert isinstance(app_refusal(apps, key.token(app_claims())), Unavailable)


def test_an_outage_of_the_key_server_does_not_shut_out_apps_whose_key_is_known(
    apps: AppTokens, key: Key, key_server: KeyServer
) -> None:
    apps.verify(key.token(app_claims()))
    key_server.status, key_server.body = 500, b""
    apps.verify(key.token(app_claims()))
