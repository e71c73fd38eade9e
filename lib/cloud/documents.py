"""Firestore as plain documents: get, query, commit with compare-and-set, listen.

The only module that imports the Firestore library, and nothing in it may know what a generation is. Fields are plain
dictionaries, and a version is a document's update time. Calls use the library's protobuf messages, over channels of our
own. Reads are retried for a short time; commits are not, because one whose response was lost may have taken effect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import grpc
import grpc.aio
from google.api_core import exceptions
from google.api_core.gapic_v1 import routing_header
from google.cloud.firestore_v1.types import StructuredQuery
from google.cloud.firestore_v1.types import firestore as rpc
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from lib.cloud.channel import TRY_SECONDS, Channel, retried, stream_channel
from lib.cloud.query import Filter, index_of, write_filters, write_order, write_selection, write_start
from lib.cloud.targets import Targets
from lib.cloud.values import decode_map, encode_map, encode_value, field_path
from lib.domain.errors import IndexMissing, Unreachable

READ_SECONDS = 10.0  # for a read with its retries
COMMIT_SECONDS = 10.0
BATCH_BYTES = 2 << 20  # past which the rest of a batch goes into another call; the emulator accepts 4 MiB

Version = Any  # google.protobuf.timestamp_pb2.Timestamp


_HOST = "firestore.googleapis.com:443"
_SERVICE = "/google.firestore.v1.Firestore"
_GET = rpc.BatchGetDocumentsRequest.pb()
_GOT = rpc.BatchGetDocumentsResponse.pb()
_COMMIT = rpc.CommitRequest.pb()
_COMMITTED = rpc.CommitResponse.pb()
_BATCH = rpc.BatchWriteRequest.pb()
_BATCHED = rpc.BatchWriteResponse.pb()
_PATHS = rpc.ListDocumentsRequest.pb()
_PATHED = rpc.ListDocumentsResponse.pb()
_QUERY = rpc.RunQueryRequest.pb()
_QUERIED = rpc.RunQueryResponse.pb()
_COUNT = rpc.RunAggregationQueryRequest.pb()
_COUNTED = rpc.RunAggregationQueryResponse.pb()
_LISTEN = rpc.ListenRequest.pb()
_LISTENED = rpc.ListenResponse.pb()
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

log = logging.getLogger(__name__)


def version_at(nanoseconds: int) -> Version:
    """The version of a document that was written then, in nanoseconds since 1970."""
    version = Timestamp()
    version.FromNanoseconds(nanoseconds)
    return version


def newer(version: Version, known: Version) -> bool:
    """Whether one version of a document is newer than another; than None, every version is."""
    return known is None or (version.seconds, version.nanos) > (known.seconds, known.nanos)


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
    """Changes the named fields of an existing document and deletes those in `remove`. With a `version`, of that alone.

    A dotted name addresses a field inside a map.
    """

    path: str
    fields: Mapping[str, Any]
    remove: Sequence[str] = ()
    version: Version = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes a document, if it is there. With a `version`, only that one."""

    path: str
    version: Version = None


@dataclass(frozen=True, slots=True)
class Add:
    """Adds whole numbers to fields of a document, and sets others. Makes what is not there: a field begins with 0."""

    path: str
    fields: Mapping[str, Any]
    added: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TakeOut:
    """Takes `value` out of the list in field `name`, and sets `fields`, whatever else the document has by then.

    Creates the document if there is none.
    """

    path: str
    name: str
    value: str
    fields: Mapping[str, Any]


