"""A delivery: one notice of a generation's end, on one channel. A pure value, and the body of its task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import orjson

from lib.domain.channel import Channel
from lib.domain.errors import InvalidRequest
from lib.domain.generation import Generation


@dataclass(frozen=True, slots=True)
class Delivery:
    """`created` is when the generation was created, in milliseconds: a failed one may be started anew under its id."""

    generation_id: str
    created: int
    channel: Channel

    @classmethod
    def of(cls, generation: Generation, channel: Channel) -> Self:
        return cls(generation.id, _milliseconds(generation), channel)

    @property
    def name(self) -> str:
        """The task's name, by which the queue knows the same delivery again."""
        return f"{self.generation_id}-{self.created}-{self.channel}"

    def is_of(self, generation: Generation) -> bool:
        """Whether the generation is still the one that this delivery is of."""
        return (self.generation_id, self.created) == (generation.id, _milliseconds(generation))

    def encode(self) -> bytes:
        return orjson.dumps({"generation": self.generation_id, "created": self.created, "channel": self.channel})

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Errors: `InvalidRequest`."""
        try:
            fields: Any = orjson.loads(body)
            delivery = cls(fields["generation"], fields["created"], Channel(fields["channel"]))
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidRequest(
                "The body must be a delivery: {'generation': …, 'created': …, 'channel': …}."
            ) from error
        if (
            not isinstance(delivery.generation_id, str)
            or not delivery.generation_id
            or type(delivery.created) is not int
        ):
            raise InvalidRequest("'generation' must be a non-empty string and 'created' a whole number.")
        return delivery


def event_id(generation: Generation) -> str:
    """The id of a generation's end, the same however often it is told."""
    return f"evt_{generation.id}_{_milliseconds(generation)}"


def _milliseconds(generation: Generation) -> int:
    return int(generation.created_at.timestamp() * 1000)
