"""Reading settings from the environment: values, defaults, and errors for all wrong variables at once."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import FrozenInstanceError, fields
from datetime import timedelta
from pathlib import Path

import pytest

from lib.domain.errors import ConfigurationError
from lib.runtime.settings import Settings

NEEDED = {
    "GOOGLE_CLOUD_PROJECT": "demo-holdfast",
    "WORKER_URL": "http://127.0.0.1:8081",
    "TASKS_INVOKER": "invoker@demo-holdfast.iam.gserviceaccount.com",
    "UPSTREAM_BASE_URL": "http://127.0.0.1:8090/v1",
    "UPSTREAM_MODELS": "*",
}
SECONDS = [
    "FLUSH_SECONDS",
    "EASED_FLUSH_SECONDS",
    "UNWATCHED_FLUSH_SECONDS",
    "LEASE_SECONDS",
    "STATUS_WAIT_SECONDS",
    "KEEPALIVE_SECONDS",
    "SEND_SECONDS",
    "UPLOAD_SECONDS",
    "RESPONSE_SECONDS",
    "DISPATCH_SECONDS",
    "RETENTION_DAYS",
]
COUNTS = [
    "MAX_REQUEST_BYTES",
    "MAX_REQUEST_NODES",
    "MAX_HELD_BYTES",
    "MAX_CHOICES",
    "MAX_EVENT_BYTES",
    "MAX_LIVE_GENERATIONS",
    "MAX_USER_STARTS",
    "MAX_USER_VIEWERS",
    "MAX_ATTEMPTS",
]


def faults(**change: str) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_env({**NEEDED, **change})
    return str(refused.value).splitlines()


def test_only_what_has_no_default_must_be_set() -> None:
    settings = Settings.from_env(NEEDED)
    assert settings.project == "demo-holdfast"
    assert settings.max_request_bytes == 10 << 20
    assert settings.max_event_bytes == 8 << 20
    assert settings.max_live_generations == 20
    assert settings.max_attempts == 3
    assert (settings.flush_seconds, settings.eased_flush_seconds, settings.unwatched_flush_seconds) == (0.1, 0.25, 1.2)
    assert (settings.lease_seconds, settings.lease) == (15.0, timedelta(seconds=15))
    assert (settings.keepalive_seconds, settings.status_wait_seconds) == (15.0, 10.0)
    assert settings.dispatch_seconds == 1800.0
    assert (settings.firestore_emulator, settings.tasks_emulator) == (None, None)
    assert settings.queue_path == "projects/demo-holdfast/locations/us-central1/queues/holdfast"
    assert settings.catalog["default"].base_url == "http://127.0.0.1:8090/v1"


def test_what_is_set_is_read_in_its_own_kind() -> None:
    settings = Settings.from_env(
        {
            **NEEDED,
            "MAX_REQUEST_BYTES": " 1000 ",
            "FLUSH_SECONDS": "0",
            "LEASE_SECONDS": "2.5",
            "RETENTION_DAYS": "0.5",
            "TASKS_LOCATION": "europe-west1",
            "TASKS_QUEUE": "q",
            "FIRESTORE_EMULATOR_HOST": "127.0.0.1:8085",
        }
    )
    assert settings.max_request_bytes == 1000
    assert settings.flush_seconds == 0.0
    assert settings.lease == timedelta(seconds=2.5)
    assert settings.retention == timedelta(hours=12)
    assert settings.queue_path == "projects/demo-holdfast/locations/europe-west1/queues/q"
    assert settings.firestore_emulator == "127.0.0.1:8085"


def test_an_empty_variable_is_as_one_that_is_not_set() -> None:
    settings = Settings.from_env({**NEEDED, "MAX_ATTEMPTS": "", "FLUSH_SECONDS": "  ", "TASKS_EMULATOR_HOST": ""})
    assert (settings.max_attempts, settings.flush_seconds, settings.tasks_emulator) == (3, 0.1, None)
    assert faults(TASKS_INVOKER=" ")[0].startswith("TASKS_INVOKER: it must be set.")


def test_everything_that_must_be_set_and_is_not_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_env({})
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "GOOGLE_CLOUD_PROJECT",
        "WORKER_URL",
        "TASKS_INVOKER",
        "UPSTREAM_BASE_URL or UPSTREAMS_FILE",
    ]
    assert all(line.partition(": ")[2] for line in lines)


def test_every_wrong_variable_is_named_at_once_with_the_remedy_and_what_it_is() -> None:
    wrong = {
        "WORKER_URL": "worker.example",
        "OIDC_CERTS_URL": "ftp://certs",
        "UPSTREAM_BASE_URL": "nowhere",
        **dict.fromkeys((*SECONDS, *COUNTS), "many"),
    }
    named = faults(**wrong)
    for variable in ("WORKER_URL", "OIDC_CERTS_URL", *SECONDS, *COUNTS):
        line = next(line for line in named if line.startswith(f"{variable}: "))
        assert line.startswith(f"{variable}: it must be ")
        assert line.endswith(f"and is '{wrong[variable]}'")
    assert next(line for line in named if "base_url" in line)
    assert len(named) == len(wrong)


@pytest.mark.parametrize("variable", COUNTS)
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "1e3", "x", "²", "0x10"])
def test_a_count_is_a_whole_number_above_zero(variable: str, value: str) -> None:
    assert faults(**{variable: value}) == [f"{variable}: it must be a whole number above 0, and is '{value}'"]


def test_an_event_may_not_be_larger_than_an_attempt_can_hold_in_memory() -> None:
    assert Settings.from_env(NEEDED).max_event_bytes == 8 << 20
    assert Settings.from_env({**NEEDED, "MAX_EVENT_BYTES": "16777216"}).max_event_bytes == 16 << 20
    assert faults(MAX_EVENT_BYTES="16777217") == [
        "MAX_EVENT_BYTES: it must be 16777216 at the most, since an attempt holds events in memory, and is '16777217'"
    ]


@pytest.mark.parametrize("variable", [name for name in SECONDS if "FLUSH" not in name])
@pytest.mark.parametrize("value", ["0", "-1", "x", "1s"])
def test_a_time_is_a_number_above_zero(variable: str, value: str) -> None:
    assert [line.partition(":")[0] for line in faults(**{variable: value})] == [variable]


@pytest.mark.parametrize("variable", ["FLUSH_SECONDS", "EASED_FLUSH_SECONDS", "UNWATCHED_FLUSH_SECONDS"])
def test_the_time_between_two_commits_may_be_zero_and_not_less(variable: str) -> None:
    Settings.from_env({**NEEDED, variable: "0"})
    assert faults(**{variable: "-0.1"}) == [f"{variable}: it must be a number of seconds, or 0, and is '-0.1'"]


@pytest.mark.parametrize("variable", SECONDS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_time_that_is_no_finite_number_is_named(variable: str, value: str) -> None:
    assert [line.partition(":")[0] for line in faults(**{variable: value})] == [variable]


def test_a_retention_that_no_calendar_holds_is_named() -> None:
    assert [line.partition(":")[0] for line in faults(RETENTION_DAYS="1e12")] == ["RETENTION_DAYS"]


@pytest.mark.parametrize("value", ["worker", "http://", "://x", "http://[::1"])
def test_a_url_is_one_of_http(value: str) -> None:
    assert faults(WORKER_URL=value) == [f"WORKER_URL: it must be an http or https URL, and is '{value}'"]


def test_an_upstream_s_url_that_can_not_be_read_is_named() -> None:
    assert [line for line in faults(UPSTREAM_BASE_URL="http://[::1") if "base_url" in line]


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("", ("*",)),
        ("*", ("*",)),
        ("https://app.example", ("https://app.example",)),
        (
            " https://app.example/ , http://localhost:5173,",
            ("https://app.example", "http://localhost:5173"),
        ),
    ],
)
def test_the_origins_that_may_call_are_all_or_those_that_are_named(value: str, origins: tuple[str, ...]) -> None:
    assert Settings.from_env({**NEEDED, "CORS_ORIGINS": value}).cors_origins == origins


@pytest.mark.parametrize(
    "value",
    [
        "app.example",
        "https://app.example/path",
        "https://app.example?x",
        "https://user@app.example",
        "https://a.example,*",
        "*,*",
        "http://localhost:*",
        "https://*.app.example",
        "https://(a|b).example",
        "ftp://app.example",
        "null",
        ",",
        ".*",
    ],
)
def test_an_origin_that_no_browser_sends_is_named(value: str) -> None:
    assert faults(CORS_ORIGINS=value) == [
        f"CORS_ORIGINS: it must be origins such as https://app.example, comma-separated, or '*', and is '{value}'"
    ]


def test_app_check_is_off_or_enforced_and_nothing_between() -> None:
    assert Settings.from_env(NEEDED).app_check == "off"
    assert Settings.from_env({**NEEDED, "APP_CHECK": "enforced"}).app_check == "enforced"
    for value in ("on", "true", "Enforced", "1"):
        assert faults(APP_CHECK=value) == [f"APP_CHECK: it must be 'off' or 'enforced', and is '{value}'"]


def test_the_upstream_is_told_of_a_trace_or_not_and_nothing_between() -> None:
    assert Settings.from_env(NEEDED).upstream_traced == "off"
    assert Settings.from_env({**NEEDED, "UPSTREAM_TRACEPARENT": "on"}).upstream_traced == "on"
    assert faults(UPSTREAM_TRACEPARENT="true") == ["UPSTREAM_TRACEPARENT: it must be 'off' or 'on', and is 'true'"]


def test_traces_go_nowhere_unless_a_url_says_where() -> None:
    assert Settings.from_env(NEEDED).traces_endpoint is None
    assert faults(OTEL_EXPORTER_OTLP_ENDPOINT="collector:4318") == [
        "OTEL_EXPORTER_OTLP_ENDPOINT: it must be an http or https URL, and is 'collector:4318'"
    ]


def test_the_app_check_keys_are_firebase_s_own_unless_set() -> None:
    assert Settings.from_env(NEEDED).app_check_keys_url == "https://firebaseappcheck.googleapis.com/v1/jwks"
    assert faults(APP_CHECK_KEYS_URL="keys") == ["APP_CHECK_KEYS_URL: it must be an http or https URL, and is 'keys'"]


@pytest.mark.parametrize("value", ["14", "1801"])
def test_the_dispatch_deadline_is_one_that_cloud_tasks_allows(value: str) -> None:
    assert faults(DISPATCH_SECONDS=value)[0].startswith("DISPATCH_SECONDS: it must be 15 to 1800")


def test_the_dispatch_deadline_is_above_each_upstream_s(tmp_path: Path) -> None:
    path = tmp_path / "upstreams.toml"
    path.write_text('[one]\nbase_url = "http://one/v1"\nmodels = ["*"]\ntotal_seconds = 900\n', encoding="utf-8")
    assert faults(UPSTREAMS_FILE=str(path), DISPATCH_SECONDS="900") == [
        "DISPATCH_SECONDS: it must be above every upstream's total_seconds"
    ]
    Settings.from_env({**NEEDED, "UPSTREAMS_FILE": str(path), "DISPATCH_SECONDS": "901"})


def test_the_defaults_limit_what_a_user_can_take_of_a_process() -> None:
    settings = Settings.from_env({**NEEDED, "THREADS": "90"})
    assert (settings.max_request_nodes, settings.max_held_bytes, settings.upload_seconds) == (50_000, 32 << 20, 30.0)
    assert (settings.max_choices, settings.max_output_tokens) == (4, 65_536)
    assert settings.max_user_viewers == 50


@pytest.mark.parametrize(("threads", "viewers"), [("90", 67), ("320", 240), ("1", 1)])
def test_viewers_leave_a_quarter_of_the_threads_free_unless_their_number_is_set(threads: str, viewers: int) -> None:
    assert Settings.from_env({**NEEDED, "THREADS": threads}).viewers == viewers
    assert Settings.from_env({**NEEDED, "THREADS": threads, "MAX_VIEWERS": "7"}).viewers == 7


@pytest.mark.parametrize("variable", ["MAX_VIEWERS", "MAX_OUTPUT_TOKENS"])
def test_a_limit_that_may_be_zero_is_a_whole_number(variable: str) -> None:
    Settings.from_env({**NEEDED, variable: "0"})
    assert faults(**{variable: "-1"}) == [f"{variable}: it must be a whole number, or 0, and is '-1'"]


def test_a_process_can_hold_the_largest_body() -> None:
    assert faults(MAX_HELD_BYTES="999", MAX_REQUEST_BYTES="1000") == [
        "MAX_HELD_BYTES: it must be at least MAX_REQUEST_BYTES, or no body of that size can be taken"
    ]
    Settings.from_env({**NEEDED, "MAX_HELD_BYTES": "1000", "MAX_REQUEST_BYTES": "1000"})


def test_a_dispatch_deadline_out_of_bounds_is_named_together_with_what_else_is_wrong() -> None:
    assert {line.partition(":")[0] for line in faults(DISPATCH_SECONDS="5", MAX_ATTEMPTS="0")} == {
        "DISPATCH_SECONDS",
        "MAX_ATTEMPTS",
    }


def test_unsigned_tokens_are_let_in_only_beside_a_local_firestore() -> None:
    emulated = {"FIREBASE_AUTH_EMULATOR_HOST": "127.0.0.1:9099"}
    assert [line.partition(":")[0] for line in faults(**emulated)] == ["FIREBASE_AUTH_EMULATOR_HOST"]
    Settings.from_env({**NEEDED, **emulated, "FIRESTORE_EMULATOR_HOST": "127.0.0.1:8085"})


SHARED = {"MESSAGE_PATH": "conversations/{chat}/turns/{message}", "CHAT_MEMBERS": "members"}


def test_messages_lie_below_their_user_unless_set() -> None:
    settings = Settings.from_env(NEEDED)
    assert (settings.message_path, settings.chat_members) == ("users/{uid}/chats/{chat}/messages/{message}", None)
    settings = Settings.from_env({**NEEDED, **SHARED})
    assert (settings.message_path, settings.chat_members) == (SHARED["MESSAGE_PATH"], "members")


def test_a_path_that_is_none_for_messages_is_named_with_what_it_must_be() -> None:
    assert faults(MESSAGE_PATH="chats/{chat}") == [
        "MESSAGE_PATH: it must be a document's path, with an even number of segments, such as "
        "users/{uid}/chats/{chat}/messages/{message}, and is 'chats/{chat}'"
    ]


def test_chats_are_shared_only_where_a_field_says_who_may_write_into_them() -> None:
    (fault,) = faults(MESSAGE_PATH=SHARED["MESSAGE_PATH"])
    assert fault.startswith("CHAT_MEMBERS: it must be set, since MESSAGE_PATH has no {uid}")
    (fault,) = faults(CHAT_MEMBERS="members")
    assert fault.startswith("CHAT_MEMBERS: unset it: MESSAGE_PATH has {uid}")


@pytest.mark.parametrize("value", ["a.b", "a b", "1st", "__members__", "räume", "members,owners", "x" * 101])
def test_the_members_field_has_a_name_that_rules_can_say(value: str) -> None:
    assert [line.partition(",")[0] for line in faults(**{**SHARED, "CHAT_MEMBERS": value})] == [
        "CHAT_MEMBERS: it must be a field's name of letters"
    ]


def test_the_title_s_model_is_one_that_an_upstream_serves() -> None:
    assert Settings.from_env({**NEEDED, "UPSTREAM_MODELS": "gpt-*", "TITLE_MODEL": "gpt-small"}).title_model
    (fault,) = faults(UPSTREAM_MODELS="gpt-*", TITLE_MODEL="demo")
    assert fault.startswith("TITLE_MODEL: it must be a model that an upstream serves. There is no model 'demo'.")


def test_the_settings_come_from_the_mapping_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_ATTEMPTS", "9")
    monkeypatch.setenv("UPSTREAMS_FILE", "none.toml")
    assert Settings.from_env(NEEDED).max_attempts == 3


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings.from_env(NEEDED).project = "other"  # type: ignore[misc]


def test_each_setting_has_a_variable_of_its_own_and_a_line_about_it() -> None:
    described = [field.metadata for field in fields(Settings) if field.metadata]
    assert len({each["variable"] for each in described}) == len(described) == len(fields(Settings)) - 2
    assert all(each["about"].endswith(".") for each in described)


def test_generations_are_spread_over_the_queues_that_are_set_and_each_stays_in_its_own() -> None:
    ids = [uuid.uuid4().hex for _ in range(3000)]
    three = Settings.from_env({**NEEDED, "TASKS_QUEUES": "3"})
    queues = Counter(map(three.queue_path_of, ids))
    first = "projects/demo-holdfast/locations/us-central1/queues/holdfast"
    assert queues.keys() == {first, f"{first}-shard-1", f"{first}-shard-2"}
    assert all(abs(number - 1000) < 200 for number in queues.values())
    again = Settings.from_env({**NEEDED, "TASKS_QUEUES": "3"})
    assert [*map(again.queue_path_of, ids)] == [*map(three.queue_path_of, ids)]
    # By a function that never changes: deployed versions work side by side.
    assert three.queue_path_of("0123456789abcdef0123456789abcdef") == f"{first}-shard-1"
    assert set(map(Settings.from_env(NEEDED).queue_path_of, ids)) == {first}
    assert three.delivery_queue_path == f"{first}-deliveries"


@pytest.mark.parametrize("value", ["101", "0", "-1", "two"])
def test_a_number_of_queues_that_can_not_be_is_named(value: str) -> None:
    assert [line.partition(":")[0] for line in faults(TASKS_QUEUES=value)] == ["TASKS_QUEUES"]
