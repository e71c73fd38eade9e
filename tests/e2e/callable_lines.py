"""Reads a callable's stream by the rules of all three Firebase SDKs.

From their sources: `Functions.swift` of firebase-ios-sdk, `PublisherStream.kt` of firebase-android-sdk, `service.ts` of
firebase-js-sdk. If one of them would abort, drop something, or wait for ever, it raises `Misread`. Nothing here may
depend on Holdfast.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_WRAPPED = ("type.googleapis.com/google.protobuf.Int64Value", "type.googleapis.com/google.protobuf.UInt64Value")
_SWIFT_LINE_END = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")
_JAVA_LINE_END = re.compile("\r\n|[\n\r]")
_JS_SPACE = " \t\n\r\x0b\x0c\xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(map(chr, range(0x2000, 0x200B)))
_JS_DATA = re.compile("data: ([^\n\r\u2028\u2029]*)")
_JS_EXACT = range(-(1 << 53) + 1, 1 << 53)
_CODE = re.compile(
    "CANCELLED|UNKNOWN|INVALID_ARGUMENT|DEADLINE_EXCEEDED|NOT_FOUND|ALREADY_EXISTS|PERMISSION_DENIED|UNAUTHENTICATED|"
    "RESOURCE_EXHAUSTED|FAILED_PRECONDITION|ABORTED|OUT_OF_RANGE|UNIMPLEMENTED|INTERNAL|UNAVAILABLE|DATA_LOSS"
)


class Misread(AssertionError):
    """An SDK does not get what was meant; the message says which one and why."""


@dataclass
class Heard:
    """What an app is given: the messages in turn, then the result or the error."""

    messages: list[Any] = field(default_factory=list)
    result: Any = None
    error: Any = None

    @property
    def events(self) -> list[Any]:
        """The messages that have a part of the answer."""
        return [message for message in self.messages if "seq" in message]

    @property
    def text(self) -> str:
        return "".join(message["delta"] for message in self.events)


def heard(body: bytes) -> Heard:
    """What all three SDKs alike make of a stream's whole body. Errors: `Misread`."""
    told, ended = _heard(body.decode())
    if not ended:
        raise Misread("every SDK waits for ever for a result")
    return told


def begun(body: bytes) -> Heard:
    """The same of a stream that was left: its whole events, and it need not have ended. Errors: `Misread`."""
    whole, _, _ = body.rpartition(b"\n\n")
    return _heard(f"{whole.decode()}\n\n" if whole else "")[0]


def _heard(text: str) -> tuple[Heard, bool]:
    ios, android, web = (_collected(name, read(text)) for name, read in _READERS.items())
    if not ios == android == web:
        raise Misread("the SDKs are not of one mind")
    return ios


def _collected(sdk: str, payloads: Iterator[str]) -> tuple[Heard, bool]:
    """What an app is told, and whether that is all."""
    told = Heard()
    ended = False
    for payload in payloads:
        if ended:
            raise Misread(f"{sdk}: something comes after the end: {payload[:80]}")
        try:
            said = json.loads(payload, parse_int=lambda digits: _number(sdk, digits))
        except ValueError as error:
            raise Misread(f"{sdk}: not JSON: {payload[:80]!r}") from error
        if not isinstance(said, dict) or len(said) != 1:
            raise Misread(f"{sdk}: not one thing alone: {payload[:80]}")
        ((kind, value),) = said.items()
        value = _decoded(sdk, value)
        if value is None:
            raise Misread(f"{sdk}: waits for ever for a {kind} that is null")
        match kind:
            case "message":
                told.messages.append(value)
            case "result":
                told.result, ended = value, True
            case "error":
                if not _CODE.fullmatch(value["status"]) or not isinstance(value["message"], str):
                    raise Misread(f"{sdk}: no error it knows: {value}")
                told.error, ended = value, True
            case _:
                raise Misread(f"{sdk}: neither a message nor a result nor an error: {kind}")
    return told, ended


def _ios(text: str) -> Iterator[str]:
    """`AsyncLineSequence` leaves empty lines out; any other line must be data."""
    for line in filter(None, _SWIFT_LINE_END.split(text)):
        if not line.startswith("data:"):
            raise Misread(f"iOS: aborts at the line {line[:80]!r}")
        yield line.removeprefix("data:")


def _android(text: str) -> Iterator[str]:
    """An event is what lies before a blank line, and may not be empty."""
    *lines, rest = _JAVA_LINE_END.split(text)
    if rest:
        raise Misread(f"Android: never sees the last line, {rest[:80]!r}")
    event = ""
    for line in lines:
        if not line.strip():
            yield event
            event = ""
        elif line.startswith("data:"):
            event += line.removeprefix("data:").strip() + "\n"
    if event:
        raise Misread(f"Android: never sees the last event, {event[:80]!r}")


def _web(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        trimmed = line.strip(_JS_SPACE)
        if not trimmed:
            continue
        found = _JS_DATA.fullmatch(trimmed)
        if found is None:
            raise Misread(f"web: drops the line {line[:80]!r}")
        yield found.group(1)


_READERS = {"iOS": _ios, "Android": _android, "web": _web}


def _number(sdk: str, digits: str) -> int:
    if int(digits) not in _JS_EXACT:
        raise Misread(f"{sdk}: {digits} is more than a JavaScript number holds")
    return int(digits)


def _decoded(sdk: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(sdk, item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("@type"):
        if value["@type"] not in _WRAPPED or not re.fullmatch(r"-?[0-9]+", value.get("value", "")):
            raise Misread(f"{sdk}: knows no value of the type {value['@type']}")
        return int(value["value"])
    return {key: _decoded(sdk, item) for key, item in value.items()}
