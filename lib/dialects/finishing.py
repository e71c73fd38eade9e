"""What a finish reason means, whichever API it is of. For client protocols that have reasons of their own."""

from __future__ import annotations

from enum import StrEnum


class Ending(StrEnum):
    """Why a model ended its turn."""

    STOP = "stop"
    LENGTH = "length"
    TOOLS = "tool-calls"
    FILTER = "content-filter"
    OTHER = "other"


_ENDINGS = {
    "stop": Ending.STOP,
    "completed": Ending.STOP,
    "end_turn": Ending.STOP,
    "stop_sequence": Ending.STOP,
    "length": Ending.LENGTH,
    "max_tokens": Ending.LENGTH,
    "max_output_tokens": Ending.LENGTH,
    "model_context_window_exceeded": Ending.LENGTH,
    "tool_calls": Ending.TOOLS,
    "function_call": Ending.TOOLS,
    "tool_use": Ending.TOOLS,
    "content_filter": Ending.FILTER,
    "refusal": Ending.FILTER,
    "safety": Ending.FILTER,
    "recitation": Ending.FILTER,
    "blocklist": Ending.FILTER,
    "prohibited_content": Ending.FILTER,
    "spii": Ending.FILTER,
    "image_safety": Ending.FILTER,
    "image_prohibited_content": Ending.FILTER,
    "image_recitation": Ending.FILTER,
    "jailbreak": Ending.FILTER,
    "model_armor": Ending.FILTER,
}


def ending(reason: str) -> Ending:
    """The meaning of an upstream's finish reason. One that is not known is `OTHER`."""
    return _ENDINGS.get(reason.lower(), Ending.OTHER)
