"""The Anthropic protocol: messages, as server-sent events or as one body.

https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask
from werkzeug.datastructures import Headers

from lib.dialects.protocol import Dialect
from lib.runtime.settings import Settings
from lib.serving.generations import Generations
from lib.wires import native
from lib.wires.bodies import Bodies


def register(
    app: Flask,
    settings: Settings,
    generations: Generations,
    identify: Callable[[Headers], str],
    dialect: Dialect,
    bodies: Bodies,
) -> None:
    """Adds the route. `dialect` is messages. `identify` returns the uid for a request's headers."""
    native.register(app, "/v1/messages", dialect, settings, generations, identify, bodies)
