"""A gRPC server in Firestore's place, which answers each call as a test scripts it."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from google.cloud.firestore_v1.types import firestore as rpc

Answers = Callable[[Any], Iterator[Any]]  # from the request's bytes to the answers


class ScriptedFirestore(grpc.GenericRpcHandler):  # type: ignore[misc]
    """`answers` has what each method answers, and `faults` the statuses of its next calls, which fail instead."""

    def __init__(self) -> None:
        self.answers: dict[str, Answers] = {}
        self.faults: dict[str, list[tuple[grpc.StatusCode, str]]] = {}
        self.asked: Counter[str] = Counter()
        self.hold = threading.Event()
        self.hold.set()
        self._server = grpc.server(ThreadPoolExecutor(16), handlers=[self])
        self.host = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def fail(self, method: str, code: grpc.StatusCode, details: str = "", times: int = 1) -> None:
        self.faults.setdefault(method, []).extend([(code, details)] * times)

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]

        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            self.asked[method] += 1
            request = next(requests)
            if self.faults.get(method):
                context.abort(*self.faults[method].pop(0))
            self.hold.wait(30)
            yield from self.answers[method](request)
            if method == "Listen":
                over = threading.Event()
                if context.add_callback(over.set):
                    over.wait(30)

        return grpc.stream_stream_rpc_method_handler(answer, response_serializer=lambda message: message)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hold.set()
        with contextlib.suppress(Exception):
            self._server.stop(None).wait()


def answers(*messages: Any) -> Answers:
    """Answers with these messages, whatever is asked."""
    return lambda _request: iter([type(each).serialize(each) for each in messages])


def found(name: str) -> Any:
    return rpc.BatchGetDocumentsResponse(found={"name": name, "fields": {"n": {"integer_value": 7}}})


def queried(name: str) -> Any:
    return rpc.RunQueryResponse(document={"name": name, "fields": {"n": {"integer_value": 7}}})


def counted(number: int) -> Any:
    return rpc.RunAggregationQueryResponse(result={"aggregate_fields": {"count": {"integer_value": number}}})


def listed(*names: str) -> Any:
    return rpc.ListDocumentsResponse(documents=[{"name": name} for name in names])
