"""The ports of a local stack: the requested ones, or ports that no other process has or gets."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Self

import pytest

from local.ports import HOST, PortFault, Ports, free_port, unasked

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 60.0
CODE = """
from dataclasses import astuple
from local.ports import Ports
print(*astuple(Ports.free()), flush=True)
input()
"""


class AnotherProcess:
    """A process that gets free ports, and listens on none. It ends with its context, or when it is killed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CODE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.ports = [int(port) for port in self._process.stdout.readline().split()]
        assert len(self.ports) == 5

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate("\n", timeout=SECONDS)


@pytest.fixture
def listen_on() -> Iterator[Callable[[int], socket.socket]]:
    servers: list[socket.socket] = []

    def listen_on(port: int) -> socket.socket:
        servers.append(socket.create_server((HOST, port)))
        return servers[-1]

    yield listen_on
    for server in servers:
        server.close()


def test_free_ports_differ_and_can_be_listened_on(listen_on: Callable[[int], socket.socket]) -> None:
    for port in astuple(Ports.free()):
        listen_on(port)


def test_a_free_port_is_none_that_the_system_gives_out_by_itself() -> None:
    for _ in range(20):
        assert {*astuple(Ports.free()), free_port()} <= set(unasked())


def test_a_port_that_somebody_listens_on_is_not_free(listen_on: Callable[[int], socket.socket]) -> None:
    with AnotherProcess() as process:
        free = process.ports
    taken = [listen_on(0).getsockname()[1] for _ in range(20)]
    assert set(astuple(Ports.free([*taken, *free]))) == set(free)


def test_two_stacks_of_a_process_do_not_get_the_same_ports() -> None:
    """Nothing listens yet when the second one looks."""
    with AnotherProcess() as one, AnotherProcess() as two:
        ten = [*one.ports, *two.ports]
    assert {*astuple(Ports.free(ten)), *astuple(Ports.free(ten))} == set(ten)


def test_two_processes_do_not_get_the_same_ports_until_one_has_ended() -> None:
    with AnotherProcess() as ended:
        free = ended.ports
    with AnotherProcess() as running:
        assert set(astuple(Ports.free([*running.ports, *free]))) == set(free)
        running.kill()
        assert set(astuple(Ports.free(running.ports))) == set(running.ports)


@pytest.mark.parametrize(
    ("said", "highest"),
    [
        ("32768\t60999\n", 32_767),
        ("25000 60999", 24_999),
        ("49152 65535", 49_151),
        ("1024 65535", 32_767),
        ("", 32_767),
        (None, 32_767),
    ],
    ids=["Linux", "lower", "higher", "nearly all", "nothing", "no Linux"],
)
def test_the_ports_to_choose_from_end_where_the_system_s_own_begin(
    tmp_path: Path, said: str | None, highest: int
) -> None:
    path = tmp_path / "range"
    if said is not None:
        path.write_text(said)
    assert unasked(path) == range(20_000, highest + 1)


def test_a_port_that_is_taken_is_named_with_the_remedy(listen_on: Callable[[int], socket.socket]) -> None:
    ports = Ports.free()
    listen_on(ports.worker_port)
    with pytest.raises(PortFault, match=f"Port {ports.worker_port} is taken: .* set WORKER_PORT"):
        ports.check()
