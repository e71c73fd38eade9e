"""Firestore as plain documents: get, query, commit with compare-and-set, listen.

The only module that imports the Firestore library, and nothing in it may know what a generation is. Fields are plain
dictionaries, and a version is a document's update time. Queries use the client library. The calls that every
generation makes often (get, commit, listen) use the library's protobuf messages and transport directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import grpc
import grpc.aio
import grpc.experimental
from google.api_core import exceptions
from google.api_core.gapic_v1 import routing_header
from google.cloud import firestore
from google.cloud.firestore_v1.base_query import FieldFilter
from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcTransport
from google.cloud.firestore_v1.services.firestore.transports.grpc_asyncio import FirestoreGrpcAsyncIOTransport
from google.cloud.firestore_v1.types import StructuredQuery
from google.cloud.firestore_v1.types import firestore as rpc
from google.protobuf.message import DecodeError

from lib.cloud.values import decode_map, encode_map, encode_value, field_path
from lib.domain.errors import Unreachable

READ_SECONDS = 10.0
COMMIT_SECONDS = 10.0
BATCH_BYTES = 2 << 20  # past which the rest of a batch goes into another call; the emulator accepts 4 MiB

Version = Any  # google.protobuf.timestamp_pb2.Timestamp
Filter = tuple[str, str, Any]


_SERVICE = "/google.firestore.v1.Firestore"
_GET = rpc.BatchGetDocumentsRequest.pb()
_GOT = rpc.BatchGetDocumentsResponse.pb()
_COMMIT = rpc.CommitRequest.pb()
_COMMITTED = rpc.CommitResponse.pb()
_BATCH = rpc.BatchWriteRequest.pb()
_BATCHED = rpc.BatchWriteResponse.pb()
_COUNT = rpc.RunAggregationQueryRequest.pb()
_COUNTED = rpc.RunAggregationQueryResponse.pb()
_LISTEN = rpc.ListenRequest.pb()
_LISTENED = rpc.ListenResponse.pb()
_AND = StructuredQuery.CompositeFilter.Operator.AND.value
_OPERATORS = {
    "==": StructuredQuery.FieldFilter.Operator.EQUAL.value,
    "in": StructuredQuery.FieldFilter.Operator.IN.value,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}
# Transient errors: the same commit may be retried.
_TRANSIENT = (
    exceptions.Aborted,
    exceptions.Cancelled,
    exceptions.DeadlineExceeded,
    exceptions.InternalServerError,
    exceptions.ResourceExhausted,
    exceptions.RetryError,
    exceptions.ServiceUnavailable,
    exceptions.Unknown,
)


class Exists(Exception):
    """The document to create already exists."""


class Stale(Exception):
    """A document is missing, or its version is not the one that the commit requires."""


class Refused(Exception):
    """Firestore rejected the contents of a write. A retry can't succeed."""


@dataclass(frozen=True, slots=True)
class Document:
    path: str
    fields: dict[str, Any]
    version: Version


@dataclass(frozen=True, slots=True)
class Create:
    """Creates a document. Fails with `Exists` if there is one."""

    path: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Put:
    """Creates a document or replaces all of it. With a `version`, replaces only that version."""

    path: str
    fields: Mapping[str, Any]
    version: Version = None


@dataclass(frozen=True, slots=True)
class Patch:
    """Changes the named fields of an existing document and deletes those in `remove`.

    A dotted name addresses a field inside a map.
    """

    path: str
    fields: Mapping[str, Any]
    remove: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Delete:
    path: str


Write = Create | Put | Patch | Delete


@dataclass(frozen=True, slots=True)
class Target:
    """A document to start listening to. Without a path: stop listening to the target with this id."""

    id: int
    path: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """News about some targets: the document's current state, or None if it does not exist.

    `refused` means that the server removed the targets, so they must be added again.
    """

    targets: Sequence[int]
    document: Document | None
    refused: bool = False


