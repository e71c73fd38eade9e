"""Responses that the demo upstream generates in the background: they go on when their connection is gone.

https://platform.openai.com/docs/guides/background
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace

from aiohttp import web

from local.demo_calls import CallLog
from local.demo_delivery import Call, Delivery, Pace
from local.demo_faults import Order
from local.demo_responses import Responses
from local.demo_text import Json

_MAX_KEPT = 1000


class Kept:
    """One response. `events` are those so far: each with the number of tokens that it has, by `sequence_number`.

    `opening` is how many of them come before the first token, and `over` whether no more come.
    """

    def __init__(self, order: Order):
        self.order = order
        self.tongue = Responses(order)
        self.events: list[tuple[bytes, int]] = []
        self.opening = 0
        self.status = "queued"
        self.over = False
        self._changed = asyncio.Event()
        self._work = asyncio.create_task(self._generate())

    async def change(self) -> None:
        """Waits for another event, or the end."""
        await self._changed.wait()

    def response(self) -> Json:
        """The response object so far."""
        return self.tongue.response(self.status)

    async def cancel(self) -> None:
        """Ends it. One that is over stays as it is."""
        if not self.over:
            self._work.cancel()
            with suppress(asyncio.CancelledError):
                await self._work
            self.status, self.over = "cancelled", True
            self._put([self.tongue.cancelled()], 0)

    async def _generate(self) -> None:
        await asyncio.sleep(self.order.first_token_delay)
        opening = self.tongue.opening()
        self.opening, self.status = len(opening), "in_progress"
        self._put(opening, 0)
        pace = Pace(self.order.rate, asyncio.get_running_loop().time)
        for step, delta in enumerate(self.order.spoken.deltas(0)):
            if (early := pace.wait(step)) > 0:
                await asyncio.sleep(early)
            elif step % 100 == 0:
                await asyncio.sleep(0)
            self._put(self.tongue.delta(0, delta), 1)
        closing = self.tongue.closing()
        self.status = "incomplete" if self.order.answer.finish_reason == "length" else "completed"
        self.over = True
        self._put(closing, 0)

    def _put(self, events: list[bytes], tokens: int) -> None:
        *before, last = events
        self.events += [*((event, 0) for event in before), (last, tokens)]
        self._changed.set()
        self._changed = asyncio.Event()


class Background:
    """All of them, by id, and the calls about them. The oldest are forgotten if there are too many."""

    routes = (
        ("GET", f"{Responses.path}/{{id}}"),
        ("DELETE", f"{Responses.path}/{{id}}"),
        ("POST", f"{Responses.path}/{{id}}/cancel"),
    )

    def __init__(self, calls: CallLog) -> None:
        self._calls = calls
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    async def begin(self, request: web.Request, call: Call, order: Order) -> web.StreamResponse:
        """Begins a response, and answers the call that asks for it."""
        await asyncio.sleep(order.first_byte_delay)
        order = replace(order, first_byte_delay=0.0)
        kept = Kept(order)
        self._kept[kept.tongue.id] = kept
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        if not order.stream:
            return web.json_response(kept.response())
        return await Delivery(request, call, order, Responses(order), self._calls.record(order), log=kept).run()

    async def answer(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Answers a call about a response: it is read, cancelled or deleted."""
        name = request.match_info["id"]
        kept = self._kept.get(name)
        if kept is None:
            return web.json_response(Responses.error(404, f"Response with id '{name}' not found."), status=404)
        call.seed, call.model, call.stream = kept.order.answer.seed, kept.order.model, False
        if request.method == "GET":
            return await self._read(request, call, kept)
        await kept.cancel()
        if request.method == "POST":
            return web.json_response(kept.response())
        del self._kept[name]
        return web.json_response({"id": name, "object": "response", "deleted": True})

    async def _read(self, request: web.Request, call: Call, kept: Kept) -> web.StreamResponse:
        """The response so far, or with `stream=true` its events after `starting_after`."""
        if request.query.get("stream") != "true":
            return web.json_response(kept.response())
        after = request.query.get("starting_after", "")
        if after and not after.isdecimal():
            refused = Responses.error(400, "must be a whole number", "invalid_value", "starting_after")
            return web.json_response(refused, status=400)
        order = kept.order.resumed()
        order = order if self._calls.still_strikes(order) else order.faultless()
        call.stream = True
        place = int(after) + 1 if after else 0
        return await Delivery(request, call, order, Responses(order), log=kept, after=place).run()

    async def stop(self) -> None:
        """Ends all of them."""
        for kept in list(self._kept.values()):
            await kept.cancel()
