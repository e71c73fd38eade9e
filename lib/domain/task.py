"""The body of a task: which generation the worker is to run. A pure value, shared by both sides of the queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from lib.domain.errors import InvalidRequest


def is_check(body: bytes) -> bool:
    """Whether a task is `{"check": true}`, which does nothing. deploy.sh sends it, to see it accepted."""
    try:
        return orjson.dumps(orjson.loads(body)) == b'{"check":true}'
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Task:
    """A generation's id, and the path of its message."""

    generation_id: str
    message_path: str

    def encode(self) -> bytes:
        return orjson.dumps({"generation": self.generation_id, "message": self.message_path})

    @classmethod
    def decode(cls, body: bytes) -> Task:
        """Errors: `InvalidRequest`."""
        try:
            fields: Any = orjson.loads(body)
            task = cls(fields["generation"], fields["message"])
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidRequest("The body must be a task: {'generation': …, 'message': …}.") from error
        if not all(isinstance(value, str) and value for value in (task.generation_id, task.message_path)):
            raise InvalidRequest("'generation' and 'message' must be non-empty strings.")
        return task