class Documents:
    """One database. Construct it after the server has forked: gRPC does not work across a fork."""

    def __init__(self, project: str, database: str = "(default)", emulator: str | None = None):
        self._client = firestore.Client(project=project, database=database)
        self._database = f"projects/{project}/databases/{database}"
        self._root = f"{self._database}/documents/"
        self._channel, self._metadata = _channel(emulator), _metadata(self._database, emulator)
        self._get = self._channel.unary_stream(f"{_SERVICE}/BatchGetDocuments", _GET.SerializeToString, _GOT.FromString)
        self._commit = self._channel.unary_unary(f"{_SERVICE}/Commit", _COMMIT.SerializeToString, _COMMITTED.FromString)
        self._batch = self._channel.unary_unary(f"{_SERVICE}/BatchWrite", _BATCH.SerializeToString, _BATCHED.FromString)
        self._aggregate = self._channel.unary_stream(
            f"{_SERVICE}/RunAggregationQuery", _COUNT.SerializeToString, _COUNTED.FromString
        )
        self._emulator = emulator
        self._listen: Any = None

    def close(self) -> None:
        self._client.close()
        self._channel.close()

    def get(self, *paths: str, select: Sequence[str] = ()) -> list[Document | None]:
        """The documents at `paths`, in that order, with None for a missing one. `select` limits the fields read."""
        request = _GET(database=self._database, documents=[self._root + path for path in paths])
        if select:
            request.mask.field_paths.extend(select)
        with _translated():
            answers = list(self._get(request, timeout=READ_SECONDS, metadata=self._metadata))
        found = {answer.found.name: answer.found for answer in answers if answer.HasField("found")}
        return [self._found(found[name]) if name in found else None for name in request.documents]

    def paths(self, collection: str) -> Iterator[str]:
        """The paths of a collection's documents, including missing documents that have subcollections."""
        with _translated():
            listed = self._client.collection(collection).list_documents(retry=None, timeout=READ_SECONDS)
            yield from (reference.path for reference in listed)

    def query(
        self,
        collection: str,
        *,
        where: Iterable[Filter] = (),
        order: str | None = None,
        descending: bool = False,
        after: Document | None = None,
        limit: int | None = None,
        select: Iterable[str] | None = None,
    ) -> list[Document]:
        """The documents of a collection that match all filters, ordered by the field `order` and then by name.

        The result starts after the document `after`.
        """
        query: Any = self._filtered(collection, where)
        if order is not None:
            direction = "DESCENDING" if descending else "ASCENDING"
            query = query.order_by(order, direction=direction).order_by("__name__", direction=direction)
            if after is not None:
                query = query.start_after({order: after.fields[order], "__name__": self._client.document(after.path)})
        if select is not None:
            query = query.select(list(select))
        if limit is not None:
            query = query.limit(limit)
        with _translated():
            return [_document(snapshot) for snapshot in query.stream(retry=None, timeout=READ_SECONDS)]

    def counting(
        self, collection: str, *, where: Iterable[Filter] = (), limit: int, at: Version = None
    ) -> Callable[[], int]:
        """Starts counting the documents that match all filters (`==` or `in`), up to `limit`.

        With `at`, counts what there was at the time of that version: the commit that made it, all earlier commits, and
        no later one (`read_time` in https://cloud.google.com/firestore/docs/reference/rpc/google.firestore.v1). The
        returned function waits for the count.
        """
        parent, _, name = (self._root + collection).rpartition("/")
        request = _COUNT(parent=parent, read_time=at)
        counted = request.structured_aggregation_query
        counting = counted.aggregations.add(alias="count")
        counting.count.up_to.value = limit
        counted.structured_query.from_.add(collection_id=name)
        for field, operator, value in where:
            filters = counted.structured_query.where.composite_filter
            filters.op = _AND
            each = filters.filters.add().field_filter
            each.field.field_path, each.op = field, _OPERATORS[operator]
            encode_value(value, each.value)
        answers = self._aggregate(request, timeout=READ_SECONDS, metadata=self._metadata)

        def counted_then() -> int:
            with _translated():
                return sum(answer.result.aggregate_fields["count"].integer_value for answer in answers)

        return counted_then

    def _filtered(self, collection: str, where: Iterable[Filter]) -> Any:
        query: Any = self._client.collection(collection)
        for field, operator, value in where:
            query = query.where(filter=FieldFilter(field, operator, value))
        return query

    def commit(self, *writes: Write) -> list[Version]:
        """Applies all writes or none. Returns the new version of each document.

        Errors: `Exists`, `Stale`, `Refused`, `Unreachable` (in which case the commit may have taken effect).
        """
        request = _COMMIT(database=self._database)
        for write in writes:
            self._encode(write, request.writes.add())
        with _translated():
            answer = self._commit(request, timeout=COMMIT_SECONDS, metadata=self._metadata)
        return [result.update_time for result in answer.write_results]

    def batch(self, writes: Sequence[Write]) -> list[Version | Exception]:
        """Applies each write independently of the others. Returns for each its new version, or its error.

        The errors are those of `commit`. No two writes may be for the same document.
        """
        requests = [_BATCH(database=self._database)]
        size = 0
        for write in writes:
            self._encode(write, requests[-1].writes.add())
            size += requests[-1].writes[-1].ByteSize()
            if size > BATCH_BYTES:
                requests.append(_BATCH(database=self._database))
                size = 0
        return [outcome for request in requests if request.writes for outcome in self._outcomes(request)]

    def _outcomes(self, request: Any) -> list[Version | Exception]:
        try:
            with _translated():
                answer = self._batch(request, timeout=COMMIT_SECONDS, metadata=self._metadata)
        except Exception as error:
            if not isinstance(error, Refused) or len(request.writes) == 1:
                return [error] * len(request.writes)
            # One rejected write must not fail the other writes in the call.
            alone = [_BATCH(database=self._database, writes=[write]) for write in request.writes]
            return [outcome for each in alone for outcome in self._outcomes(each)]
        return [
            _failure(status) if status.code else result.update_time
            for result, status in zip(answer.write_results, answer.status, strict=True)
        ]

    def _encode(self, write: Write, into: Any) -> None:
        name = self._root + write.path
        if isinstance(write, Delete):
            into.delete = name
            return
        into.update.name = name
        if isinstance(write, Patch):
            _patch(write, into)
            return
        encode_map(write.fields, into.update.fields)
        if isinstance(write, Create):
            into.current_document.exists = False
        elif write.version is not None:
            into.current_document.update_time.CopyFrom(write.version)

    async def listen(self, targets: AsyncIterator[Target]) -> AsyncGenerator[Change]:
        """Yields changes to the targets until `targets` ends or the stream breaks, and then raises `Unreachable`.

        All calls must come from the same event loop.
        """
        call = self._listening()(metadata=self._metadata)

        async def ask() -> None:
            with suppress(grpc.RpcError, asyncio.InvalidStateError, TimeoutError):  # `read` below raises the cause
                async for target in targets:
                    async with asyncio.timeout(READ_SECONDS):
                        await call.write(self._listen_request(target))
            call.cancel()

        asking = asyncio.ensure_future(ask())
        try:
            with _translated():
                while (answer := await call.read()) is not grpc.aio.EOF:
                    if answer is None:
                        raise Unreachable("a corrupt message")
                    change = self._change(answer)
                    if change is not None:
                        yield change
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            raise Unreachable("the stream was ended") from None
        finally:
            asking.cancel()
            call.cancel()

    def _listening(self) -> Any:
        """Opens streams. The channel is bound to the event loop that runs at the first call."""
        if self._listen is None:
            method = f"{_SERVICE}/Listen"
            channel = _listening_channel(self._emulator)
            self._listen = channel.stream_stream(method, _LISTEN.SerializeToString, _listened)
        return self._listen

    def _listen_request(self, target: Target) -> Any:
        request = _LISTEN(database=self._database)
        if target.path is None:
            request.remove_target = target.id
        else:
            request.add_target.target_id = target.id
            request.add_target.documents.documents.append(self._root + target.path)
        return request

    def _change(self, answer: Any) -> Change | None:
        kind = answer.WhichOneof("response_type")
        if kind == "document_change":
            changed = answer.document_change
            return Change(list(changed.target_ids), self._found(changed.document))
        if kind in ("document_delete", "document_remove"):
            return Change(list(getattr(answer, kind).removed_target_ids), None)
        if kind == "target_change" and answer.target_change.target_change_type == 2 and answer.target_change.cause.code:
            return Change(list(answer.target_change.target_ids), None, refused=True)
        return None

    def _found(self, document: Any) -> Document:
        return Document(document.name.removeprefix(self._root), decode_map(document.fields), document.update_time)


