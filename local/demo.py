"""Demonstrates the main purpose: a client leaves an answer of 4,000 tokens at event 3,600, and loses nothing.

Runs once on a local stack with free ports, and prints what happens. Exits with 0 only if what the client read before
and after, what Firestore has and what the upstream sent are equal, byte for byte.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore

from local.client import Client, Stream, question
from local.demo_text import seed_of, text
from local.firestore_emulator import EmulatorMissing
from local.ports import PortFault, Ports
from local.process import ProcessFault
from local.stack import Stack
from local.token import PROJECT

TOKENS = 4000
LEAVE_AT = 3600
RATE = 250
WAIT_SECONDS = 120.0
USER, CHAT, MESSAGE = "alice", "holidays", "answer-1"


@dataclass
class Seen:
    """What the client read on one connection."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    done: bool = False


def main() -> int:
    print("Starting the local stack: Firestore, Cloud Tasks, the demo upstream, api and worker.")
    try:
        with Stack(Ports.free(), environ=os.environ) as stack:
            return show(stack)
    except (EmulatorMissing, PortFault, ProcessFault) as fault:
        print(fault, file=sys.stderr)
        return 1


def show(stack: Stack) -> int:
    asked = question("Tell me about the sea.", TOKENS, rate=RATE)
    expected = text(seed_of(asked["messages"]), TOKENS)
    client = Client(stack.url, USER)

    print(f"Alice asks for {TOKENS:,} tokens, at {RATE} a second. The answer comes as it is written:")
    before = Seen()
    with client.stream(asked, X_Chat_Id=CHAT, X_Message_Id=MESSAGE) as stream:
        generation = stream.generation
        read(stream, before, until=LEAVE_AT)
    print(f"Her phone locks: the connection is torn down after event {before.ids[-1]:,}.\n")

    print("Nobody is connected. The worker goes on:")
    ended = wait_until_ended(client, generation, start=before.ids[-1])
    message = read_message(stack)
    print(f"Firestore has the message as '{message['state']}', {len(message['content']):,} characters.\n")

    print(f"She comes back with Last-Event-ID: {before.ids[-1]}:")
    after = Seen()
    with client.resume(generation, before.ids[-1]) as stream:
        read(stream, after, start=before.ids[-1])
    calls = requests.get(f"{stack.upstream_url}/demo/calls", timeout=10).json()

    print("\nWhat is proved:")
    return report(
        {
            f"the upstream was called once, sent {calls[0]['tokens_sent']:,} tokens, and saw no one leave": (
                len(calls) == 1 and calls[0]["tokens_sent"] == TOKENS and not calls[0]["client_gone"]
            ),
            f"Firestore's message is completed and equals what the upstream said ({len(expected.encode()):,} bytes)": (
                message["state"] == "completed" and message["content"] == expected
            ),
            f"the client got events 1 to {before.ids[-1]:,}, then {after.ids[0]:,} to {after.ids[-1]:,}: "
            "none missing, none twice": before.ids + after.ids == list(range(1, ended["lastSeq"] + 1)),
            "what it read before and after, joined, equals what the upstream said": (
                before.text + after.text == expected
            ),
            "the second visit ended with [DONE]": after.done,
        }
    )


def read(stream: Stream, seen: Seen, start: int = 0, until: int | None = None) -> None:
    """Reads frames into `seen`, to the end or to event `until`, and shows the progress."""
    progress = Progress(start)
    for frame in stream.frames():
        if frame.data == "[DONE]":
            seen.done = True
            continue
        if frame.id is not None:
            seen.ids.append(frame.id)
        seen.text += frame.text
        progress.show(seen.ids[-1])
        if until is not None and seen.ids[-1] >= until:
            break
    progress.end()


def wait_until_ended(client: Client, generation: str, start: int) -> dict[str, Any]:
    progress = Progress(start)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        shown = client.show(generation)
        progress.show(shown["lastSeq"])
        if shown["finishedAt"] or time.monotonic() > deadline:
            progress.end()
            return shown
        time.sleep(0.1)


def read_message(stack: Stack) -> dict[str, Any]:
    """The message as an application reads it: from Firestore, not through this service."""
    os.environ["FIRESTORE_EMULATOR_HOST"] = stack.firestore_host
    database = firestore.Client(project=PROJECT, credentials=AnonymousCredentials())
    document = database.document(f"users/{USER}/chats/{CHAT}/messages/{MESSAGE}").get(timeout=10)
    database.close()
    return document.to_dict() or {}


def report(proofs: dict[str, bool]) -> int:
    for what, true in proofs.items():
        print(f"  {'yes' if true else 'NO '}  {what}")
    print("\nNothing was lost." if all(proofs.values()) else "\nThis is not as it should be.")
    return 0 if all(proofs.values()) else 1


class Progress:
    """The progress of an answer: a bar on a terminal, otherwise one line per tenth."""

    WIDTH = 40

    def __init__(self, start: int = 0):
        self._live = sys.stdout.isatty()
        self._shown = start
        self._last = start

    def show(self, event: int) -> None:
        self._last = event
        if event - self._shown >= (20 if self._live else TOKENS // 10):
            self._print()

    def end(self) -> None:
        if self._shown != self._last:
            self._print()
        if self._live:
            print()

    def _print(self) -> None:
        self._shown = self._last
        if self._live:
            filled = min(self.WIDTH, self.WIDTH * self._last // TOKENS)
            print(f"\r  [{'#' * filled}{'.' * (self.WIDTH - filled)}] event {self._last:,}", end="", flush=True)
        else:
            print(f"  event {self._last:,}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
