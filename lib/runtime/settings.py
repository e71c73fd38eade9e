"""The settings, read once from the environment.

`Settings.from_env` reports every wrong variable at once, with the remedy. No other module reads settings from the
environment.
"""

from __future__ import annotations

import os
import re
from binascii import crc32
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, Self

from lib.domain.channel import Channel
from lib.domain.errors import ConfigurationError, InvalidRequest
from lib.domain.message_path import MESSAGE_PATH, is_shared, valid_message_path
from lib.domain.turn import TurnMode
from lib.domain.usage import Budget, Limits
from lib.runtime import catalog
from lib.runtime.catalog import MAX_SECONDS, Catalog, is_url
from lib.runtime.prices import millionths

MAX_DAYS = 36_500
MAX_WAITING_TURNS = 100
MAX_QUEUES = 100  # 50,000 starts a second; a project may have 1,000 queues in a region
MAX_SHORT = 200  # characters: a notification has 4 KB in all
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]+)?")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
MAX_SHARDS = 1000
MAX_EVENT_BYTES = 16 << 20  # half of what an attempt buffers while Firestore accepts no commits


def _text(value: str) -> str:
    return value


def _url(value: str) -> str:
    if not is_url(value):
        raise ValueError("an http or https URL")
    return value


def _webhook_url(value: str) -> str:
    """Credentials do not belong into a URL, which is no secret; and receivers check the signature."""
    if not is_url(value) or "@" in value.partition("//")[2].partition("/")[0] or "#" in value:
        raise ValueError("an http or https URL without a user name and without a '#'")
    return value


def _short(value: str) -> str:
    if len(value) > MAX_SHORT:
        raise ValueError(f"a text of at most {MAX_SHORT} characters")
    return value


def _positive_int(value: str) -> int:
    if not value.isdecimal() or int(value) == 0:
        raise ValueError("a whole number above 0")
    return int(value)


def _queues(value: str) -> int:
    if (number := _positive_int(value)) > MAX_QUEUES:
        raise ValueError(f"{MAX_QUEUES} at the most")
    return number


def _whole_number(value: str) -> int:
    if not value.isdecimal():
        raise ValueError("a whole number, or 0")
    return int(value)


def _shards(value: str) -> int:
    if (number := _positive_int(value)) > MAX_SHARDS:
        raise ValueError(f"{MAX_SHARDS} at the most")
    return number


def _event_bytes(value: str) -> int:
    if (number := _positive_int(value)) > MAX_EVENT_BYTES:
        raise ValueError(f"{MAX_EVENT_BYTES} at the most, since an attempt holds events in memory")
    return number


def _seconds(value: str) -> float:
    if not 0 < (number := _number(value)) <= MAX_SECONDS:
        raise ValueError("a number of seconds above 0")
    return number


def _seconds_or_none(value: str) -> float:
    if not 0 <= (number := _number(value)) <= MAX_SECONDS:
        raise ValueError("a number of seconds, or 0")
    return number


def _dispatch_seconds(value: str) -> float:
    if not 15 <= (number := _number(value)) <= 1800:
        raise ValueError("15 to 1800, which is what Cloud Tasks allows")
    return number


def _origins(value: str) -> tuple[str, ...]:
    """Exact origins only: Flask-CORS takes `http://localhost:*` for a pattern that matches any suffix."""
    origins = tuple(origin.strip().rstrip("/") for origin in value.split(",") if origin.strip())
    if origins == ("*",) or (origins and all(_ORIGIN.fullmatch(origin) for origin in origins)):
        return origins
    raise ValueError("origins such as https://app.example, comma-separated, or '*'")


def _app_check(value: str) -> str:
    if value not in ("off", "enforced"):
        raise ValueError("'off' or 'enforced'")
    return value


def _worker_tokens(value: str) -> str:
    if value not in ("verify", "platform"):
        raise ValueError("'verify' or 'platform'")
    return value


def _off_or_on(value: str) -> str:
    if value not in ("off", "on"):
        raise ValueError("'off' or 'on'")
    return value


def _turn_mode(value: str) -> TurnMode:
    if value not in list(TurnMode):
        raise ValueError("'parallel', 'reject', 'interrupt' or 'queue'")
    return TurnMode(value)


def _waiting_turns(value: str) -> int:
    if (number := _positive_int(value)) > MAX_WAITING_TURNS:
        raise ValueError(f"{MAX_WAITING_TURNS} at the most, since a start reads all of them")
    return number


