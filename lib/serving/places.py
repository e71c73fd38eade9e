"""A new generation's place among the turns of its chat.

It is taken in the commit that creates the generation, over the order as it was read. Who loses such a race reads again,
so that two devices get one order, and a refusal is exact. A generation that takes no turn costs nothing here, and is in
no order until one that takes a turn finds it running: then that one gets both into it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import takewhile

from lib.cloud.documents import Exists, Stale, Write
from lib.cloud.store import Created, Store
from lib.cloud.turns import Order
from lib.domain.end import LIVE
from lib.domain.errors import Conflict, TooManyRequests, Unavailable
from lib.domain.generation import Generation
from lib.domain.turn import TurnMode
from lib.journal.writer import Clock

LONGEST_WAIT = timedelta(hours=6)  # for a turn; then a generation that nobody works counts as lost
TAKE_SECONDS = 30.0  # of lost races, each of which may take the database seconds
_PAUSE_SECONDS = 0.05
_MOST = 100  # live answers of a chat that are looked at
_RETRY_SECONDS = 5  # after a 429

Create = Callable[[Generation, Sequence[Write]], Created]


@dataclass(frozen=True, slots=True)
class Taken:
    """The generation as it was placed, what its commit returned, the one whose turn it is before, and those to stop."""

    generation: Generation
    created: Created
    first: Generation | None = None
    interrupted: Sequence[Generation] = ()


class Places:
    """`is_live` tells whether a generation is live after all, and may end it if it is lost."""

    def __init__(self, store: Store, most_waiting: int, is_live: Callable[[Generation], bool], clock: Clock):
        self._store = store
        self._most_waiting = most_waiting
        self._is_live = is_live
        self._clock = clock

    def take(self, generation: Generation, create: Create, *, anew: bool) -> Taken:
        """Creates the generation at its place. `anew`: one that failed is there under its id.

        Errors: `Conflict` if another one runs and this must not wait; `TooManyRequests`; `Exists` or `Stale` if it is
        there already; `Unavailable`.
        """
        if generation.turn is None:
            return Taken(generation, create(generation, ()))
        deadline = time.monotonic() + TAKE_SECONDS
        while time.monotonic() < deadline:
            order = self._store.turns.order(generation.message_path)
            found = self._placed(generation, order, anew)
            if found is None:
                continue
            placed, ids, first, interrupted = found
            write = self._store.turns.changed(order, ids, self._clock())
            try:
                return Taken(placed, create(placed, (write,)), first, interrupted)
            except (Exists, Stale):
                if self._store.turns.order(generation.message_path).version == order.version:
                    raise
            time.sleep(random.uniform(0.0, _PAUSE_SECONDS))  # noqa: S311
        raise Unavailable("The chat is changing. Try again.", retry_after=1)

    def _placed(
        self, generation: Generation, order: Order, anew: bool
    ) -> tuple[Generation, list[str], Generation | None, list[Generation]] | None:
        """The generation with how many are ahead of it, the order with it, the first one, and those to be stopped.

        None if the order must be read again. Errors: as `take`.
        """
        ordered = self._store.turns.live(order.ids)
        if generation.id in (each.id for each in ordered):
            raise Stale if anew else Exists
        before, behind, stopped = ordered, list[Generation](), list[Generation]()
        if generation.turn is TurnMode.INTERRUPT:
            # One that was to interrupt, and has not begun, is interrupted as if it had. What was queued stays queued.
            begun = takewhile(lambda each: each.turn in (None, TurnMode.INTERRUPT), ordered[1:])
            before = [*ordered[:1], *begun]
            behind = ordered[len(before) :]
        before = [*before, *self._beside(generation, ordered)]
        others = [*before, *behind]
        if not others:
            return generation, [generation.id], None, []
        if generation.turn is TurnMode.INTERRUPT:
            stopped = [each for each in before if each.owner == generation.owner]
        waiting = [each for each in others[1:] if each.turn is not None and each not in stopped]
        rejected = generation.turn is TurnMode.REJECT
        if rejected or len(waiting) >= self._most_waiting:
            if not anew and self._store.generation(generation.id) is not None:
                raise Exists  # the request was repeated, and is no other one
            if not self._is_live(others[0]):
                return None
            raise _running(others[0]) if rejected else self._too_many()
        placed = replace(generation, ahead=len(before))
        return placed, [each.id for each in (*before, placed, *behind)], others[0], stopped

    def _beside(self, generation: Generation, ordered: Sequence[Generation]) -> list[Generation]:
        """The user's answers that run in the chat and are in no order, oldest first. Errors: `Unreachable`."""
        live = self._store.list(generation.owner, chat_id=generation.chat_id, states=LIVE, after=None, limit=_MOST)
        there = {generation.id, *(each.id for each in ordered)}
        return [each for each in reversed(live) if each.turn is None and each.id not in there]

    def _too_many(self) -> TooManyRequests:
        return TooManyRequests(
            f"{self._most_waiting} prompts wait for their turn in this chat, which is the limit (MAX_WAITING_TURNS). "
            "Come back when one has begun, or stop one.",
            code="too_many_waiting",
            retry_after=_RETRY_SECONDS,
        )


def _running(generation: Generation) -> Conflict:
    error = Conflict(
        f"An answer runs in this chat: {generation.id}. Wait for its end, stop it, or send this with "
        "'X-Turn: queue' or 'X-Turn: interrupt'.",
        code="answer_running",
        param="X-Turn",
    )
    error.details = {"generation": generation.id}
    return error
