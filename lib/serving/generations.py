"""A user's operations on generations, independent of the client protocol: start, find, list, stop, delete.

Decides who may see what, and whether a request is a repetition. It must not be able to call the upstream: it only adds
tasks to the queue.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from lib.cloud.documents import Exists, Stale, Write
from lib.cloud.store import Created, RequestLost, Store
from lib.cloud.task_queue import TaskQueue
from lib.dialects.protocol import Asked
from lib.domain import message
from lib.domain.end import LIVE, State
from lib.domain.errors import (
    BudgetReached,
    Conflict,
    IndexMissing,
    InvalidRequest,
    NotFound,
    TooManyRequests,
    Unavailable,
    Unreachable,
)
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.domain.ids import document_id
from lib.domain.message import Said
from lib.domain.segment import Head, empty_head
from lib.domain.usage import Usage
from lib.journal.codec import replay
from lib.journal.ending import LOST_GRACE
from lib.journal.turns import Turns
from lib.journal.writer import RETRY_SECONDS, Clock, retried
from lib.runtime.settings import Settings
from lib.serving.budgets import Budgets
from lib.serving.healing import INSIST_SECONDS, Dialects, Healer
from lib.serving.places import LONGEST_WAIT, Places
from lib.serving.quota import Quota, Share
from lib.serving.rate import Rate
from lib.serving.start_request import StartRequest, check_limits, checked, new_generation
from lib.serving.tail import Tail, Tails

START_GRACE = timedelta(minutes=30)  # how long a task may wait in the queue before its generation counts as lost
STOP_WAIT_SECONDS = 3.0  # longer than a worker's longest back-off
LIMIT_RETRY_SECONDS = 5  # after a 429
MAX_PAGE = 100
WITHDRAW_SECONDS = 10.0  # of retries: what is left would hold what it has reserved
_READ_TRIES = 3
_CREATE_TRIES = 2
_CONTENTION_TRIES = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """The generation without its request, this client's tail, and what the request asked for.

    `attached`: the generation existed before.
    """

    generation: Generation
    tail: Tail
    asked: Asked
    attached: bool


class Generations:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        queue: TaskQueue,
        tails: Tails,
        healer: Healer,
        dialects: Dialects,
        clock: Clock,
    ):
        self.budgets = Budgets(settings, store.accounts)
        self._settings = settings
        self._store = store
        self._queue = queue
        self._tails = tails
        self._healer = healer
        self._dialects = dialects
        self._clock = clock
        self._turns = Turns(store, queue)
        self._places = Places(store, settings.max_waiting_turns, self._is_live, clock)
        self._rate = Rate(settings.max_user_starts)
        self._viewers = Quota(
            settings.max_user_viewers,
            settings.viewers,
            code="too_many_viewers",
            message=f"You follow or wait for {settings.max_user_viewers} answers here, which is the limit. Close one.",
            retry_seconds=LIMIT_RETRY_SECONDS,
        )

    def start(self, uid: str, request: StartRequest) -> Started:
        """Starts a generation, or attaches to the one that the same request started.

        A generation that failed without any output, for a reason that may have passed, is started anew.
        Errors: `InvalidRequest`, `NotFound` (a shared chat that does not list the user), `Conflict` (a message id that
        is taken, or the same request at another place), `TooManyRequests`, `Unavailable`.
        """
        found = checked(request, self._settings.catalog, self._dialects)
        check_limits(found.asked, self._settings)
        watchers, now = self._tails.first_lease(), self._clock()
        generation = new_generation(uid, request, found, self._settings, watchers, now)
        booked = self.budgets.booking(uid, found.asked, found.body, found.upstream, now)
        generation = replace(generation, booked=booked)
        share = self._viewers.take(uid)
        try:
            self._check_rate(generation, request)
            return self._started(generation, found.asked, share, request.every)
        except BaseException:
            share.close()
            raise

    def _check_rate(self, generation: Generation, request: StartRequest) -> None:
        """Refuses more starts than a user may make within a second, but no repetition. Errors: `TooManyRequests`."""
        if self._rate.take(generation.owner) or (request.repeatable and self._existing(generation) is not None):
            return
        raise TooManyRequests(
            f"You started {self._settings.max_user_starts} answers within a second, which is the limit. "
            "Try again in a second.",
            code="too_many_starts",
            retry_after=1,
        )

    def _started(self, generation: Generation, asked: Asked, share: Share, every: float) -> Started:
        try:
            return self._start(generation, asked, share, every)
        except Exists:
            there = self._repeated(generation)
        if there.may_be_tried_anew:
            try:
                return self._start(replace(generation, id=there.id, retried=True), asked, share, every, failed=there)
            except Stale:
                there = self._repeated(generation)  # the same request came twice, and the other was faster
        log.info("request repeated", extra={"generation": there.id, "state": str(there.state)})
        if there.state is State.QUEUED and (head := self._store.read_head(there)) is not None:
            self._healer.heal(there, head)
        return Started(there, self._tails.open(there, 0, every=every, leave=share.close), asked, attached=True)

    def _start(
        self, generation: Generation, asked: Asked, share: Share, every: float, failed: Generation | None = None
    ) -> Started:
        """Creates and queues the generation, in place of `failed` if that is given, within its owner's limit.

        Errors: `Exists`; `Stale` if `failed` is there no more; `TooManyRequests`; `Unavailable`.

        The limit is exact: a generation counts by its rank, which is how many were live at the very commit that created
        it. That takes one more request, which is sent beside the task's, and is nearly always within the limit. Where
        the count that was made beside the creation is at the limit, no task is made before the rank is known.
        """
        limit, owner, now = self._settings.max_live_generations, generation.owner, generation.created_at
        counting = self._store.counting_live(owner, limit)
        self._check_member(generation)

        def create(generation: Generation, also: Sequence[Write]) -> Created:
            head = empty_head(now, now + (LONGEST_WAIT if generation.ahead else START_GRACE))
            if failed is None:
                return self._create(generation, head, also)
            return self._store.restart(failed, generation, message.opening(generation), head, *also)

        taken = self._places.take(generation, create, anew=failed is not None)
        generation, (version, usage) = taken.generation, taken.created
        started = generation.without_bodies()  # which are not needed for as long as somebody watches
        tail = self._tails.open(started, 0, every=every, created=True, leave=share.close)
        try:
            self._check_budgets(generation, usage)
            ranking = self._store.counting_live(owner, limit + 1, at=version)
            full = self._exceeds(generation, lambda: counting() >= limit)
            if full:
                self._check_limit(generation, ranking)
            if generation.ahead:
                self._turns.wait(generation, taken.first)
            else:
                self._queue.enqueue(generation, version)
            if not full:
                self._check_limit(generation, ranking)
        except BaseException as error:
            if not isinstance(error, TooManyRequests):
                log.warning("generation not queued", extra={"generation": generation.id})
            tail.close()
            self._withdraw(generation)
            raise
        log.info(
            "generation queued",
            extra={
                "generation": generation.id,
                "state": str(generation.state),
                "upstream": generation.upstream,
                "bytes": len(generation.request),
                "budgetPercent": self.budgets.service_percent(usage),
                "ahead": generation.ahead or None,
            },
        )
        for each in taken.interrupted:
            self._interrupt(each)
        return Started(started, tail, asked, attached=False)

    def _check_budgets(self, generation: Generation, usage: Sequence[Usage]) -> None:
        """Checks what the accounts have come to. Errors: `BudgetReached`.

        If running answers hold the rest, those that may be lost are ended, which gives back what they hold.
        """
        try:
            self.budgets.check(generation, usage)
        except BudgetReached as reached:
            if reached.retryable:
                self._live_besides(generation)
            raise

    def _check_limit(self, generation: Generation, ranking: Callable[[], int]) -> None:
        """Checks the limit of live generations. Errors: `TooManyRequests`, `IndexMissing`."""
        limit = self._settings.max_live_generations
        if self._exceeds(generation, lambda: ranking() > limit and self._live_besides(generation) >= limit):
            raise TooManyRequests(
                f"You have {limit} answers running, which is the limit. Wait for one to end, or stop one.",
                retry_after=LIMIT_RETRY_SECONDS,
            )

    def _exceeds(self, generation: Generation, counted: Callable[[], bool]) -> bool:
        """Whether a count says that there are too many. Errors: `IndexMissing`.

        A count that fails for a passing reason refuses nothing: the generation is there, and may be within the limit.
        """
        try:
            return counted()
        except IndexMissing:
            raise
        except Unreachable as error:
            log.warning("live answers not counted", extra={"generation": generation.id, "cause": error.cause})
            return False

    def _live_besides(self, generation: Generation) -> int:
        """The number of the owner's other live generations, after ending those that may be lost."""
        limit = self._settings.max_live_generations + 1
        live = self._store.list(generation.owner, chat_id=None, states=LIVE, after=None, limit=limit)
        young = generation.created_at - LOST_GRACE
        return sum(1 for each in live if each.id != generation.id and (each.created_at > young or self._is_live(each)))

    def _is_live(self, generation: Generation) -> bool:
        found = self._progress(generation.owner, generation)
        return found is not None and not found[0].state.terminal

    def _create(self, generation: Generation, head: Head, also: Sequence[Write]) -> Created:
        """Creates the generation, with one retry, or several while others write the same accounts.

        If the response was lost, the version is not known. Errors: `Exists`, `Unreachable`; those of `also`.
        """
        opening, pause, tries = message.opening(generation), RETRY_SECONDS[0], 0
        while True:
            tries += 1
            try:
                return self._store.create(generation, opening, head, *also)
            except Unreachable as error:
                found = self._store.generation(generation.id)
                if found is not None and found.created_at == generation.created_at:
                    return Created(None, self.budgets.now(found))
                if found is not None:
                    raise Exists from None  # another request's: it is not this one's commit with a lost response
                if tries >= (_CONTENTION_TRIES if error.contention else _CREATE_TRIES):
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause *= 2

    def _withdraw(self, generation: Generation) -> None:
        """Deletes a generation that could not be queued or is beyond the limit, with retries."""
        try:
            retried(lambda: self._healer.delete(generation), WITHDRAW_SECONDS)
        except Unreachable:
            log.warning("a generation that was not queued could not be deleted", extra={"generation": generation.id})
        self._healer.pass_turn(generation)

    def _interrupt(self, running: Generation) -> None:
        """Stops an answer whose place another one takes. If that fails, the one that waits for it asks again."""
        try:
            found = self.find(running.owner, running.id)
            if not found[0].state.terminal:
                self._ask_to_stop(*found)
        except (NotFound, Unavailable):
            log.warning("generation not interrupted", extra={"generation": running.id})

    def _repeated(self, asked: Generation) -> Generation:
        """The existing generation with the same id or message. Errors: `Conflict`."""
        found = self._existing(asked)
        if found is None or found.owner != asked.owner:
            raise Conflict(
                "There is a message with this id already, which no running answer is for. Use another message id.",
                code="message_exists",
                param="X-Message-Id",
            )
        if found.message_path != asked.message_path:
            raise Conflict(
                "The same request was sent with this idempotency key and another chat or message id. "
                "Use a new key for a new request.",
                code="idempotency_conflict",
                param="X-Chat-Id" if found.chat_id != asked.chat_id else "X-Message-Id",
            )
        if (found.request_hash, found.dialect) != (asked.request_hash, asked.dialect):
            raise Conflict(
                "There is an answer to another request under this message id. Use another message id.",
                code="message_exists",
                param="X-Message-Id",
            )
        return found

    def _existing(self, asked: Generation) -> Generation | None:
        return self._store.generation(asked.id) or self._store.generation_of_message(asked.message_path)

    def find(self, uid: str, generation_id: str) -> tuple[Generation, Head]:
        """A user's generation and its journal's head. Errors: `NotFound`, also if it belongs to another user."""
        for _ in range(_READ_TRIES):
            generation = self._owned(uid, generation_id)
            head = self._store.read_head(generation)
            if head is None:
                raise NotFound("There is no such generation.", code="generation_not_found")
            # Between the two reads it may have been deleted and created again with the same id.
            if head.created_at == generation.created_at and not self._healer.heal(generation, head):
                return generation, head
        raise Unavailable("The generation is changing. Try again.", retry_after=1)

    def _owned(self, uid: str, generation_id: str) -> Generation:
        generation = self._store.generation(document_id(generation_id, "id"))
        if generation is None or generation.owner != uid:
            raise NotFound("There is no such generation.", code="generation_not_found")
        return generation

    def answer(self, generation: Generation) -> tuple[Generation, int, Said]:
        """The current generation, the number of its last event, and what was said so far."""
        generation, head = self.find(generation.owner, generation.id)
        said, _ = self._healer.saved(generation, head)
        return generation, head.last, said

    def request(self, generation: Generation) -> bytes:
        """The request as its upstream gets it. Errors: `NotFound` if it is lost."""
        return self._whole(generation, self._store.request)

    def own_request(self, generation: Generation) -> bytes:
        """The request in the terms of its client protocol, or nothing. Errors: `NotFound` if it is lost."""
        return self._whole(generation, self._store.own_request)

    def _whole(self, generation: Generation, read: Callable[[Generation], bytes]) -> bytes:
        try:
            return read(generation)
        except RequestLost as error:
            raise NotFound("The request of this generation no longer exists.", code="generation_not_found") from error

    def request_bytes(self, generation: Generation) -> int:
        """The most bytes that `request` may return."""
        return self._store.request_bytes(generation)

    def own_request_bytes(self, generation: Generation) -> int:
        """The most bytes that `own_request` may return."""
        return self._store.own_request_bytes(generation)

    def events(self, generation: Generation, head: Head) -> Iterator[Event]:
        """The events of the journal up to `head`."""
        return replay(self._store, generation, head)

    def resume(self, generation: Generation, after: int, every: float = 0.0) -> Tail:
        """A tail that starts after event `after`, with a piece at most `every` seconds. Errors: `TooManyRequests`."""
        share = self._viewers.take(generation.owner)
        try:
            return self._tails.open(generation, after, every=every, leave=share.close)
        except BaseException:
            share.close()
            raise

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

    def stop(self, uid: str, generation_id: str) -> tuple[Generation, Head]:
        """Stops a generation, and waits for a limited time until it has ended. Errors: `NotFound`, `Conflict`."""
        generation, head = self.find(uid, generation_id)
        if generation.state.terminal:
            raise Conflict(f"The generation has ended: it is {generation.state}.", code="generation_ended")
        held = self._ask_to_stop(generation, head)
        with self._tails.open(generation, head.last) as tail:
            tail.wait_for_end(STOP_WAIT_SECONDS)
        generation, now = self.find(uid, generation_id)
        if not held or generation.state.terminal or now.version != head.version or now.leased(self._clock()):
            return generation, now
        # The lease expired, and a live worker would have retried by now, so no worker runs it.
        self._healer.stop(generation, now)
        return self.find(uid, generation_id)

    def _ask_to_stop(self, generation: Generation, head: Head) -> bool:
        """Asks for a stop, or ends a generation that no worker holds. Returns whether one holds it.

        Errors: `NotFound`, `Unreachable`.
        """
        try:
            retried(lambda: self._store.patch(generation, {"stopRequestedAt": self._clock()}), INSIST_SECONDS)
        except Stale as error:
            raise NotFound("There is no such generation.", code="generation_not_found") from error
        log.info("stop requested", extra={"generation": generation.id, "state": str(generation.state)})
        held = head.claims > 0 and not head.released
        if not held:
            self._healer.stop(generation, head)
        return held

    def delete(self, uid: str, generation_id: str) -> None:
        """Deletes a generation with its message and journal, which also stops it. Errors: `NotFound`."""
        generation = self._owned(uid, generation_id)
        retried(lambda: self._healer.delete(generation), INSIST_SECONDS)
        log.info("generation deleted", extra={"generation": generation.id, "state": str(generation.state)})
        self._healer.pass_turn(generation)

    def _check_member(self, generation: Generation) -> None:
        """Checks that the user may write into the chat, where chats are shared. Errors: `NotFound`, `Unreachable`.

        It is read before anything is created: a stranger's message must not be in the chat for even a moment, and if
        the process died then, it would stay.
        """
        field, chat_path = self._settings.chat_members, generation.chat_path
        if field and chat_path and not self._store.is_member(chat_path, field, generation.owner):
            raise NotFound(
                "There is no such chat, or you are not a member of it.", code="chat_not_found", param="X-Chat-Id"
            )
