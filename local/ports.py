"""The ports of the local stack: the usual ones, the ones the environment asks for, or whatever is free."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

HOST = "127.0.0.1"


class PortFault(Exception):
    """A port can't be used; the message is one line with the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Field names are the environment's, in lower case: `api_port` is set by `API_PORT`."""

    api_port: int = 8080
    worker_port: int = 8081
    firestore_port: int = 8085
    tasks_port: int = 8086
    upstream_port: int = 8090

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Errors: `PortFault`."""
        given: dict[str, int] = {}
        for each in fields(cls):
            value = environ.get(each.name.upper(), "").strip()
            if not value:
                continue
            if not value.isdecimal() or not 0 < int(value) < 65536:
                raise PortFault(f"{each.name.upper()} must be a port from 1 to 65535, and is '{value}'.")
            given[each.name] = int(value)
        return cls(**given)

    @classmethod
    def free(cls) -> Self:
        """Ports that nothing listens on now."""
        sockets = [socket.create_server((HOST, 0)) for _ in fields(cls)]
        found = {each.name: bound.getsockname()[1] for each, bound in zip(fields(cls), sockets, strict=True)}
        for bound in sockets:
            bound.close()
        return cls(**found)

    def check(self) -> None:
        """Errors: `PortFault`, where something listens on one of them."""
        for each in fields(self):
            port = getattr(self, each.name)
            try:
                socket.create_server((HOST, port)).close()
            except OSError:
                variable = each.name.upper()
                raise PortFault(f"Port {port} is taken: end what listens there, or set {variable}.") from None
