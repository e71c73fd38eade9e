"""The ports of a local stack: the requested ones, or ports that no other process has or gets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path

import pytest

from local.ports import HOST, PortFault, Ports, free_port, unasked


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
    taken, free = astuple(Ports.free()), astuple(Ports.free())
    for port in set(taken) - set(free):
        listen_on(port)
    for _ in range(20):
        assert set(astuple(Ports.free(list({*taken, *free})))) == set(free)


def test_two_stacks_that_start_together_do_not_get_the_same_ports() -> None:
    """Nothing listens yet when the second one looks. Four draws that agree are no chance."""
    assert len({Ports.free() for _ in range(4)}) == 4


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
