"""The world in which stores are far away: Firestore as in another zone or region, and Redis as in another zone.

Each system is measured there, and Holdfast also with Firestore beside it, which its functions reach in the same way, so
that what the distance costs is the difference. Each place has functions of its own: a worker goes by the shortest
claim that it has made.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from bench.lag import Shown, play
from bench.plan import HOLDFAST, Case, Far, Plan
from bench.stage import Stage
from bench.system import System

# Small, since Genkit writes a token after the other, and each takes a round trip.
AGAIN = Case(name="warm", streams=2, tokens=5, rate=50, systems={})


def measure(plan: Plan, stage: Stage) -> dict[str, Any]:
    """Like `lag`, with cases for each number of streams: `near-N`, with Holdfast alone, and `far-N`."""
    far = plan.far
    found: list[Shown] = []
    with ExitStack() as there:
        hosts = {
            place: there.enter_context(stage.distant(stage.stack.firestore_host, seconds)).host
            for place, seconds in (("near", 0.0), ("far", far.firestore))
        }
        redis = there.enter_context(stage.distant(stage.redis_host, far.redis))
        functions = {
            place: there.enter_context(stage.functions(place, {"FIRESTORE_EMULATOR_HOST": host}))
            for place, host in hosts.items()
        }
        resumable = there.enter_context(stage.other_resumable(redis.host))
        for number in range(far.rounds):
            holdfast = {
                place: replace(each, name=HOLDFAST, store=[stage.firestore]) for place, each in functions.items()
            }
            warmed: list[System] = [*holdfast.values(), resumable]
            for system in warmed:
                asyncio.run(play(stage, system, plan.warm, number, plan.patience))
            for streams in far.streams:
                # Genkit's server is new for each case: its pending writes would be load for the next one.
                with stage.other_genkit(hosts["far"]) as genkit:
                    turns: list[tuple[str, System]] = [
                        *holdfast.items(),
                        ("far", resumable),
                        ("far", genkit),
                    ]
                    for place, system in turns[number % 3 :] + turns[: number % 3]:
                        print(f"round {number + 1}  {place}, {streams} streams  {system.name}", file=sys.stderr)
                        asyncio.run(play(stage, system, AGAIN, number, plan.patience))
                        case = _case(far, place, streams)
                        found += asyncio.run(play(stage, system, case, number, plan.patience))
                        stage.empty_firestore()
            stage.renew_firestore()
    cases = [_case(far, place, streams) for streams in far.streams for place in ("near", "far")]
    return {
        "firestore": far.firestore,
        "redis": far.redis,
        "streams": far.streams,
        "cases": {case.name: case.described() for case in cases},
        "lag": [asdict(shown) for shown in found],
    }


def _case(far: Far, place: str, streams: int) -> Case:
    return Case(name=f"{place}-{streams}", streams=streams, tokens=far.tokens, rate=far.rate, systems={})
