"""Firestore as it is: the calls that fail, need an index, take time, or meet resistance."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from google.cloud.firestore_v1.types import firestore as rpc
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from local.distribution import Distribution
from local.firestore_proxy.budget import CONTENTION, Budget
from local.firestore_proxy.faults import Faults
from local.firestore_proxy.indexes import Indexes, refusal
from local.firestore_proxy.limits import too_much
from local.firestore_proxy.listening import Targets, later
from local.firestore_proxy.proxy import READS, SERVICE, Proxy, refuse
from local.firestore_proxy.query import needs

NOT_DONE = (
    StatusCode.ABORTED,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.UNAVAILABLE,
)
ANSWER_LOST = (StatusCode.DEADLINE_EXCEEDED, StatusCode.UNAVAILABLE)
SOCKET_CLOSED = "Socket closed"
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
        self._lock = threading.Lock()
        self._take(faults or Faults())

    def fault(self, **changes: Any) -> None:
        """Sets faults, until they are changed again. Others stay as they are. Raises ValueError or TypeError."""
        with self._lock:
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

    def commit(self, method: str, request: bytes, context: Any) -> bytes:
        with self._lock:
            self.committing += 1
            fails = self._chance.random() < self.faults.share
            done = self._chance.random() < self.faults.done
            code = self._chance.choice(ANSWER_LOST if done else NOT_DONE)
        try:
            if fails and not done:
                self._fail(code, "", context)
            answer = self._commit(method, request, context)
            if fails:
                self._fail(code, ", done", context)
            return answer
        finally:
            with self._lock:
                self.committing -= 1

    def _fail(self, code: StatusCode, done: str, context: Any) -> NoReturn:
        self._count(f"{code.name}{done}")
        refuse(context, code, "asked for by a fault")

    def _count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.made[what] += number

    def _commit(self, method: str, request: bytes, context: Any) -> bytes:
        batch = method.endswith("BatchWrite")
        asked = (_BATCH if batch else _COMMIT).FromString(request)
        if self.faults.limits and (said := too_much(request, asked.writes, self._indexes)) is not None:
            refuse(context, StatusCode.INVALID_ARGUMENT, said)
        with self._lock:
            multiples = self._multiples(asked.writes)
            aborted = [self._budget.aborts(multiple) for multiple in multiples]
            resistance = self._budget.wait(multiples)
        self._wait(self.faults.commit_latency, resistance)
        if not any(aborted):
            return super().commit(method, request, context)
        self._count("contention", sum(aborted))
        if not batch:
            refuse(context, StatusCode.ABORTED, CONTENTION)
        return self._partly(asked, aborted, context)

    def _multiples(self, writes: Sequence[Any]) -> list[float]:
        if not self.faults.budget:
            return [0.0] * len(writes)
        now = time.monotonic()
        names = (write.delete or write.update.name or write.transform.document for write in writes)
        return [self._budget.write(name, self.faults.budget, now) for name in names]

    def _partly(self, asked: Any, aborted: Sequence[bool], context: Any) -> bytes:
        """A batch of which some writes are aborted. Each write of a batch succeeds or fails by itself."""
        left = _BATCH.FromString(asked.SerializeToString())
        del left.writes[:]
        left.writes.extend(write for write, out in zip(asked.writes, aborted, strict=True) if not out)
        answer = _BATCHED()
        if left.writes:
            answer = _BATCHED.FromString(super().commit(f"{SERVICE}BatchWrite", left.SerializeToString(), context))
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

    def answers(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        if method in READS:
            return self._read(method, requests, context)
        if method != f"{SERVICE}Listen":
            return super().answers(method, requests, context)
        answers, latency = self._listened(method, requests, context), self.faults.listen_latency
        return later(answers, lambda: self._drawn(latency)) if latency else answers

    def _listened(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        if not self.faults.current_alone:
            return super().answers(method, requests, context)
        targets = Targets()
        return filter(targets.passes, super().answers(method, targets.asked(requests), context))

    def _read(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        request = next(requests)
        with self._lock:
            fails = self._times.random() < self.faults.reads
        if fails:
            self._count("reads")
            refuse(context, StatusCode.UNAVAILABLE, SOCKET_CLOSED)
        if (said := self._unindexed(method.removeprefix(SERVICE), request)) is not None:
            self._count("unindexed")
            refuse(context, StatusCode.FAILED_PRECONDITION, said)
        self._wait(self.faults.read_latency)
        yield from super().answers(method, iter([request]), context)

    def _unindexed(self, name: str, request: bytes) -> str | None:
        """Why a query is refused, or None."""
        if (indexes := self._indexes) is None:
            return None
        match name:
            case "RunQuery":
                asked = _QUERY.FromString(request)
                query = asked.structured_query
            case "RunAggregationQuery":
                asked = _COUNT.FromString(request)
                query = asked.structured_aggregation_query.structured_query
            case _:
                return None
        ready = indexes.while_building() if self.building else indexes
        for need in needs(query):
            if not ready.answer(need):
                return refusal(need, asked.parent.split("/")[1], building=indexes.answer(need))
        return None

    def _wait(self, latency: Distribution | None, more: float = 0.0) -> None:
        if seconds := more + self._drawn(latency):
            time.sleep(seconds)

    def _drawn(self, latency: Distribution | None) -> float:
        with self._lock:
            return latency.draw(self._times) if latency else 0.0
