"""What every client protocol's routes are built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from werkzeug.datastructures import Headers

from lib.dialects.protocol import Dialect
from lib.runtime.settings import Settings
from lib.serving.generations import Generations
from lib.wires.bodies import Bodies


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """The parts of the api that a protocol's `register` takes.

    `identify` returns the uid for a request's headers. Its errors: `Unauthenticated`, `Unavailable`.
    """

    settings: Settings
    generations: Generations
    identify: Callable[[Headers], str]
    dialects: Mapping[str, Dialect]
    bodies: Bodies