# The back-off is limited so that a connection is retried soon: gRPC's default grows to two minutes.
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # a separate connection for each channel
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
# Keepalive pings detect dead connections. Not for the emulator, which treats them as abuse.
_PINGS = [("grpc.keepalive_time_ms", 60_000), ("grpc.keepalive_timeout_ms", 10_000)]
_HOST = "firestore.googleapis.com:443"


def _channel(emulator: str | None) -> grpc.Channel:
    """The channel for everything but listening."""
    options = [*_OPTIONS, (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)]  # `get` without a thread
    if emulator:
        return grpc.insecure_channel(emulator, options=options)
    return FirestoreGrpcTransport.create_channel(_HOST, options=[*options, *_PINGS])


def _listening_channel(emulator: str | None) -> grpc.aio.Channel:
    """A separate channel for listen streams, so that they can't use up the streams that other calls need."""
    if emulator:
        return grpc.aio.insecure_channel(emulator, options=_OPTIONS)
    return FirestoreGrpcAsyncIOTransport.create_channel(_HOST, options=[*_OPTIONS, *_PINGS])


def _metadata(database: str, emulator: str | None) -> list[tuple[str, str]]:
    metadata = [("google-cloud-resource-prefix", database), routing_header.to_grpc_metadata([("database", database)])]
    return [*metadata, ("authorization", "Bearer owner")] if emulator else metadata


