"""The Anthropic protocol: messages, as server-sent events or as one body.

https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

from flask import Flask

from lib.wires import native
from lib.wires.service import Service


def register(app: Flask, service: Service) -> None:
    """Adds the route."""
    native.register(app, "/v1/messages", service.dialects["messages"], service)
