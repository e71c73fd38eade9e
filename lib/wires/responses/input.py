"""Reads the items of OpenAI's Responses, those of a request's input and of earlier answers, into turns. Pure.

https://platform.openai.com/docs/api-reference/responses/create#responses-create-input
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from lib.dialects.conversation import Attachment, Json, Part, Role, ToolResult, ToolUse, Turn, Words
from lib.domain.errors import InvalidRequest

_AUDIO = {"wav": "audio/wav", "mp3": "audio/mpeg"}


@dataclass(slots=True)
class Said:
    """What a list of items says. Instructions are those of system and developer messages, in order."""

    instructions: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)


def items_of(given: Any) -> list[Json]:
    """A request's input as a list of items. Errors: `InvalidRequest`."""
    if isinstance(given, str) and given:
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    if not isinstance(given, list) or not given:
        raise InvalidRequest("'input' must be a text, or a non-empty list of items.", param="input")
    for at, item in enumerate(given):
        if not isinstance(item, dict):
            raise InvalidRequest(f"'input[{at}]' must be an object.", param=f"input[{at}]")
    return given


def read(items: Sequence[Json], earlier: int = 0) -> Said:
    """The turns that the items are. The first `earlier` ones are none of this request's, but come before it.

    Reasoning is left out: it is signed by, and of use to, the model that thought it. Errors: `InvalidRequest`.
    """
    said = Said()
    names: dict[str, str] = {}  # of the functions that were called, by the calls' ids
    for at, item in enumerate(items, -earlier):
        param = f"input[{at}]"
        match item.get("type", "message"):
            case "message":
                _message(item, said, param)
            case "function_call":
                use = ToolUse(
                    id=_text(item, "call_id", param),
                    name=_text(item, "name", param),
                    arguments=_text(item, "arguments", param),
                )
                names[use.id] = use.name
                _join(said.turns, Role.ASSISTANT, use)
            case "function_call_output":
                _join(said.turns, Role.USER, _result(item, names, param))
            case "image_generation_call" if isinstance(item.get("result"), str):
                image = Attachment(url=f"data:image/png;base64,{item['result']}", media_type="image/png")
                _join(said.turns, Role.ASSISTANT, image)
            case "reasoning":
                pass
            case kind:
                raise InvalidRequest(
                    f"'{param}' is of type '{str(kind)[:100]}', which can't be rendered for this model's API: send "
                    "messages, function calls and their outputs, with all that they say.",
                    code="unsupported_item",
                    param=f"{param}.type",
                )
    if not said.turns:
        raise InvalidRequest("'input' must have something that the user or a function says.", param="input")
    return said


def _join(turns: list[Turn], role: Role, part: Part) -> None:
    """Adds a part to the last turn, if that is the assistant's, or one of results. Otherwise it begins a turn."""
    last = turns[-1] if turns and turns[-1].role is role else None
    if last is not None and (role is Role.ASSISTANT or all(isinstance(each, ToolResult) for each in last.parts)):
        turns[-1] = Turn(role=role, parts=(*last.parts, part))
    else:
        turns.append(Turn(role=role, parts=(part,)))


def _message(item: Json, said: Said, param: str) -> None:
    parts = tuple(_content(item.get("content"), f"{param}.content"))
    match item.get("role"):
        case "system" | "developer":
            said.instructions += [part.text for part in parts if isinstance(part, Words)]
        case "user":
            said.turns.append(Turn(role=Role.USER, parts=parts))
        case "assistant":
            last = said.turns[-1] if said.turns and said.turns[-1].role is Role.ASSISTANT else None
            if last is not None and any(isinstance(part, ToolUse) for part in last.parts):
                said.turns[-1] = Turn(role=Role.ASSISTANT, parts=(*last.parts, *parts))  # results follow their calls
            elif parts:
                said.turns.append(Turn(role=Role.ASSISTANT, parts=parts))
        case _:
            raise InvalidRequest(f"'{param}.role' must be user, assistant, system or developer.", param=f"{param}.role")


def _content(content: Any, param: str) -> Iterator[Part]:
    if isinstance(content, str):
        yield Words(text=content)
        return
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise InvalidRequest(f"'{param}' must be a text, or a list of parts.", param=param)
    for at, part in enumerate(content):
        yield _part(part, f"{param}[{at}]")


def _part(part: Json, param: str) -> Part:
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return Words(text=_text(part, "text", param))
        case "refusal":
            return Words(text=_text(part, "refusal", param))
        case "input_image":
            url = _text(part, "image_url", param)
            return Attachment(url=url, media_type=_media_type(url, "image/jpeg"))
        case "input_file":
            return _file(part, param)
        case "input_audio":
            held = part.get("input_audio")
            audio = held if isinstance(held, dict) else part
            kind = _AUDIO.get(str(audio.get("format")))
            if kind is None:
                raise InvalidRequest(f"'{param}.input_audio.format' must be wav or mp3.", param=param)
            return Attachment(url=f"data:{kind};base64,{_text(audio, 'data', param)}", media_type=kind)
        case kind:
            raise InvalidRequest(
                f"'{param}' is of type '{str(kind)[:100]}', which can't be rendered for this model's API.",
                code="unsupported_item",
                param=f"{param}.type",
            )


def _file(part: Json, param: str) -> Attachment:
    name = part.get("filename")
    name = name if isinstance(name, str) and name else None
    if isinstance(part.get("file_url"), str):
        url = part["file_url"]
        return Attachment(url=url, media_type=_media_type(url, "application/pdf"), name=name)
    data = _text(part, "file_data", param)
    if not data.startswith("data:"):
        data = f"data:{_media_type(name or '', 'application/pdf')};base64,{data}"
    return Attachment(url=data, media_type=_media_type(data, "application/pdf"), name=name)


def _media_type(url: str, otherwise: str) -> str:
    """The media type of a `data:` URL, or the one that the path's ending says."""
    if url.startswith("data:"):
        return url[5:].partition(",")[0].partition(";")[0] or otherwise
    try:
        path = urlsplit(url).path
    except ValueError:
        path = ""
    return mimetypes.guess_type(path)[0] or otherwise


def _result(item: Json, names: dict[str, str], param: str) -> ToolResult:
    call = _text(item, "call_id", param)
    if call not in names:
        raise InvalidRequest(
            f"No function call has the call_id '{call[:100]}' of '{param}': send the call before its output, or "
            "'previous_response_id'.",
            param=f"{param}.call_id",
        )
    output = item.get("output")
    if not isinstance(output, str):
        parts = list(_content(output, f"{param}.output"))
        if not all(isinstance(part, Words) for part in parts):
            raise InvalidRequest(
                f"'{param}.output' has more than text, which can't be rendered for this model's API.",
                code="unsupported_item",
                param=f"{param}.output",
            )
        output = "".join(part.text for part in parts if isinstance(part, Words))
    return ToolResult(id=call, name=names[call], output=output)


def _text(held: Json, name: str, param: str) -> str:
    value = held.get(name)
    if not isinstance(value, str):
        by_id = " Files by their id are OpenAI's own: send the contents or an address." if "file_id" in held else ""
        raise InvalidRequest(f"'{param}.{name}' must be a text.{by_id}", param=f"{param}.{name}")
    return value
