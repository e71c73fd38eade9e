"""The body of a task: which generation the worker is to run. A pure value, shared by both sides of the queue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

import orjson

from lib.domain.errors import InvalidRequest
from lib.domain.generation import BODIES, Generation


def is_check(body: bytes) -> bool:
    """Whether a task is `{"check": true}`, which does nothing. deploy.sh sends it, to see it accepted."""
    try:
        return orjson.dumps(orjson.loads(body)) == b'{"check":true}'
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Created:
    """A generation as it was created, without its bodies: enough to claim it before it is read.

    `version` is that of its journal's head, in nanoseconds since 1970.
    """

    generation: Generation
    version: int

    def fields(self) -> dict[str, Any]:
        known = {name: value for name, value in self.generation.fields().items() if name not in BODIES}
        return {"fields": known, "version": self.version}

    @classmethod
    def from_fields(cls, generation_id: str, fields: Any) -> Created:
        """Errors: `ValueError`, `TypeError`, `KeyError`."""
        known, version = dict(fields["fields"]), fields["version"]
        if type(version) is not int:
            raise TypeError("a version is a whole number")
        for name in ("createdAt", "expireAt"):
            known[name] = datetime.fromisoformat(known[name])
        known["watchers"] = {name: datetime.fromisoformat(until) for name, until in known["watchers"].items()}
        return cls(Generation.from_fields(generation_id, {**known, "request": b""}), version)


@dataclass(frozen=True, slots=True)
class Task:
    """A generation's id, the path of its message, and what is known of it if it was created just now.

    `takes_turns`: others of its chat wait for its end.
    """

    generation_id: str
    message_path: str
    created: Created | None = None
    takes_turns: bool = False

    @classmethod
    def of(cls, generation: Generation, created: Created | None = None) -> Self:
        return cls(generation.id, generation.message_path, created, generation.turn is not None)

    @property
    def successor(self) -> Task:
        """The task that follows this one, when the generation is no longer as it was created."""
        return replace(self, created=None)

    def encode(self) -> bytes:
        more: dict[str, Any] = {"created": self.created.fields()} if self.created is not None else {}
        if self.takes_turns:
            more["turns"] = True
        return orjson.dumps({"generation": self.generation_id, "message": self.message_path, **more})

    @classmethod
    def decode(cls, body: bytes) -> Task:
        """Errors: `InvalidRequest`."""
        try:
            fields: Any = orjson.loads(body)
            task = cls(fields["generation"], fields["message"], takes_turns=fields.get("turns") is True)
            if "created" in fields:
                task = replace(task, created=Created.from_fields(task.generation_id, fields["created"]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidRequest("The body must be a task: {'generation': …, 'message': …}.") from error
        if not all(isinstance(value, str) and value for value in (task.generation_id, task.message_path)):
            raise InvalidRequest("'generation' and 'message' must be non-empty strings.")
        return task
