"""What a request may ask of the demo upstream: OpenAI's fields, the `demo` object, and the faults it names.

All validation is here, by the checks of `demo_fields`. Nothing here may wait or do I/O.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from local.demo_fields import BadField, Check, checked, flag, line, number, one_of, seed, shown, switch, whole
from local.demo_text import DONE_TEXT, Answer, Json, NotThisAnswer, blob, place, seed_of

MAX_ANSWER = 64 << 20  # bytes, all choices and calls together
MAX_SECONDS = 3600.0
MAX_RECORDED = 100_000  # tokens of an answer whose writes are recorded
_THOUGHTS = 20  # tokens of reasoning, where a request does not say how many
_LEAST_TOKEN = 16  # bytes assumed for a token without padding, to limit the size of answers


_PARAMETERS: dict[str, Check] = {
    "at": whole(0, 1_000_000),
    "bytes": whole(1, 16 << 20),
    "incompressible": flag,
    "location": line,
    "reset": flag,
    "retry_after": number(0, MAX_SECONDS),
    "seconds": number(0, MAX_SECONDS),
    "status": whole(300, 599),
    "times": whole(1, 1_000_000),
}

# Each fault, with its parameters and their defaults. All may have `times`.
FAULTS: dict[str, Json] = {
    "refuse": {"status": 503, "retry_after": None},
    "html": {},
    "redirect": {"status": 307, "location": "/demo/moved"},
    "stall": {"at": None, "seconds": MAX_SECONDS},
    "break": {"at": None, "reset": False},
    "close": {"at": None},
    "no_done": {},
    "malformed_json": {"at": None},
    "invalid_utf8": {"at": None},
    "error_event": {"at": None},
    "null_error": {},
    "done_in_text": {"at": None},
    "big_event": {"at": None, "bytes": 1_000_000, "incompressible": False},
    "crlf": {},
    "no_space": {},
    "multi_line": {},
    "unnamed": {},
    "comments": {},
    "gzip": {},
    "split": {"bytes": 1},
    "json_despite_stream": {},
    "stream_despite_json": {},
    "no_content_length": {},
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault, which always occurs at the same place.

    `at` is the number of tokens of each choice that this call sends before the fault. `times` is the number of calls
    per seed that have the fault, or None for all.
    """

    kind: str
    at: int | None = None
    times: int | None = None
    bytes: int = 1
    incompressible: bool = False
    location: str = ""
    reset: bool = False
    retry_after: float | None = None
    seconds: float = 0.0
    status: int = 0

    @classmethod
    def read(cls, given: Any) -> Fault:
        """Parses a name, or an object of `kind` and parameters. An object with only a `status` is a refusal."""
        asked = {"kind": given} if isinstance(given, str) else given
        if isinstance(asked, dict) and "status" in asked and "kind" not in asked:
            asked = {"kind": "refuse", **asked}
        kind = asked.get("kind") if isinstance(asked, dict) else None
        if not isinstance(kind, str) or kind not in FAULTS:
            raise BadField("demo.fault", f"unknown fault {shown(kind or given)}; there are {', '.join(FAULTS)}")
        defaults = {"kind": kind, "times": None, **FAULTS[kind]}
        checks = {name: _PARAMETERS.get(name, line) for name in defaults}
        fault = cls(**{**defaults, **checked(asked, checks, "demo.fault")})
        _check_status(fault)
        return fault

    def place(self, steps: int) -> int:
        """The step before which the fault occurs: `at`, or by default 10, but within the answer."""
        return min(10, steps // 2) if self.at is None else self.at

    @property
    def replaces_answer(self) -> bool:
        """Whether there is no answer at all."""
        return self.kind in ("refuse", "html", "redirect")

    def insertion(self, seed: str) -> str:
        """The text that the fault inserts."""
        if self.kind == "big_event":
            return blob(seed, self.bytes, self.incompressible)
        return DONE_TEXT if self.kind == "done_in_text" else ""


def _check_status(fault: Fault) -> None:
    if fault.kind == "refuse" and fault.status < 400:
        raise BadField("demo.fault.status", f"a refusal has a status from 400 to 599, not {fault.status}")
    if fault.kind == "redirect" and fault.status not in (301, 302, 303, 307, 308):
        raise BadField("demo.fault.status", f"a redirect has 301, 302, 303, 307 or 308, not {fault.status}")


_DEMO: dict[str, Check] = {
    "fault": lambda _, value: Fault.read(value),
    "first_byte_delay": number(0, MAX_SECONDS),
    "first_token_delay": number(0, MAX_SECONDS),
    "prefill": one_of("anthropic", "vllm"),
    "rate": number(0, 100_000),
    "reasoning": switch(_THOUGHTS, 100_000),
    "record": flag,
    "refusal": flag,
    "resume": lambda _, value: Fault.read(value),
    "seed": seed,
    "timestamps": flag,
    "token_bytes": whole(0, 1 << 20),
    "tokens": whole(0, 1_000_000),
    "tool_calls": switch(1, 16),
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """A valid request: the answer, and how to send it.

    `background`: it is generated whoever is connected, and `resume` is the fault of calls that come back to it, which
    is otherwise the fault of the first. `echoed` are fields of the request that an answer repeats.
    """

    answer: Answer
    model: str
    prompt_tokens: int
    stream: bool
    include_usage: bool = False
    timestamps: bool = False
    record: bool = False
    rate: float = 50.0
    first_byte_delay: float = 0.0
    first_token_delay: float = 0.0
    fault: Fault | None = None
    resume: Fault | None = None
    background: bool = False
    echoed: Json = field(default_factory=dict)

    @classmethod
    def read(cls, body: Any, at_most: bool = False) -> Order:
        """Parses a request's JSON body. Raises `BadField`.

        Without `demo.tokens`, a token limit is the answer's length. With it, or with `at_most`, it can only cut it.
        """
        if not isinstance(body, dict):
            raise BadField("body", "must be a JSON object")
        given = {name: value for name, value in body.items() if value is not None}
        demo = checked(given.get("demo", {}), _DEMO, "demo")
        model = line("model", given.get("model"))
        stream = flag("stream", given.get("stream", False))
        answer = _answer(given, demo, at_most)
        _check_size(answer, demo.get("fault"))
        if demo.get("record") and answer.steps * answer.choices > MAX_RECORDED:
            raise BadField("demo.record", f"only an answer of up to {MAX_RECORDED} tokens can be recorded")
        delivery = ("timestamps", "record", "rate", "first_byte_delay", "first_token_delay", "fault", "resume")
        return cls(
            answer=answer,
            model=model,
            prompt_tokens=len(json.dumps(given["messages"])) // 4,
            stream=stream,
            include_usage=_include_usage(given, stream),
            **{name: demo[name] for name in delivery if name in demo},
        )

    def faultless(self) -> Order:
        """The same order without its fault."""
        return replace(self, fault=None)

    def resumed(self) -> Order:
        """The order of a call that comes back to an answer in the background."""
        return replace(self, fault=self.resume or self.fault, stream=True)

    @property
    def spoken(self) -> Answer:
        """The answer with the text that the fault inserts."""
        if self.fault is None:
            return self.answer
        pieces = self.answer.tokens - self.answer.start
        insertion = self.fault.insertion(self.answer.seed)
        return replace(self.answer, insertion=insertion, insertion_at=self.fault.place(pieces))


def _answer(given: Json, demo: Json, at_most: bool) -> Answer:
    messages = _messages(given.get("messages"))
    limit = _limit(given)
    own_seed = demo.get("seed") or seed_of(messages)
    token_bytes = demo.get("token_bytes", 0)
    start, skip = _start(messages[-1], own_seed, token_bytes) if _goes_on(given, demo.get("prefill")) else (0, 0)
    wanted = demo.get("tokens", 120)
    if limit is not None and (at_most or "tokens" in demo) and start + limit >= wanted:
        limit = None
    return Answer(
        seed=own_seed,
        tokens=wanted if limit is None else start + limit,
        token_bytes=token_bytes,
        choices=whole(1, 128)("n", given.get("n", 1)),
        reasoning=demo.get("reasoning", _THOUGHTS if given.get("reasoning_effort", "none") != "none" else 0),
        refusal=demo.get("refusal", False),
        tools=_tools(given.get("tools"), messages[-1], demo.get("tool_calls", int(_must_call(given)))),
        cut=limit is not None,
        start=start,
        skip=skip,
    )


def _messages(given: Any) -> list[Json]:
    if not isinstance(given, list) or not given or not all(isinstance(message, dict) for message in given):
        raise BadField("messages", "must be a list of at least one message object")
    return given


def _limit(given: Json) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        if name in given:
            return int(whole(1, 1_000_000)(name, given[name]))
    return None


def _start(last: Json, own_seed: str, token_bytes: int) -> tuple[int, int]:
    if last.get("role") != "assistant":
        return 0, 0
    try:
        return place(own_seed, _said(last.get("content")), token_bytes)
    except NotThisAnswer as error:
        raise BadField("messages", f"the last is an assistant's, but not how this answer begins: {error}") from error


def _goes_on(given: Json, prefill: str | None) -> bool:
    """Whether to continue a last message of the assistant, by the rules of the imitated server.

    vLLM starts a new turn unless the request says otherwise. Anthropic rejects white space at the end. Others continue.
    """
    last = given["messages"][-1]
    if prefill == "anthropic" and last.get("role") == "assistant" and _said(last.get("content"))[-1:].isspace():
        raise BadField("messages", "final assistant content cannot end with trailing whitespace")
    return prefill != "vllm" or (
        given.get("continue_final_message") is True and given.get("add_generation_prompt") is False
    )


def _said(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _must_call(given: Json) -> bool:
    """Whether the request leaves the model no choice but to call a tool."""
    choice = given.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    return kind in ("required", "function", "any", "tool")


def _tools(given: Any, last: Json, calls: int) -> tuple[str, ...]:
    """The names of the tools to call, cycling through the request's. None if the last message is a tool's result."""
    if not given or not calls or last.get("role") == "tool":
        return ()
    try:
        names = [line("tools", tool["function"]["name"]) for tool in given]
    except (TypeError, KeyError) as error:
        raise BadField("tools", "must be a list of tools, each with a function and its name") from error
    return tuple(names[call % len(names)] for call in range(calls))


def _check_size(answer: Answer, fault: Fault | None) -> None:
    each = answer.tokens * max(_LEAST_TOKEN, answer.token_bytes) + answer.reasoning * _LEAST_TOKEN
    inserted = fault.bytes if fault is not None else 0
    if (each * max(1, len(answer.tools)) + inserted) * answer.choices > MAX_ANSWER:
        raise BadField("demo.tokens", f"tokens, their bytes and choices make more than {MAX_ANSWER} bytes")


def _include_usage(given: Json, stream: bool) -> bool:
    options = given.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise BadField("stream_options", "only allowed when stream is true")
    if not isinstance(options, dict):
        raise BadField("stream_options", "must be an object")
    return flag("stream_options.include_usage", options.get("include_usage", False))
