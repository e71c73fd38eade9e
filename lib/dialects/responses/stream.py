"""The events of OpenAI's Responses that a whole response is made of.

Rules: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

from __future__ import annotations

from typing import Any

from lib.dialects.responses.events import GROWING, items_of
from lib.dialects.steps import Json

_PARTS = {
    "content": ("response.content_part", "content_index"),
    "summary": ("response.reasoning_summary_part", "summary_index"),
}
_STEMS = {(growing.parts, growing.kind): stem for stem, growing in GROWING.items() if growing.parts}


def stream_of(response: Json) -> list[Json]:
    """The events of a stream that adds up to a whole response."""
    unsaid: Json = {"status": "in_progress", "output": []}
    unsaid |= {name: None for name in ("completed_at", "incomplete_details", "usage") if name in response}
    begun = {**response, **unsaid}
    events: list[Json] = [{"type": kind, "response": begun} for kind in ("response.created", "response.in_progress")]
    for index, item in enumerate(items_of(response)):
        events += [{**event, "output_index": index} for event in events_of(item)]
    end = "response.incomplete" if response.get("status") == "incomplete" else "response.completed"
    events.append({"type": end, "response": response})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def events_of(item: Json) -> list[Json]:
    """The events of one item of the output, without their `output_index` and `sequence_number`."""
    added = {**item, **({"status": "in_progress"} if "status" in item else {})}
    inner: list[Json] = []
    for name, (part_kind, index) in _PARTS.items():
        parts = item.get(name)
        if isinstance(parts, list):
            added[name] = []
            for place, part in enumerate(parts):
                if isinstance(part, dict):
                    inner += [{**event, index: place} for event in _events_of_part(part, part_kind, name)]
    for stem, growing in GROWING.items():
        if not growing.parts and stem == f"response.{item.get('type')}_{growing.field}" and growing.field in item:
            added[growing.field] = ""
            inner += _grown(stem, growing.field, item[growing.field])
    named = {"item_id": item["id"]} if "id" in item else {}
    return [
        {"type": "response.output_item.added", "item": added},
        *[{**event, **named} for event in inner],
        {"type": "response.output_item.done", "item": item},
    ]


def _events_of_part(part: Json, part_kind: str, parts: str) -> list[Json]:
    begun, inner = part, []
    stem = _STEMS.get((parts, str(part.get("type"))))
    if stem is not None:
        field, notes = GROWING[stem].field, part.get("annotations")
        begun = {**part, field: "", **({"annotations": []} if notes else {})}
        *deltas, done = _grown(stem, field, part.get(field))
        noted = [
            {"type": f"{stem}.annotation.added", "annotation": note, "annotation_index": at}
            for at, note in enumerate(notes if isinstance(notes, list) else ())
        ]
        inner = [*deltas, *noted, done]
    return [{"type": f"{part_kind}.added", "part": begun}, *inner, {"type": f"{part_kind}.done", "part": part}]


def _grown(stem: str, field: str, text: Any) -> list[Json]:
    """The events of a text that comes in one piece."""
    more: Json = {"logprobs": []} if stem == "response.output_text" else {}
    delta = [{"type": f"{stem}.delta", "delta": text, **more}] if text and isinstance(text, str) else []
    return [*delta, {"type": f"{stem}.done", field: text, **more}]