def _field(value: str) -> str:
    if not _FIELD.fullmatch(value) or (value.startswith("__") and value.endswith("__")):
        raise ValueError("a field's name of letters, digits and '_', not beginning with a digit, and not '__…__'")
    return value


def _days(value: str) -> timedelta:
    if not 0 < (number := _number(value)) <= MAX_DAYS:
        raise ValueError(f"a number of days above 0, {MAX_DAYS} at the most")
    return timedelta(days=number)


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return -1.0


def _setting(
    variable: str, read: Callable[[str], Any], default: Any = ..., about: str = "", target: str = "api, worker"
) -> Any:
    """A setting: its variable, its parser, its default (none: it is required), a line for the documentation, and the
    functions that use it.
    """
    return field(metadata={"variable": variable, "read": read, "default": default, "about": about, "target": target})


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings of both functions."""

    project: str = _setting(
        "GOOGLE_CLOUD_PROJECT", _text, about="The project whose Firestore and Cloud Tasks are used."
    )
    database: str = _setting("FIRESTORE_DATABASE", _text, "(default)", "The Firestore database.")
    firestore_emulator: str | None = _setting(
        "FIRESTORE_EMULATOR_HOST", _text, None, "host:port of a Firestore emulator; only for local use."
    )
    location: str = _setting("TASKS_LOCATION", _text, "us-central1", "The Cloud Tasks queue's location.")
    queue: str = _setting("TASKS_QUEUE", _text, "holdfast", "The Cloud Tasks queue's name.")
    queues: int = _setting(
        "TASKS_QUEUES",
        _queues,
        1,
        "Over how many queues answers are spread, each of which starts 500 a second; at most 100.",
    )
    tasks_emulator: str | None = _setting(
        "TASKS_EMULATOR_HOST", _text, None, "host:port of a Cloud Tasks emulator; only for local use."
    )
    worker_url: str = _setting(
        "WORKER_URL", _url, about="The worker's URL: the target of tasks, and the audience of their token."
    )
    invoker: str = _setting("TASKS_INVOKER", _text, about="E-mail of the service account whose token tasks carry.")
    oidc_certs_url: str = _setting(
        "OIDC_CERTS_URL",
        _url,
        "https://www.googleapis.com/oauth2/v3/certs",
        "Where the keys that verify tasks' tokens are; only for local use.",
        target="worker",
    )
    worker_tokens: str = _setting(
        "WORKER_TOKENS",
        _worker_tokens,
        "verify",
        "`platform`: accepts tokens whose signature Cloud Run has checked and removed; only for a private worker.",
        target="worker",
    )
    auth_emulator: str | None = _setting(
        "FIREBASE_AUTH_EMULATOR_HOST",
        _text,
        None,
        "host:port of a Firebase Auth emulator, whose unsigned tokens are accepted; only for local use.",
        target="api",
    )
    cors_origins: tuple[str, ...] = _setting(
        "CORS_ORIGINS",
        _origins,
        ("*",),
        "The web origins that may call, comma-separated, or `*` for all.",
        target="api",
    )
    app_check: str = _setting(
        "APP_CHECK", _app_check, "off", "`enforced`: every call must have an App Check token.", target="api"
    )
    app_check_keys_url: str = _setting(
        "APP_CHECK_KEYS_URL",
        _url,
        "https://firebaseappcheck.googleapis.com/v1/jwks",
        "Where the keys that verify App Check tokens are; only for local use.",
        target="api",
    )
    chat_model: str | None = _setting(
        "CHAT_MODEL", _text, None, "The model of an AI SDK's chat that names none.", target="api"
    )
    message_path: str = _setting(
        "MESSAGE_PATH",
        valid_message_path,
        MESSAGE_PATH,
        "Where messages of a chat lie. Without `{uid}` in it, chats are shared.",
        target="api",
    )
    chat_members: str | None = _setting(
        "CHAT_MEMBERS",
        _field,
        None,
        "The field of a shared chat's document with its members' uids, an array or a map's keys; for a `MESSAGE_PATH` "
        "without `{uid}`.",
        target="api",
    )
    max_request_bytes: int = _setting(
        "MAX_REQUEST_BYTES", _positive_int, 10 << 20, "The largest request body, in bytes.", target="api"
    )
    max_request_nodes: int = _setting(
        "MAX_REQUEST_NODES",
        _positive_int,
        50_000,
        "How many values and names the JSON of a request may have.",
        target="api",
    )
    max_held_bytes: int = _setting(
        "MAX_HELD_BYTES",
        _positive_int,
        32 << 20,
        "How many bytes of request bodies a process holds at once; of one user, as many as the largest body has.",
        target="api",
    )
    upload_seconds: float = _setting(
        "UPLOAD_SECONDS", _seconds, 30.0, "How long a client may take to send a request body.", target="api"
    )
    max_choices: int = _setting(
        "MAX_CHOICES", _positive_int, 4, "How many answers one request may ask for, as with `n`.", target="api"
    )
    max_output_tokens: int = _setting(
        "MAX_OUTPUT_TOKENS",
        _whole_number,
        65_536,
        "How many output tokens one request may ask for; 0: any number.",
        target="api",
    )
    max_event_bytes: int = _setting(
        "MAX_EVENT_BYTES",
        _event_bytes,
        8 << 20,
        "The largest single upstream event, in bytes; at most 16777216.",
        target="worker",
    )
    max_live_generations: int = _setting(
        "MAX_LIVE_GENERATIONS", _positive_int, 20, "How many live generations a user may have.", target="api"
    )
    max_user_starts: int = _setting(
        "MAX_USER_STARTS",
        _positive_int,
        20,
        "How many generations a user may start within a second in one process.",
        target="api",
    )
    chat_turns: TurnMode = _setting(
        "CHAT_TURNS",
        _turn_mode,
        TurnMode.PARALLEL,
        "What a prompt without `X-Turn` does while an answer of its chat runs: `parallel`, `reject`, `interrupt` or "
        "`queue`.",
        target="api",
    )
    max_waiting_turns: int = _setting(
        "MAX_WAITING_TURNS", _waiting_turns, 10, "How many prompts may wait for their turn in a chat.", target="api"
    )
    max_user_viewers: int = _setting(
        "MAX_USER_VIEWERS",
        _positive_int,
        50,
        "How many answers a user may follow or wait for at once in one process.",
        target="api",
    )
    max_viewers: int = _setting(
        "MAX_VIEWERS",
        _whole_number,
        0,
        "How many answers all users may follow or wait for at once in one process; 0: three quarters of `THREADS`.",
        target="api",
    )
    count_usage: str = _setting(
        "COUNT_USAGE",
        _off_or_on,
        "off",
        "`on`: what answers take is counted for each user and the service, also where there is no budget.",
        target="api",
    )
    budget_user_day_tokens: int = _setting(
        "BUDGET_USER_DAY_TOKENS", _whole_number, 0, "How many tokens a user may take a day (UTC); 0: any number.", "api"
    )
    budget_user_month_tokens: int = _setting(
        "BUDGET_USER_MONTH_TOKENS", _whole_number, 0, "How many tokens a user may take a month; 0: any number.", "api"
    )
    budget_service_day_tokens: int = _setting(
        "BUDGET_SERVICE_DAY_TOKENS", _whole_number, 0, "How many tokens all users may take a day; 0: any number.", "api"
    )
    budget_user_day_cost: int = _setting(
        "BUDGET_USER_DAY_COST", millionths, 0, "What a user's day may cost, by the `prices`; 0: anything.", "api"
    )
    budget_user_month_cost: int = _setting(
        "BUDGET_USER_MONTH_COST", millionths, 0, "What a user's month may cost; 0: anything.", "api"
    )
    budget_service_day_cost: int = _setting(
        "BUDGET_SERVICE_DAY_COST", millionths, 0, "What a day of all users may cost; 0: anything.", "api"
    )
    budget_output_tokens: int = _setting(
        "BUDGET_OUTPUT_TOKENS",
        _positive_int,
        4096,
        "What a start reserves of a budget for an answer whose request sets no limit of output tokens.",
        target="api",
    )
    budget_shards: int = _setting(
        "BUDGET_SHARDS",
        _shards,
        1,
        "How many documents the service's day is counted on, each with its share of the budget; at most 1000.",
        target="api",
    )
    max_attempts: int = _setting(
        "MAX_ATTEMPTS",
        _positive_int,
        3,
        "How many attempts a generation gets, each with one upstream call.",
        target="worker",
    )
    flush_seconds: float = _setting(
        "FLUSH_SECONDS",
        _seconds_or_none,
        0.1,
        "The interval between commits while somebody watches; longer where many answers run in one process. "
        "0: as soon as the last one is through.",
        target="worker",
    )
    eased_flush_seconds: float = _setting(
        "EASED_FLUSH_SECONDS",
        _seconds_or_none,
        0.25,
        "The same once an answer has come for ten seconds, if that is longer; not for a `FLUSH_SECONDS` of 0.",
        target="worker",
    )
    unwatched_flush_seconds: float = _setting(
        "UNWATCHED_FLUSH_SECONDS",
        _seconds_or_none,
        1.2,
        "The interval between commits while nobody watches.",
        target="worker",
    )
    lease_seconds: float = _setting(
        "LEASE_SECONDS",
        _seconds,
        15.0,
        "How long a worker may go without a commit before another may take over.",
        target="worker",
    )
    status_wait_seconds: float = _setting(
        "STATUS_WAIT_SECONDS",
        _seconds,
        10.0,
        "How long the response waits for the upstream's status before it sends its own.",
        target="api",
    )
    keepalive_seconds: float = _setting(
        "KEEPALIVE_SECONDS", _seconds, 15.0, "The interval between keep-alives of a silent stream.", target="api"
    )
    send_seconds: float = _setting(
        "SEND_SECONDS",
        _seconds,
        60.0,
        "How long a client may accept no data before it is dropped.",
        target="api",
    )
    response_seconds: float = _setting(
        "RESPONSE_SECONDS",
        _seconds,
        3300.0,
        "How long one response may last before it ends with the cursor to resume from.",
        target="api",
    )
    dispatch_seconds: float = _setting(
        "DISPATCH_SECONDS", _dispatch_seconds, 1800.0, "The tasks' dispatch deadline, 15 to 1800."
    )
    retention: timedelta = _setting(
        "RETENTION_DAYS", _days, timedelta(days=7), "How long generations and journals are kept."
    )
    traces_endpoint: str | None = _setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        _url,
        None,
        "Where OpenTelemetry traces go, as OTLP over HTTP; without it no spans are made.",
    )
    upstream_traced: str = _setting(
        "UPSTREAM_TRACEPARENT",
        _off_or_on,
        "off",
        "`on`: upstream calls carry `traceparent`; for servers of your own.",
        target="worker",
    )
    webhook_url: str | None = _setting(
        "WEBHOOK_URL",
        _webhook_url,
        None,
        "Your server's URL, which is told of each answer's end, signed with `WEBHOOK_SECRETS`.",
    )
    push: str = _setting(
        "PUSH", _off_or_on, "off", "`on`: a user's devices are told by FCM of an answer's end that nobody watched."
    )
    push_title: str = _setting(
        "PUSH_TITLE", _short, "Your answer is ready", "The title of that notification.", target="worker"
    )
    push_failed_title: str = _setting(
        "PUSH_FAILED_TITLE",
        _short,
        "Your answer could not be finished",
        "Its title where the answer broke off, or failed.",
        target="worker",
    )
    push_body: str = _setting(
        "PUSH_BODY",
        _short,
        "",
        "Its text; `{words}` in it stands for the first words of the answer, which leave the service only then.",
        target="worker",
    )
    fcm_url: str = _setting(
        "FCM_URL", _url, "https://fcm.googleapis.com", "Where FCM is; only for local use.", target="worker"
    )
    title_model: str | None = _setting(
        "TITLE_MODEL",
        _text,
        None,
        "A model of the upstreams' that gives a chat without a `title` one, after its first answer.",
        target="worker",
    )
    title_prompt: str = _setting(
        "TITLE_PROMPT",
        _text,
        "Write a title for this conversation: six words at most, in the language of the question, without quotation "
        "marks. Answer with the title alone.",
        "What that model is told to do.",
        target="worker",
    )
    catalog: Catalog
    threads: int

    @property
    def viewers(self) -> int:
        """The most viewers of this process. The other threads are for starts, stops and health checks."""
        return self.max_viewers or max(1, self.threads * 3 // 4)

    @property
    def queue_path(self) -> str:
        """The first queue, which is the only one unless `queues` says otherwise."""
        return f"projects/{self.project}/locations/{self.location}/queues/{self.queue}"

    def queue_path_of(self, generation_id: str) -> str:
        """The queue of a generation's tasks. It is always the same one, since a name is used only once in a queue."""
        shard = crc32(generation_id.encode()) % self.queues
        return f"{self.queue_path}-shard-{shard}" if shard else self.queue_path

    @property
    def delivery_queue_path(self) -> str:
        """The queue of what follows an answer's end. A receiver that is down must not slow the answers' own queue."""
        return f"{self.queue_path}-deliveries"

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Where the end of an answer is told."""
        there = {Channel.WEBHOOK: self.webhook_url is not None, Channel.PUSH: self.push == "on"}
        return tuple(channel for channel, is_set in there.items() if is_set)

    @property
    def budgets(self) -> dict[Budget, Limits]:
        """The budgets on whose accounts usage is counted."""
        limits = {
            Budget.DAY: Limits(tokens=self.budget_user_day_tokens, cost=self.budget_user_day_cost),
            Budget.MONTH: Limits(tokens=self.budget_user_month_tokens, cost=self.budget_user_month_cost),
            Budget.SERVICE: Limits(tokens=self.budget_service_day_tokens, cost=self.budget_service_day_cost),
        }
        return {each: its for each, its in limits.items() if its != Limits() or self.count_usage == "on"}

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    @classmethod
    def default(cls, field_name: str) -> Any:
        """What a setting is where its variable is not set, for tools that compute with what is usual."""
        return next(each.metadata["default"] for each in fields(cls) if each.name == field_name)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Reads the settings from `environ`. Errors: `ConfigurationError`, with one line per wrong variable."""
        values: dict[str, Any] = {}
        faults: list[str] = []
        for each in fields(cls):
            if not each.metadata:
                continue
            variable, default = each.metadata["variable"], each.metadata["default"]
            given = environ.get(variable, "").strip()
            try:
                if given:
                    values[each.name] = each.metadata["read"](given)
                elif default is ...:
                    faults.append(f"{variable}: it must be set. {each.metadata['about']}")
                else:
                    values[each.name] = default
            except ValueError as error:
                faults.append(f"{variable}: it must be {error}, and is '{given}'")
        try:
            values["catalog"] = catalog.load(environ)
        except ConfigurationError as error:
            faults.append(str(error))
        # functions-framework reads THREADS as well, and has the same default.
        threads = environ.get("THREADS", "")
        values["threads"] = int(threads) if threads.isdecimal() else 4 * (os.cpu_count() or 1)
        if not faults:
            faults = _inconsistent(values)
        if faults:
            raise ConfigurationError("\n".join(faults))
        return cls(**values)


