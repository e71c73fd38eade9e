"""The ports of the local stack: the defaults, those set in the environment, or free ones.

A free port belongs to the process that got it until that process ends, whether or not anything listens on it: two
stacks that start together never get the same.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Self

HOST = "127.0.0.1"
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 20_000  # above the ports that servers and browsers reserve
_HIGHEST = 32_767  # below the default ephemeral ports of Linux and macOS
_claiming = threading.Lock()


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
        """Ports that nothing listens on and no other process got from here.

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
    # From anywhere on, so that processes seldom try each other's. Not with the shared generator: tests seed it.
    start = random.SystemRandom().randrange(len(among))
    return filter(_claimed, chain(among[start:], among[:start]))


def _claimed(port: int) -> bool:
    """Whether the port is this process's from now on: nothing listens on it, and nobody had got it."""
    with _claiming:
        claims, mine = _claims()
        if port in mine:
            return False
        try:
            # A byte for each port. The lock ends with the process, however that ends.
            fcntl.lockf(claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        mine.add(port)
    return _is_free(port)


@cache
def _claims() -> tuple[int, set[int]]:
    """The file whose bytes are locked, which is never closed, and the bytes that this process has locked.

    The set is needed because a process is never refused a lock that it has itself.
    """
    path = Path(tempfile.gettempdir(), f"holdfast-ports-{os.getuid()}")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), set()


def _is_free(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True
