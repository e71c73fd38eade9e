"""The ports of the local stack: the defaults, those set in the environment, or free ones."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Self

HOST = "127.0.0.1"
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 20_000  # above the ports that servers and browsers reserve
_HIGHEST = 32_767  # below the default ephemeral ports of Linux and macOS


class PortFault(Exception):
    """A port can't be used. The message is one line with the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """The ports. Fields are named like the environment variables, in lower case: `api_port` is set by `API_PORT`."""

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
    def free(cls, among: Sequence[int] | None = None) -> Self:
        """Random ports that nothing listens on, so that two stacks rarely pick the same.

        Ephemeral ports are not used: the system could assign one to another process before the stack listens on it.
        """
        names = [each.name for each in fields(cls)]
        return cls(**dict(zip(names, islice(_free(unasked() if among is None else among), len(names)), strict=True)))

    def check(self) -> None:
        """Errors: `PortFault`, if something listens on one of the ports."""
        for each in fields(self):
            port = getattr(self, each.name)
            if not _is_free(port):
                raise PortFault(f"Port {port} is taken: end what listens there, or set {each.name.upper()}.")


def unasked(ephemeral: Path = _EPHEMERAL) -> range:
    """The ports that the system assigns only on request."""
    try:
        first = int(ephemeral.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = _HIGHEST + 1
    return range(_LOWEST, first if first >= _LOWEST + 1000 else _HIGHEST + 1)


def free_port() -> int:
    """One more free port."""
    return next(_free(unasked()))


def _free(among: Sequence[int]) -> Iterator[int]:
    # Not the shared generator, because tests seed it.
    return filter(_is_free, random.SystemRandom().sample(among, len(among)))


def _is_free(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True