def _inconsistent(values: Mapping[str, Any]) -> list[str]:
    faults = []
    if values["auth_emulator"] and not values["firestore_emulator"]:
        faults.append("FIREBASE_AUTH_EMULATOR_HOST: unset it: it lets everybody in, and is only for a local Firestore")
    if values["max_held_bytes"] < values["max_request_bytes"]:
        faults.append("MAX_HELD_BYTES: it must be at least MAX_REQUEST_BYTES, or no body of that size can be taken")
    shared = is_shared(values["message_path"])
    if shared and not values["chat_members"]:
        faults.append(
            "CHAT_MEMBERS: it must be set, since MESSAGE_PATH has no {uid}: it is the field of a chat's document that "
            "lists the uids of those who may write into the chat"
        )
    if values["chat_members"] and not shared:
        faults.append("CHAT_MEMBERS: unset it: MESSAGE_PATH has {uid}, so that a chat is its user's alone")
    if values["title_model"]:
        try:
            values["catalog"].serving(values["title_model"])
        except InvalidRequest as error:
            faults.append(f"TITLE_MODEL: it must be a model that an upstream serves. {error.message}")
    money = [name for name in ("user_day", "user_month", "service_day") if values[f"budget_{name}_cost"]]
    if money and (unpriced := values["catalog"].unpriced):
        faults.append(
            f"BUDGET_{money[0].upper()}_COST: each model needs a price, and these have none: {', '.join(unpriced)}. "
            "Add prices to the upstream: in UPSTREAM_PRICES, or in upstreams.toml; '*' is for all its other models"
        )
    if values["catalog"].longest >= values["dispatch_seconds"]:
        faults.append("DISPATCH_SECONDS: it must be above every upstream's total_seconds")
    return faults
