"""Faults of connections to clients: the api is lost, viewers leave, and some read nothing."""

from __future__ import annotations

import socket
from dataclasses import replace

from chaos.fault import Fault
from chaos.question import Question
from chaos.round import Round
from chaos.stage import WAIT_SECONDS, Stage
from local.ports import HOST
from local.token import id_token


class ApiKilled(Fault):
    """All viewers lose their connections at once, and a new instance has to serve them all."""

    key = "api-killed"
    title = "api killed"
    recovery = "the kill"

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        on.keep()
        on.stage.stack.processes["api"].kill()
        on.recovers_from_now(reopened=True)
        on.stage.stack.restart("api")


class ViewersLeave(Fault):
    """Viewers keep leaving and returning, and some ask for the whole stream but read nothing."""

    key = "viewers-leave"
    title = "viewers that leave or never read"
    viewers = (2, 4)
    leaves = 6
    unread = (400, 12_000)  # tokens, and bytes per token: more than the 3 MB that fit into the sockets' buffers

    def __init__(self) -> None:
        self._deaf: list[socket.socket] = []

    def question(self, on: Round, usual: Question, place: int) -> Question:
        if place:
            return usual
        tokens, token_bytes = self.unread
        return replace(usual, tokens=tokens, rate=2 * on.plan.rate, token_bytes=token_bytes, streamed=True)

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        watched = on.asked[0]
        for _ in range(max(2, on.plan.load // 4)):
            self._deaf.append(_deaf(on.stage, watched.question, watched.generation or ""))

    def restore(self, stage: Stage) -> None:
        while self._deaf:
            self._deaf.pop().close()


def _deaf(stage: Stage, question: Question, generation: str) -> socket.socket:
    """A viewer that asks for the stream with a small receive buffer, and reads nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(WAIT_SECONDS)
    connection.connect((HOST, stage.stack.ports.api_port))
    connection.sendall(
        f"GET /v1/generations/{generation} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {id_token(question.user)}\r\n\r\n".encode()
    )
    return connection
