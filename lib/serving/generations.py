"""What a user can do with generations: start, find, list, stop, delete. The same for every client protocol.

Decides who may see what, when a request is a repeated one, and what becomes of a generation that nobody works any more.
It never calls the upstream and can't: the task queue is the only way there.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import orjson

from lib.cloud.documents import Exists, Stale, Unreachable
from lib.cloud.store import Store
from lib.cloud.task_queue import TaskQueue
from lib.dialects import chat_completions as chat
from lib.domain import message
from lib.domain.errors import Conflict, InvalidRequest, NotFound, TooManyRequests, Unavailable
from lib.domain.generation import LIVE, End, Generation, Head, State, document_id, message_path
from lib.journal.journal import Clock, Fenced, Journal, replayed, retried
from lib.runtime.settings import Settings
from lib.serving.tail import Tail, Tails

START_GRACE = timedelta(minutes=30)  # how long a task may be on its way before its generation counts as lost
LOST_GRACE = timedelta(seconds=90)  # how long after a lease the queue may take to deliver again
REQUEUE_AFTER = timedelta(seconds=15)  # how long a generation may be queued before it gets a second task, and no third
INSIST_SECONDS = 2.0  # on a stop, an end or a deletion, where Firestore fails: somebody waits for it
STOP_WAIT_SECONDS = 3.0
LIMIT_RETRY_SECONDS = 5
MAX_PAGE = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """A request to start: the body as it came, and the ids and the idempotency key that came with it."""

    body: bytes
    chat_id: str | None = None
    message_id: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The generation, this client's place in it, and the request's JSON. `attached`: it was there already."""

    generation: Generation
    tail: Tail
    request: chat.Json
    attached: bool


