"""Reads a request of OpenAI's Responses for a model whose upstream speaks another API. Pure.

It becomes a conversation. What can't be said in one is an error that names it, and nothing is left out in silence, but
for what says nothing to the model: identifiers, hints for caches, and the level of detail of images.
https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lib.dialects.conversation import Conversation, Format, Json, Tool, ToolChoice, ToolMode
from lib.domain.errors import InvalidRequest
from lib.wires.responses import input as responses_input

# What an answer shows of its request, and what is shown where the request says nothing.
SHOWN: Json = {
    "background": False,
    "frequency_penalty": 0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
_READ = frozenset({*SHOWN, "include", "input", "model", "stream"}) - {"frequency_penalty", "presence_penalty"}
_WITHOUT_MEANING_HERE = frozenset({"prompt_cache_options", "prompt_cache_retention", "stream_options"})
_NOT_RENDERED = (
    "access_programs",
    "background_options",
    "context_management",
    "conversation",
    "image",
    "moderation",
    "prompt",
)
_ONLY: dict[str, tuple[Any, ...]] = {
    "service_tier": ("auto", "default"),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
_WHERE_THERE_IS_SOME = "reasoning.encrypted_content"  # which stateless clients ask for whatever the model is
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "background": (bool, "true or false"),
    "include": (list, "a list"),
    "instructions": (str, "a text"),
    "metadata": (dict, "an object of texts"),
    "parallel_tool_calls": (bool, "true or false"),
    "previous_response_id": (str, "the id of a response"),
    "reasoning": (dict, "an object"),
    "store": (bool, "true or false"),
    "stream": (bool, "true or false"),
    "temperature": ((int, float), "a number"),
    "text": (dict, "an object"),
    "tools": (list, "a list"),
    "top_p": ((int, float), "a number"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponsesRequest:
    """A request. `kept` is what is kept of it: the fields that answers show, and all items of the input so far."""

    conversation: Conversation
    kept: Json


def read(fields: Json, earlier: Sequence[Json] = ()) -> ResponsesRequest:
    """Reads what `check` has checked. `earlier` are the items of the conversation before. Errors: `InvalidRequest`."""
    _check_rendered(fields)
    items = [*earlier, *responses_input.items_of(fields.get("input"))]
    said = responses_input.read(items, len(earlier))
    instructions = [fields["instructions"]] if fields.get("instructions") else []
    tools = tuple(_tool(tool, f"tools[{at}]") for at, tool in enumerate(fields.get("tools") or ()))
    choice, allowed = _tool_choice(fields.get("tool_choice"), tools)
    reasoning = fields.get("reasoning") or {}
    conversation = Conversation(
        model=fields["model"],
        turns=tuple(said.turns),
        instructions="\n\n".join(instructions + said.instructions) or None,
        tools=allowed,
        tool_choice=choice,
        parallel_tools=fields.get("parallel_tool_calls"),
        output_tokens=_output_tokens(fields.get("max_output_tokens")),
        output_tokens_field="max_output_tokens",
        temperature=fields.get("temperature"),
        top_p=fields.get("top_p"),
        format=_format(fields.get("text") or {}),
        effort=_text_or_none(reasoning, "effort", "reasoning.effort"),
        thoughts=reasoning.get("summary") is not None,
        options={
            name: value
            for name, value in fields.items()
            if name not in _READ and name not in _NOT_RENDERED and name not in _WITHOUT_MEANING_HERE
        },
    )
    shown = shown_of(fields)
    if tools:
        shown["tools"] = [{"description": None, "parameters": None, "strict": None, **tool} for tool in fields["tools"]]
    if "text" in shown:
        shown["text"] = {**SHOWN["text"], **shown["text"]}
    if "reasoning" in shown:
        shown["reasoning"] = {**SHOWN["reasoning"], **shown["reasoning"]}
    return ResponsesRequest(conversation=conversation, kept={**shown, "input": items})


def shown_of(fields: Json) -> Json:
    """The fields of a request that its answer shows."""
    return {name: fields[name] for name in SHOWN if fields.get(name) is not None}


def portable(items: Sequence[Json]) -> list[Json]:
    """The items of a conversation as an upstream takes them that speaks this API, and did not make them."""
    return [
        {name: value for name, value in item.items() if name not in ("id", "status")}
        for item in items
        if item.get("type") not in ("reasoning", "image_generation_call")
    ]


def check(fields: Json) -> None:
    """Checks what this service itself goes by, whichever API the upstream speaks. Errors: `InvalidRequest`."""
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("'model' must be a non-empty string.", param="model")
    for name, (kinds, what) in _KINDS.items():
        value = fields.get(name)
        if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool)):
            raise InvalidRequest(f"'{name}' must be {what}.", param=name)
    metadata = fields.get("metadata") or {}
    if not all(isinstance(value, str) and len(value) <= 512 for value in metadata.values()) or len(metadata) > 16:
        raise InvalidRequest("'metadata' may have 16 fields, each a text of at most 512 characters.", param="metadata")
    if fields.get("background") and fields.get("store") is False:
        raise InvalidRequest(
            "'background' needs 'store': what can't be retrieved could not be followed.", param="background"
        )


def _check_rendered(fields: Json) -> None:
    for name in _NOT_RENDERED:
        if fields.get(name) is not None:
            raise _unsupported(f"'{name}'", name)
    for name, values in _ONLY.items():
        if fields.get(name) is not None and fields[name] not in values:
            raise _unsupported(f"'{name}' other than {values[-1]!r}", name)
    for wanted in fields.get("include") or ():
        if wanted != _WHERE_THERE_IS_SOME:
            raise _unsupported(f"'include' of '{str(wanted)[:100]}'", "include")
    verbosity = (fields.get("text") or {}).get("verbosity")
    if verbosity not in (None, "medium"):
        raise _unsupported("'text.verbosity' other than 'medium'", "text.verbosity")


def _unsupported(what: str, param: str) -> InvalidRequest:
    words = f"{what} can't be rendered for this model, whose upstream speaks another API: leave it out."
    return InvalidRequest(words, code="unsupported_parameter", param=param)


def _tool(tool: Any, param: str) -> Tool:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind != "function":
        raise _unsupported(f"'{param}' of type '{str(kind)[:100]}'", f"{param}.type")
    name, schema = tool.get("name"), tool.get("parameters")
    description, strict = tool.get("description"), tool.get("strict")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"'{param}.name' must be a non-empty text.", param=f"{param}.name")
    if not isinstance(schema, dict | None):
        raise InvalidRequest(f"'{param}.parameters' must be a JSON Schema.", param=f"{param}.parameters")
    if not isinstance(description, str | None):
        raise InvalidRequest(f"'{param}.description' must be a text.", param=f"{param}.description")
    if not isinstance(strict, bool | None):
        raise InvalidRequest(f"'{param}.strict' must be true or false.", param=f"{param}.strict")
    parameters = {"type": "object", "properties": {}} if schema is None else schema
    return Tool(name=name, parameters=parameters, description=description, strict=strict)


def _tool_choice(given: Any, tools: tuple[Tool, ...]) -> tuple[ToolChoice | None, tuple[Tool, ...]]:
    """The choice, and the tools that it allows."""
    match given:
        case None:
            return None, tools
        case str() if given in list(ToolMode):
            return ToolChoice(mode=ToolMode(given)), tools
        case {"type": "function", "name": str(name)}:
            return ToolChoice(mode=ToolMode.REQUIRED, name=name), tools
        case {"type": "allowed_tools", "mode": str(mode), "tools": [*allowed]} if mode in list(ToolMode):
            names = {each.get("name") for each in allowed if isinstance(each, dict)}
            return ToolChoice(mode=ToolMode(mode)), tuple(tool for tool in tools if tool.name in names)
        case {"type": kind}:
            raise _unsupported(f"'tool_choice' of type '{str(kind)[:100]}'", "tool_choice")
    raise InvalidRequest("'tool_choice' must be none, auto, required, or name a function.", param="tool_choice")


def _format(text: Json) -> Format | None:
    match text.get("format"):
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return Format()
        case {"type": "json_schema", "name": str(name), "schema": dict(schema), **more}:
            description, strict = more.get("description"), more.get("strict")
            if isinstance(description, str | None) and isinstance(strict, bool | None):
                return Format(name=name, schema=schema, description=description, strict=strict)
    raise InvalidRequest(
        "'text.format' must be of type text, json_object, or json_schema with a 'name' and a 'schema'.",
        param="text.format",
    )


def _output_tokens(given: Any) -> int | None:
    if given is not None and (type(given) is not int or given < 1):
        raise InvalidRequest("'max_output_tokens' must be a whole number above 0.", param="max_output_tokens")
    return given


def _text_or_none(held: Json, name: str, param: str) -> str | None:
    value = held.get(name)
    if not isinstance(value, str | None):
        raise InvalidRequest(f"'{param}' must be a text.", param=param)
    return value
