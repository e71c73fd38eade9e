"""Firestore as it is: the calls that fail, need an index, take time, or meet resistance."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from google.cloud.firestore_v1.types import firestore as rpc
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from local.distribution import Distribution
from local.firestore_proxy.budget import CONTENTION, Budget
from local.firestore_proxy.faults import Faults
from local.firestore_proxy.indexes import Indexes, refusal
from local.firestore_proxy.limits import too_much
from local.firestore_proxy.listening import Targets, later
from local.firestore_proxy.proxy import SERVICE, Proxy
from local.firestore_proxy.query import needs

NOT_DONE = (
    StatusCode.ABORTED,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.UNAVAILABLE,
)
ANSWER_LOST = (StatusCode.DEADLINE_EXCEEDED, StatusCode.UNAVAILABLE)
SOCKET_CLOSED = "Socket closed"
_READS = ("BatchGetDocuments", "RunQuery", "RunAggregationQuery")
_COMMIT, _BATCH, _BATCHED = rpc.CommitRequest.pb(), rpc.BatchWriteRequest.pb(), rpc.BatchWriteResponse.pb()
_QUERY, _COUNT = rpc.RunQueryRequest.pb(), rpc.RunAggregationQueryRequest.pb()


class StrictFirestore(Proxy):
    """The proxy with faults. `made` counts what failed: commits by status and whether they took effect, and others.

    `committing` is how many commits are under way.
    """

    def __init__(self, target: str, faults: Faults | None = None):
        super().__init__(target)
        self.made: Counter[str] = Counter()
        self.committing = 0
        self.faults = Faults()
        self._indexes: Indexes | None = None
        self._ready = 0.0
        self._take(faults or Faults())

    def fault(self, **changes: Any) -> None:
        """Sets faults, until they are changed again. Others stay as they are. Raises ValueError or TypeError."""
        self._take(replace(self.faults, **changes))

    def _take(self, faults: Faults) -> None:
        if (faults.indexes, faults.build) != (self.faults.indexes, self.faults.build):
            self._indexes = Indexes.read(Path(faults.indexes)) if faults.indexes else None
            self._ready = time.monotonic() + faults.build
        self.faults = faults
        self._chance = random.Random(faults.seed)
        self._times = random.Random(faults.seed)  # so that the same commits fail whatever else is drawn
        self._budget = Budget(self._times)
        self.made.clear()

    @property
    def building(self) -> bool:
        """Whether the indexes are still being built."""
        return time.monotonic() < self._ready

    async def commit(self, method: str, request: bytes, context: Any) -> bytes:
        self.committing += 1
        try:
            return await self._commit_or_fail(method, request, context)
        finally:
            self.committing -= 1

    async def _commit_or_fail(self, method: str, request: bytes, context: Any) -> bytes:
        fails = self._chance.random() < self.faults.share
        done = self._chance.random() < self.faults.done
        code = self._chance.choice(ANSWER_LOST if done else NOT_DONE)
        if fails and not done:
            return await self._fail(code, "", context)
        answer = await self._commit(method, request, context)
        return await self._fail(code, ", done", context) if fails else answer

    async def _fail(self, code: StatusCode, done: str, context: Any) -> bytes:
        self.made[f"{code.name}{done}"] += 1
        return await context.abort(code, "asked for by a fault")  # type: ignore[no-any-return]

    async def _commit(self, method: str, request: bytes, context: Any) -> bytes:
        batch = method.endswith("BatchWrite")
        asked = (_BATCH if batch else _COMMIT).FromString(request)
        if self.faults.limits and (said := too_much(request, asked.writes, self._indexes)) is not None:
            await context.abort(StatusCode.INVALID_ARGUMENT, said)
        multiples = self._multiples(asked.writes)
        aborted = [self._budget.aborts(multiple) for multiple in multiples]
        await self._wait(self.faults.commit_latency, self._budget.wait(multiples))
        if not any(aborted):
            return await super().commit(method, request, context)
        self.made["contention"] += sum(aborted)
        if not batch:
            await context.abort(StatusCode.ABORTED, CONTENTION)
        return await self._partly(asked, aborted, context)

    def _multiples(self, writes: Sequence[Any]) -> list[float]:
        if not self.faults.budget:
            return [0.0] * len(writes)
        now = time.monotonic()
        names = (write.delete or write.update.name or write.transform.document for write in writes)
        return [self._budget.write(name, self.faults.budget, now) for name in names]

    async def _partly(self, asked: Any, aborted: Sequence[bool], context: Any) -> bytes:
        """A batch of which some writes are aborted. Each write of a batch succeeds or fails by itself."""
        left = _BATCH.FromString(asked.SerializeToString())
        del left.writes[:]
        left.writes.extend(write for write, out in zip(asked.writes, aborted, strict=True) if not out)
        answer = _BATCHED()
        if left.writes:
            answer = _BATCHED.FromString(
                await super().commit(f"{SERVICE}BatchWrite", left.SerializeToString(), context)
            )
        results = iter(list(zip(answer.write_results, answer.status, strict=True)))
        whole = _BATCHED()
        for out in aborted:
            result, status = (
                (None, Status(code=StatusCode.ABORTED.value[0], message=CONTENTION)) if out else next(results)
            )
            added = whole.write_results.add()
            if result is not None:
                added.CopyFrom(result)
            whole.status.add().CopyFrom(status)
        return whole.SerializeToString()  # type: ignore[no-any-return]

    async def answers(self, method: str, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        match method.removeprefix(SERVICE):
            case "Listen":
                answers = self._listened(method, requests, context)
                latency = self.faults.listen_latency
                passing = later(answers, lambda: latency.draw(self._times)) if latency else answers
            case name if name in _READS:
                passing = self._read(method, name, requests, context)
            case _:
                passing = super().answers(method, requests, context)
        async for answer in passing:
            yield answer

    async def _listened(self, method: str, requests: AsyncIterator[bytes], context: Any) -> Any:
        if not self.faults.current_alone:
            async for answer in super().answers(method, requests, context):
                yield answer
            return
        targets = Targets()
        async for answer in super().answers(method, targets.asked(requests), context):
            if targets.passes(answer):
                yield answer

    async def _read(self, method: str, name: str, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        asked = [request async for request in requests]
        if self._times.random() < self.faults.reads:
            self.made["reads"] += 1
            await context.abort(StatusCode.UNAVAILABLE, SOCKET_CLOSED)
        if self._indexes is not None and asked and (said := self._unindexed(name, asked[0])) is not None:
            self.made["unindexed"] += 1
            await context.abort(StatusCode.FAILED_PRECONDITION, said)
        await self._wait(self.faults.read_latency)

        async def again() -> AsyncIterator[bytes]:
            for request in asked:
                yield request

        async for answer in super().answers(method, again(), context):
            yield answer

    def _unindexed(self, name: str, request: bytes) -> str | None:
        """Why a query is refused, or None."""
        match name:
            case "RunQuery":
                asked = _QUERY.FromString(request)
                query = asked.structured_query
            case "RunAggregationQuery":
                asked = _COUNT.FromString(request)
                query = asked.structured_aggregation_query.structured_query
            case _:
                return None
        indexes = self._indexes
        assert indexes is not None
        ready = indexes.while_building() if self.building else indexes
        for need in needs(query):
            if not ready.answer(need):
                return refusal(need, asked.parent.split("/")[1], building=indexes.answer(need))
        return None

    async def _wait(self, latency: Distribution | None, more: float = 0.0) -> None:
        seconds = more + (latency.draw(self._times) if latency else 0.0)
        if seconds:
            await asyncio.sleep(seconds)