class Generations:
    def __init__(self, settings: Settings, store: Store, queue: TaskQueue, tails: Tails, clock: Clock):
        self._settings = settings
        self._store = store
        self._queue = queue
        self._tails = tails
        self._clock = clock

    def start(self, uid: str, asked: ChatRequest) -> Started:
        """Starts a generation, or attaches to the one that the same request started.

        Errors: `InvalidRequest`, `Conflict` (same key or message, another body), `TooManyRequests`, `Unavailable`.
        """
        request = chat.check_request(_json(asked.body))
        generation = self._new(uid, asked, request)
        try:
            return self._start(generation, request)
        except Exists:
            found = self._repeated(generation)
            log.info("generation asked for again", extra={"generation": found.id, "state": str(found.state)})
            self._enqueue_again(found)
            return Started(found, self._tails.open(found, 0), request, attached=True)
        except Unreachable as error:
            raise Unavailable("The database can't be reached. Try again.") from error

    def _start(self, generation: Generation, request: chat.Json) -> Started:
        # It takes as long as the creation, so it is under way meanwhile.
        counting = self._store.counting_live(generation.owner, self._settings.max_live_generations)
        now = generation.created_at
        head = Head(first=1, last=0, frames=b"", text="", attempt=0, lease_until=now + START_GRACE)
        self._create(generation, head)
        tail = self._tails.open(generation, 0)
        try:
            self._check_limit(generation, counting())
            self._queue.enqueue(generation)
        except BaseException as error:
            if not isinstance(error, TooManyRequests):
                log.warning("generation not queued", extra={"generation": generation.id})
            tail.close()
            self._leave_nothing_of(generation)
            raise
        log.info(
            "generation queued",
            extra={
                "generation": generation.id,
                "state": str(generation.state),
                "upstream": generation.upstream,
                "bytes": len(generation.request),
            },
        )
        return Started(generation, tail, request, attached=False)

    def _check_limit(self, generation: Generation, counted: int) -> None:
        """Whether a user may have this one besides the others that are live. Errors: `TooManyRequests`."""
        limit = self._settings.max_live_generations
        if counted >= limit and self._live_besides(generation) >= limit:
            raise TooManyRequests(
                f"You have {limit} answers running, which is the limit. Wait for one to end, or stop one.",
                retry_after=LIMIT_RETRY_SECONDS,
            )

    def _create(self, generation: Generation, head: Head) -> None:
        """Creates it, also where Firestore fails once. Errors: `Exists`, `Unreachable`."""
        opening = message.opening(generation)
        try:
            self._store.create(generation, opening, head)
        except Unreachable:
            found = self._store.generation(generation.id)
            if found is None:
                self._store.create(generation, opening, head)
            elif found.created_at != generation.created_at:
                raise Exists from None  # it is another request's, not this one's whose answer was lost

    def _leave_nothing_of(self, generation: Generation) -> None:
        """Deletes what could not be queued, also where Firestore fails at times."""
        try:
            retried(lambda: self._store.delete(generation), INSIST_SECONDS)
        except Unreachable:
            log.warning("a generation that was not queued could not be deleted", extra={"generation": generation.id})

    def _new(self, uid: str, asked: ChatRequest, request: chat.Json) -> Generation:
        chat_id = document_id(asked.chat_id, "X-Chat-Id") if asked.chat_id is not None else None
        if asked.message_id is not None and chat_id is None:
            raise InvalidRequest(
                "X-Message-Id needs X-Chat-Id: a message of no chat is kept under its generation's id.",
                param="X-Message-Id",
            )
        message_id = document_id(asked.message_id, "X-Message-Id") if asked.message_id is not None else None
        if asked.idempotency_key is not None:
            key = document_id(asked.idempotency_key, "Idempotency-Key")
            generation_id = _derived("key", uid, key)
        elif chat_id is not None and message_id is not None:
            generation_id = _derived("message", uid, chat_id, message_id)
        else:
            generation_id = uuid.uuid4().hex
        now = self._clock()
        message_id = message_id or generation_id
        return Generation(
            id=generation_id,
            owner=uid,
            message_path=message_path(uid, chat_id, message_id),
            chat_id=chat_id,
            message_id=message_id,
            model=request["model"],
            upstream=self._settings.catalog.serving(request["model"]).name,
            request=asked.body,
            request_hash=hashlib.sha256(orjson.dumps(request, option=orjson.OPT_SORT_KEYS)).hexdigest(),
            usage_wanted=chat.wants_usage(request),
            created_at=now,
            expire_at=now + self._settings.retention,
            watchers=self._tails.first_lease(),
        )

    def _repeated(self, asked: Generation) -> Generation:
        """The generation that is already there under the same id or message. Errors: `Conflict`."""
        found = self._store.generation(asked.id) or self._store.generation_of_message(asked.message_path)
        if found is None or found.owner != asked.owner:
            raise Conflict(
                "There is a message with this id already, which no running answer is for. Use another message id.",
                code="message_exists",
                param="X-Message-Id",
            )
        if found.request_hash != asked.request_hash:
            raise Conflict(
                "The same idempotency key or message id was used with another body. Use a new one for a new request.",
                code="idempotency_conflict",
            )
        return found

    def find(self, uid: str, generation_id: str) -> tuple[Generation, Head]:
        """A user's generation and its journal's head. Errors: `NotFound`, also where it is another user's."""
        generation = self._owned(uid, generation_id)
        head = self._store.read_head(generation)
        if head is None:
            raise NotFound("There is no such generation.", code="generation_not_found")
        if self.heal(generation, head):
            return self.find(uid, generation_id)
        return generation, head

    def _owned(self, uid: str, generation_id: str) -> Generation:
        generation = self._store.generation(document_id(generation_id, "id"))
        if generation is None or generation.owner != uid:
            raise NotFound("There is no such generation.", code="generation_not_found")
        return generation

    def answer(self, generation: Generation) -> tuple[Generation, int, str]:
        """The generation as it is now, the number of its last event, and the text there is."""
        generation, head = self.find(generation.owner, generation.id)
        return generation, head.last, replayed(self._store, generation, head).message()["content"]

    def resume(self, generation: Generation, after: int) -> Tail:
        """A viewer's place in a generation, after event `after`."""
        return self._tails.open(generation, after)

    def list(
        self, uid: str, *, chat_id: str | None, states: Sequence[State], after: str | None, limit: int
    ) -> list[tuple[Generation, int]]:
        """A user's generations, newest first, each with the number of its last event. Errors: `InvalidRequest`."""
        try:
            found = self._store.list(uid, chat_id=chat_id, states=states, after=after, limit=limit)
        except Stale as error:
            raise InvalidRequest("'cursor' is not one that a list gave.", param="cursor") from error
        return [shown for generation in found if (shown := self._progress(uid, generation)) is not None]

    def _progress(self, uid: str, generation: Generation) -> tuple[Generation, int] | None:
        if generation.state.terminal:
            return generation, generation.last_seq
        try:
            generation, head = self.find(uid, generation.id)
        except NotFound:
            return None  # deleted just now
        return generation, head.last

    def _live_besides(self, generation: Generation) -> int:
        """How many other generations its owner has live, those that are lost ended first."""
        limit = self._settings.max_live_generations + 1
        live = self.list(generation.owner, chat_id=None, states=LIVE, after=None, limit=limit)
        return sum(1 for each, _ in live if each.id != generation.id and not each.state.terminal)

    def stop(self, uid: str, generation_id: str) -> tuple[Generation, Head]:
        """Stops a generation and waits, for a bounded time, until it has ended. Errors: `NotFound`, `Conflict`."""
        generation, head = self.find(uid, generation_id)
        if generation.state.terminal:
            raise Conflict(f"The generation has ended: it is {generation.state}.", code="generation_ended")
        try:
            retried(lambda: self._store.patch(generation, {"stopRequestedAt": self._clock()}), INSIST_SECONDS)
        except Stale as error:
            raise NotFound("There is no such generation.", code="generation_not_found") from error
        log.info("stop requested", extra={"generation": generation.id, "state": str(generation.state)})
        if not head.leased(self._clock()):
            self._end(generation, head, End(state=State.STOPPED, reason="stopped"))
        with self._tails.open(generation, head.last) as tail:
            tail.wait_for_end(STOP_WAIT_SECONDS)
        return self.find(uid, generation_id)

    def delete(self, uid: str, generation_id: str) -> None:
        """Deletes a generation with its message and journal; one that runs is stopped by that. Errors: `NotFound`."""
        generation = self._owned(uid, generation_id)
        retried(lambda: self._store.delete(generation), INSIST_SECONDS)
        log.info("generation deleted", extra={"generation": generation.id, "state": str(generation.state)})

    def heal(self, generation: Generation, head: Head) -> bool:
        """Ends a generation that no task will pick up again; says whether there is news to read."""
        if head.end is not None:
            return False
        if head.attempt == 0:
            self._enqueue_again(generation)
        if self._clock() <= head.lease_until + LOST_GRACE:
            return False
        known = self._store.generation(generation.id) or generation  # who asks may have known it for long
        return self._end(known, head, _lost(known, head))

    def _enqueue_again(self, generation: Generation) -> None:
        """A second task for a generation that waits: its own may never have been made. Two do no harm."""
        if generation.state is not State.QUEUED or self._clock() <= generation.created_at + REQUEUE_AFTER:
            return
        try:
            found = self._store.generation(generation.id)  # who asks may have known it for long
            if found is None or found.state is not State.QUEUED or found.requeued_at is not None:
                return
            self._queue.enqueue(found)
            self._store.patch(found, {"requeuedAt": self._clock()})
            log.warning("generation queued again", extra={"generation": generation.id})
        except (Unavailable, Unreachable, Stale):
            log.info("no second task could be made", extra={"generation": generation.id})

    def _end(self, generation: Generation, head: Head, end: End) -> bool:
        """Ends a generation that no worker holds, with what it saved; False where somebody else was faster."""
        attempt = replace(head, attempt=head.attempt + 1)
        journal = Journal(self._store, generation, attempt, timedelta(0), self._clock, INSIST_SECONDS)
        answer = replayed(self._store, generation, head)
        try:
            ended = journal.finish([], replace(end, usage=answer.usage), answer)
        except Fenced:
            return False
        except Unreachable as error:
            raise Unavailable("The database can't be reached. Try again.") from error
        stopped = ended.state is State.STOPPED
        log.log(
            logging.INFO if stopped else logging.WARNING,
            "generation ended" if stopped else "generation healed",
            extra={
                "generation": ended.id,
                "attempt": ended.attempt,
                "upstream": ended.upstream,
                "state": str(ended.state),
                "reason": ended.reason,
                "events": ended.last_seq,
                "durationMs": round(1000 * (self._clock() - ended.created_at).total_seconds()),
                **journal.tally.fields(),
            },
        )
        return True


def _lost(generation: Generation, head: Head) -> End:
    """How a generation ends that no task will pick up again. A stop that no worker lived to see is a stop."""
    if generation.stop_requested_at is not None:
        return End(state=State.STOPPED, reason="stopped")
    if head.last > 0:
        state, what = State.INCOMPLETE, "The answer broke off: its worker was lost."
    else:
        state, what = State.FAILED, "The answer was not started."
    return End(state=state, reason="worker_lost", error={"message": what, "code": "worker_lost", "status": 503})


def _json(body: bytes) -> object:
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno}).", code="invalid_json"
        ) from error
    if chat.too_deep(parsed, body):
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json")
    return parsed


def _derived(kind: str, *parts: str) -> str:
    """An id that the same user and key, or chat and message, always give."""
    return hashlib.sha256("\0".join((kind, *parts)).encode()).hexdigest()[:32]