def _listened(data: bytes) -> Any:
    """A message of a listen stream; None where it is corrupt, as the emulator's may be: gRPC would log an error."""
    try:
        return _LISTENED.FromString(data)
    except DecodeError:
        return None


class _translated:
    """Translates the library's errors into this module's. Others pass through."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> Literal[False]:
        called = error
        if isinstance(error, grpc.RpcError):
            error = exceptions.from_grpc_error(error)
        if isinstance(error, exceptions.AlreadyExists):
            raise Exists from error
        if isinstance(error, exceptions.FailedPrecondition | exceptions.NotFound):
            raise Stale from error
        if isinstance(error, exceptions.InvalidArgument):
            raise Refused from error
        if isinstance(error, _TRANSIENT):
            raise Unreachable(type(error).__name__) from error
        if error is not None and error is not called:
            raise error from called
        return False


def _failure(status: Any) -> Exception:
    """The status of one write as this module's error."""
    try:
        with _translated():
            raise exceptions.from_grpc_status(_CODES[status.code], status.message)
    except Exception as error:
        return error


def _document(snapshot: Any) -> Document:
    return Document(snapshot.reference.path, snapshot.to_dict(), snapshot.update_time.timestamp_pb())


def _patch(write: Patch, into: Any) -> None:
    into.current_document.exists = True
    for name, value in write.fields.items():
        into.update_mask.field_paths.append(field_path(name))
        *outer, last = name.split(".")
        fields = into.update.fields
        for part in outer:
            fields = fields[part].map_value.fields
        encode_value(value, fields[last])
    into.update_mask.field_paths.extend(map(field_path, write.remove))