Write = Create | Put | Patch | Delete | Add | TakeOut


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
        self._database = f"projects/{project}/databases/{database}"
        self._root = f"{self._database}/documents/"
        self._emulator = emulator
        self._channel, self._metadata = Channel(_HOST, emulator), _metadata(self._database, emulator)
        # Listen streams have a channel of their own, so that they can't use up the streams that other calls need.
        self._listening: grpc.aio.Channel | None = None

    def close(self) -> None:
        self._channel.close()

    def get(self, *paths: str, select: Sequence[str] = ()) -> list[Document | None]:
        """The documents at `paths`, in that order, with None for a missing one. `select` limits the fields read."""
        return self.getting(*paths, select=select)()

    def getting(self, *paths: str, select: Sequence[str] = ()) -> Callable[[], list[Document | None]]:
        """Starts `get`. The returned function waits for the documents. Errors, from that function: `Unreachable`."""
        request = _GET(database=self._database, documents=[self._root + path for path in paths])
        if select:
            request.mask.field_paths.extend(select)
        answers = self._reading("BatchGetDocuments", request, _GOT)

        def got() -> list[Document | None]:
            found = {answer.found.name: answer.found for answer in answers() if answer.HasField("found")}
            return [self._found(found[name]) if name in found else None for name in request.documents]

        return got

    def paths(self, collection: str) -> Iterator[str]:
        """The paths of a collection's documents, including missing documents that have subcollections."""
        parent, _, name = (self._root + collection).rpartition("/")
        request = _PATHS(parent=parent, collection_id=name, show_missing=True)
        request.mask.field_paths.append("__name__")
        while True:
            page = self._read_one("ListDocuments", request, _PATHED)
            yield from (document.name.removeprefix(self._root) for document in page.documents)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

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

        The result starts after the document `after`. Errors: `IndexMissing`, `Unreachable`.
        """
        parent, query = self._query(collection, where)
        if order is not None:
            write_order(query, order, descending=descending)
            if after is not None:
                write_start(query, after.fields[order], self._root + after.path)
        if select is not None:
            write_selection(query, select)
        if limit is not None:
            query.limit.value = limit
        request = _QUERY(parent=parent, structured_query=query)
        with _indexed(query):
            answers = self._read("RunQuery", request, _QUERIED)
        return [self._found(answer.document) for answer in answers if answer.HasField("document")]

    def group(
        self, name: str, *, after: Document | None = None, limit: int, select: Iterable[str] | None = None
    ) -> list[Document]:
        """The documents of all collections with this name, wherever they lie, ordered by path. Needs no index.

        The result starts after the document `after`. Errors: `Unreachable`.
        """
        query = StructuredQuery.pb()()
        query.from_.add(collection_id=name, all_descendants=True)
        query.order_by.add(field={"field_path": "__name__"}, direction=query.ASCENDING)
        if after is not None:
            query.start_at.values.add(reference_value=self._root + after.path)
        if select is not None:
            write_selection(query, select)
        query.limit.value = limit
        request = _QUERY(parent=self._root.rstrip("/"), structured_query=query)
        answers = self._read("RunQuery", request, _QUERIED)
        return [self._found(answer.document) for answer in answers if answer.HasField("document")]

    def counting(
        self, collection: str, *, where: Iterable[Filter] = (), limit: int, at: Version = None
    ) -> Callable[[], int]:
        """Starts counting the documents that match all filters, up to `limit`.

        With `at`, counts what there was at the time of that version: the commit that made it, all earlier commits, and
        no later one (`read_time` in https://cloud.google.com/firestore/docs/reference/rpc/google.firestore.v1). The
        returned function waits for the count. Errors, from that function: `IndexMissing`, `Unreachable`.
        """
        parent, query = self._query(collection, where)
        request = _COUNT(parent=parent, read_time=at, structured_aggregation_query={"structured_query": query})
        counting = request.structured_aggregation_query.aggregations.add(alias="count")
        counting.count.up_to.value = limit
        answers = self._reading("RunAggregationQuery", request, _COUNTED)

        def counted() -> int:
            with _indexed(query):
                return sum(answer.result.aggregate_fields["count"].integer_value for answer in answers())

        return counted

    def _query(self, collection: str, where: Iterable[Filter]) -> tuple[str, Any]:
        """The parent of a collection, and a query for its documents that match all filters."""
        parent, _, name = (self._root + collection).rpartition("/")
        query = StructuredQuery.pb()()
        write_filters(query, name, where)
        return parent, query

    def _read(self, method: str, request: Any, answer: Any) -> list[Any]:
        """All answers to a call that only reads, with retries. Errors: `Unreachable`."""
        return self._reading(method, request, answer)()

    def _reading(self, method: str, request: Any, answer: Any) -> Callable[[], list[Any]]:
        """Starts a call that only reads. The returned function waits for all answers, with retries."""
        begun: list[Iterator[Any]] = [self._call(method, request, answer, TRY_SECONDS)]

        def read(timeout: float) -> list[Any]:
            with _translated():
                return list(begun.pop() if begun else self._call(method, request, answer, timeout))

        return lambda: retried(read, READ_SECONDS, (Unreachable,))

    def _read_one(self, method: str, request: Any, answer: Any) -> Any:
        """As `_read`, for a call with one answer."""

        def read(timeout: float) -> Any:
            with _translated():
                return self._channel.unary(f"{_SERVICE}/{method}", request, answer, timeout, self._metadata)

        return retried(read, READ_SECONDS, (Unreachable,))

    def _call(self, method: str, request: Any, answer: Any, timeout: float) -> Iterator[Any]:
        return self._channel.stream(f"{_SERVICE}/{method}", request, answer, timeout, self._metadata)

    def commit(self, *writes: Write) -> list[Any]:
        """Applies all writes or none. Returns the new version of each document, and for an `Add` its sums by field.

        Commits that add to a document happen one after the other, so the sums include each earlier one and no later.
        Errors: `Exists`, `Stale`, `Refused`, `Unreachable` (in which case the commit may have taken effect).
        """
        request = _COMMIT(database=self._database)
        for write in writes:
            self._encode(write, request.writes.add())
        with _translated():
            answer = self._write("Commit", request, _COMMITTED)
        return [
            _sums(write, result) if isinstance(write, Add) else result.update_time
            for write, result in zip(writes, answer.write_results, strict=False)
        ]

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
                answer = self._write("BatchWrite", request, _BATCHED)
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

    def _write(self, method: str, request: Any, answer: Any) -> Any:
        return self._channel.unary(f"{_SERVICE}/{method}", request, answer, COMMIT_SECONDS, self._metadata)

    def _encode(self, write: Write, into: Any) -> None:
        name = self._root + write.path
        if isinstance(write, Delete):
            into.delete = name
            if write.version is not None:
                into.current_document.update_time.CopyFrom(write.version)
            return
        into.update.name = name
        if isinstance(write, Patch):
            _patch(write, into)
            return
        encode_map(write.fields, into.update.fields)
        if isinstance(write, Add):
            into.update_mask.field_paths.extend(map(field_path, write.fields))
            for name, number in write.added.items():
                into.update_transforms.add(field_path=field_path(name), increment={"integer_value": number})
        elif isinstance(write, TakeOut):
            into.update_mask.field_paths.extend(map(field_path, write.fields))
            taking = into.update_transforms.add(field_path=field_path(write.name))
            encode_value(write.value, taking.remove_all_from_array.values.add())
        elif isinstance(write, Create):
            into.current_document.exists = False
        elif write.version is not None:
            into.current_document.update_time.CopyFrom(write.version)

    async def listen(self, targets: AsyncIterator[Target]) -> AsyncGenerator[Change]:
        """Yields changes to the targets until `targets` ends or the stream breaks, and then raises `Unreachable`.

        All calls must come from the same event loop. After a stream without any answer, the next one gets a new
        connection.
        """
        channel = self._listening = self._listening or stream_channel(_HOST, self._emulator)
        stream = channel.stream_stream(f"{_SERVICE}/Listen", _LISTEN.SerializeToString, _listened)
        call: Any = stream(metadata=self._metadata)
        heard = Targets()

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
                    news = heard.news(answer)
                    if news is not None:
                        document = self._found(news.document) if news.document is not None else None
                        yield Change(news.targets, document, news.refused)
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            raise Unreachable("the stream was ended") from None
        finally:
            asking.cancel()
            call.cancel()
            if not heard.answered and self._listening is channel:
                self._listening = None

    def _listen_request(self, target: Target) -> Any:
        request = _LISTEN(database=self._database)
        if target.path is None:
            request.remove_target = target.id
        else:
            request.add_target.target_id = target.id
            request.add_target.documents.documents.append(self._root + target.path)
        return request

    def _found(self, document: Any) -> Document:
        return Document(document.name.removeprefix(self._root), decode_map(document.fields), document.update_time)


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


class _indexed:
    """Tells a query that lacks its index from other failures, and logs which index that is, without any value.

    Firestore answers such a query with FAILED_PRECONDITION, also while the index is being built:
    https://cloud.google.com/firestore/docs/query-data/indexing.
    """

    def __init__(self, query: Any):
        self._query = query

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> Literal[False]:
        if isinstance(error, Stale):
            if isinstance(error.__cause__, exceptions.FailedPrecondition):
                log.error("a query's index is missing", extra={"index": index_of(self._query)})
                raise IndexMissing from error
            raise Unreachable(type(error.__cause__).__name__) from error  # there is no such database
        return False


def _failure(status: Any) -> Exception:
    """The status of one write as this module's error."""
    try:
        with _translated():
            raise exceptions.from_grpc_status(_CODES[status.code], status.message)
    except Exception as error:
        return error


def _sums(write: Add, result: Any) -> dict[str, int]:
    return {name: each.integer_value for name, each in zip(write.added, result.transform_results, strict=True)}


def _patch(write: Patch, into: Any) -> None:
    if write.version is None:
        into.current_document.exists = True
    else:
        into.current_document.update_time.CopyFrom(write.version)
    for name, value in write.fields.items():
        into.update_mask.field_paths.append(field_path(name))
        *outer, last = name.split(".")
        fields = into.update.fields
        for part in outer:
            fields = fields[part].map_value.fields
        encode_value(value, fields[last])
    into.update_mask.field_paths.extend(map(field_path, write.remove))
