"""Faults of the upstreams: what they send is broken, refused, late, or never comes."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from chaos.fault import Fault
from chaos.plan import Plan
from chaos.promise import Promise
from chaos.question import Question
from chaos.round import CLOSE_SECONDS, Round
from chaos.stage import WAIT_SECONDS
from local.client import Client


class UpstreamFaults(Fault):
    """Each upstream call has a random fault. Half of the upstreams are resumable."""

    key = "upstream-faults"
    title = "upstream faults"

    # The kinds, by whether the fault is transient.
    passing = ("break", "reset", "close", "stall", "error_event")
    lasting = ("malformed_json",)
    harmless = ("no_done", "split", "gzip", "crlf", "no_space", "multi_line", "comments", "null_error")
    not_in_background = (*lasting, "no_done")  # that can't be sent, or can't be told from an answer that goes on
    before = ("refuse twice", "rate limit", "refuse for good")

    def question(self, on: Round, usual: Question, place: int) -> Question:
        kinds = (*self.passing, *self.lasting, on.chance.choice(self.harmless), "no_done", *self.before)
        kind = kinds[place % len(kinds)] if on.plan.load >= 2 * len(kinds) else on.chance.choice(kinds)
        resumable = on.chance.random() < 0.5 and not (usual.dialect.background and kind in self.not_in_background)
        return replace(usual, resumable=resumable, fault=self._fault(kind, on.chance, usual.tokens))

    def _fault(self, kind: str, chance: random.Random, tokens: int) -> dict[str, Any]:
        at = chance.randint(1, tokens - 1)
        match kind:
            case "reset":
                return {"kind": "break", "at": at, "reset": True, "times": 1}
            case "refuse twice":
                return {"kind": "refuse", "status": chance.choice((500, 503, 529)), "times": 2}
            case "rate limit":
                return {"kind": "refuse", "status": 429, "retry_after": 1, "times": 1}
            case "refuse for good":
                return {"kind": "refuse", "status": chance.choice((400, 401, 404, 422))}
            case "split":
                return {"kind": "split", "bytes": chance.randint(1, 40)}
            case _ if kind in self.harmless:
                return {"kind": kind}
            case _:
                return {"kind": kind, "at": at, "times": 1}

    def promise(self, plan: Plan, question: Question) -> Promise:
        fault = question.fault or {}
        kind, times = fault["kind"], fault.get("times")
        if kind == "refuse":
            return Promise(calls=times + 1) if times else Promise(states=frozenset({"failed"}), tokens=0, calls=1)
        if kind == "no_done" and question.dialect.ends:
            return Promise(states=frozenset({"incomplete"}), tokens=question.tokens, calls=1)
        if kind in self.harmless:
            return Promise(calls=1)
        if kind in self.passing and (question.continues or question.whole):
            return Promise(calls=1 if question.background else 2)
        if question.whole:
            return Promise(states=frozenset({"failed"}), tokens=0, calls=1)
        return Promise(states=frozenset({"incomplete"}), tokens=fault["at"], calls=1)


class StoppedWhileMute(Fault):
    """Users stop answers whose upstream has not sent its status line. No call may stay open: each costs money."""

    key = "stopped-mute"
    title = "stopped while the upstream is mute"
    leaves = 0

    def question(self, on: Round, usual: Question, place: int) -> Question:
        return replace(usual, mute=3600.0)

    def strike(self, on: Round) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while len(on.stage.calls()) < len(on.asked) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(on.chance.uniform(0.0, 0.5))
        with ThreadPoolExecutor(len(on.asked)) as pool:
            list(pool.map(lambda asked: self._stop(on, asked.question), on.asked))
        if still := on.stage.open_calls([asked.question for asked in on.asked], CLOSE_SECONDS):
            on.broken.append(f"expected no upstream call to outlive its stop, those of {', '.join(still)} did")

    def _stop(self, on: Round, question: Question) -> None:
        client = Client(on.stage.stack.url, question.user)
        for generation in client.list():
            client.request("POST", f"/v1/generations/{generation['id']}/stop")
        client.session.close()

    def promise(self, plan: Plan, question: Question) -> Promise:
        return Promise(states=frozenset({"stopped"}), tokens=0, calls=1)
