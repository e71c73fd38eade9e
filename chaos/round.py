"""One round: many generations at once, their viewers, a fault, and the verdicts.

It runs the load and collects observations. `faults` defines what fails, and `promise` judges. Every wait has a time
limit.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from google.api_core.exceptions import GoogleAPICallError, RetryError

from chaos.dialects import RESPONSES, Dialect, text_of
from chaos.judging import judge
from chaos.promise import Observation, Verdict, Watched
from chaos.question import Question
from chaos.saved import LIVE, Saved, read, read_journal
from chaos.stage import Stage
from chaos.viewer import Viewer
from chaos.wires import WIRES, Native, Responses, Whole, Wire
from local.client import Client, Frame

if TYPE_CHECKING:
    from chaos.fault import Fault

BEGIN_SECONDS = 30.0  # until every generation has its first word
LEAVE_SECONDS = 20.0  # for the viewers, once all generations have ended
SETTLE_SECONDS = 0.5  # between the end and the last reading
CLOSE_SECONDS = 5.0  # for the upstream to notice that a call was closed
NATIVE = 0.6  # the share of viewers that use the model's own API
WHOLE = 0.1  # the share of questions that are not asked for a stream
_POLL_SECONDS = 0.2
_ASK_SECONDS = 5.0


class Asked:
    """One question of a round, its viewers, and what was read of its generation at several times."""

    def __init__(self, question: Question, viewers: list[Viewer]):
        self.question = question
        self.viewers = viewers
        self.kept: list[tuple[Frame, ...]] = []
        self.readings: list[Saved] = []
        self.overdue = False
        self.asked_at: float | None = None

    @property
    def generation(self) -> str | None:
        return next((viewer.generation for viewer in self.viewers if viewer.generation is not None), None)

    def ask(self) -> None:
        """Starts its viewers."""
        self.asked_at = time.monotonic()
        for viewer in self.viewers:
            viewer.start()

    @property
    def begun(self) -> bool:
        """Whether its first word was seen, or it ended without one. Nobody sees a whole body before its end."""
        return not self.question.streamed or self.viewers[0].begun


class Round:
    """One round of one fault. The fault may use all of it."""

    def __init__(self, stage: Stage, fault: Fault, number: int, seed: int):
        self.stage = stage
        self.plan = stage.plan
        self.fault = fault
        self.number = number
        self.chance = random.Random(f"{seed}/{number}/{fault.key}")
        self.broken: list[str] = []
        self._over = threading.Event()
        self._since: float | None = None
        self._reopened = False
        names = [f"{fault.key}-{number}-{place}" for place in range(fault.load(self.plan))]
        self.asked = [
            self._ask(name, dialect, place)
            for place, (name, dialect) in enumerate(zip(names, self._mixed(), strict=False))
        ]
        self.later = self.asked[len(self.asked) - fault.later(self.plan) :]

    def _mixed(self) -> Iterator[Dialect]:
        """All dialects of the fault in a random order, again and again."""
        while True:
            yield from self.chance.sample(self.fault.dialects, k=len(self.fault.dialects))

    def _ask(self, name: str, dialect: Dialect, place: int) -> Asked:
        usual = Question(
            name=name,
            dialect=dialect,
            tokens=self.chance.randint(*self.fault.tokens(self.plan)),
            rate=self.plan.rate,
            streamed=self.fault.native or self.chance.random() >= WHOLE,
            resumable=bool(place % 2),
        )
        question = self.fault.question(self, usual, place)
        low, high = self.fault.viewers
        viewers: list[Viewer] = []
        for viewer in range(max(self.chance.randint(low, high), 1 if question.streamed else 2)):
            chance = random.Random(f"{self.chance.random()}/{viewer}")
            leaves = chance.sample(range(1, question.tokens), k=chance.randint(0, self.fault.leaves))
            client = Client(self.stage.stack.url, question.user)
            asker = viewers[0] if viewers else None
            wire = self._wire(question, chance, asker) if question.streamed or asker else Whole
            viewers.append(Viewer(question, client, wire, chance, self._over, asker=asker, leaves=leaves))
        return Asked(question, viewers)

    def _wire(self, question: Question, chance: random.Random, asker: Viewer | None) -> type[Wire]:
        """One of all, but megabytes only where who comes back need not read them again."""
        native = self.fault.native or question.token_bytes or chance.random() < NATIVE
        known = [wire for wire in WIRES if wire is not Responses or asker is None or isinstance(asker.wire, wire)]
        wire = Native if native else chance.choice(known)
        # Who streams in this API has its numbers, by which no other protocol goes on.
        return Responses if wire is Native and asker is None and question.dialect is RESPONSES else wire

    def play(self) -> list[Verdict]:
        """Runs the round, and restores the stage in any case."""
        self.stage.clear()
        try:
            self.fault.begin(self)
            for asked in self.asked:
                if asked not in self.later:
                    asked.ask()
            self.fault.strike(self)
            self._wait_until_ended()
            self._let_viewers_finish()
            self.fault.settle(self)
        finally:
            self._over.set()
            self.fault.restore(self.stage)
        time.sleep(SETTLE_SECONDS)
        self.read(self.asked)
        left_open = self.stage.open_calls([asked.question for asked in self.asked], CLOSE_SECONDS)
        calls = self.stage.calls()  # before those that read what the upstream keeps
        return [
            judge(self._observation(asked, calls.get(name, []), left_open.get(name, 0)))
            for name, asked in ((asked.question.name, asked) for asked in self.asked)
        ]

    def _observation(self, asked: Asked, calls: list[dict[str, Any]], left_open: int) -> Observation:
        return Observation(
            name=asked.question.name,
            dialect=asked.question.dialect,
            promise=self.fault.promise(self.plan, asked.question),
            answer=asked.question.answer,
            sent=sum(call["tokens_sent"] for call in calls),
            calls=sum(call["method"] == "POST" and not call["path"].endswith("/cancel") for call in calls),
            kept=tuple(asked.kept),
            readings=tuple(asked.readings),
            watched=tuple(map(_watched, asked.viewers)),
            generated=self._generated(asked),
            left_open=left_open,
            overdue=asked.overdue,
            recovered=self.fault.recovered(self, asked),
            billed=tuple(
                (call["prompt_tokens"], call["completion_tokens"])
                for call in calls
                if call["prompt_tokens"] is not None and (call["finished"] or asked.question.background)
            ),
            one_call=asked.question.background,
        )

    def _generated(self, asked: Asked) -> tuple[str, ...] | None:
        """The events as the upstream has them that generated the answer in the background."""
        journal = asked.readings[-1].journal if asked.readings else ()
        if not asked.question.background or not journal:
            return None
        return self.stage.generated(asked.question.dialect.kept_at(json.loads(journal[0].data)))

    # For faults

    def wait_until_streaming(self) -> None:
        """Waits until every answer has started, and a moment longer. Those that never start are detected later."""
        deadline = time.monotonic() + BEGIN_SECONDS
        while (
            not all(asked.begun for asked in self.asked if asked.asked_at is not None) and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        time.sleep(self.chance.uniform(0.2, 1.0))

    def keep(self) -> None:
        """Records what is committed now. From now on it must not change."""
        for asked in self.asked:
            asked.kept.append(read_journal(self.stage.database, asked.question.path))

    def recovers_from_now(self, *, reopened: bool = False) -> None:
        """Starts the recovery time of all answers. `reopened`: recovery requires a new connection."""
        self._since, self._reopened = time.monotonic(), reopened

    def read(self, asked: Iterable[Asked]) -> None:
        """Reads these generations from Firestore. The last reading is the one that is judged."""
        for each in asked:
            found = read(self.stage.database, each.question.path)
            if found is not None:
                each.readings.append(found)

    def ended(self) -> list[Asked]:
        """The questions whose generations have ended. Errors: those of Google's client, if Firestore fails."""
        database = self.stage.database
        references = {asked.question.path: asked for asked in self.asked}
        found = database.get_all(
            [database.document(path) for path in references], field_paths=["state"], retry=None, timeout=_ASK_SECONDS
        )
        states = {document.reference.path: document.to_dict() or {} for document in found}
        return [asked for path, asked in references.items() if states[path].get("state") not in (None, *LIVE)]

    def _wait_until_ended(self) -> None:
        deadline = time.monotonic() + self.plan.patience
        left = self.asked
        while left and time.monotonic() < deadline:
            try:
                ended = self.ended()
                left = [asked for asked in self.asked if asked not in ended]
            except (GoogleAPICallError, RetryError):
                pass  # caused by the fault
            time.sleep(_POLL_SECONDS)
        for asked in left:
            asked.overdue = True

    def _let_viewers_finish(self) -> None:
        deadline = time.monotonic() + LEAVE_SECONDS
        viewers = [viewer for asked in self.asked for viewer in asked.viewers]
        for viewer in viewers:
            viewer.join(deadline)
        self._over.set()
        # A response without events ends in a defined way after this time.
        deadline = time.monotonic() + self.plan.response + 5
        for viewer in viewers:
            viewer.join(deadline)

    def recovered(self, asked: Asked) -> float | None:
        """The seconds from the start of the recovery time to the first word that was not committed at that time.

        A body that comes whole does not go on.
        """
        if self._since is None or not asked.question.streamed:
            return None
        had = {text_of(asked.question.dialect, frame) for frame in (asked.kept[-1] if asked.kept else ())}
        since = self._since
        moments = [
            sight.at - since
            for viewer in asked.viewers
            for sight in viewer.seen
            if sight.at > since and not (self._reopened and sight.opened < since)
            if (said := text_of(viewer.wire.dialect, sight.frame)) and said not in had
        ]
        return min(moments, default=None)


def _watched(viewer: Viewer) -> Watched:
    wire, frames = viewer.wire, tuple(sight.frame for sight in viewer.seen)
    said = ("".join(text_of(wire.dialect, frame) for frame in frames),) if wire.rendered else tuple(viewer.said)
    return Watched(
        wire=wire.name,
        end=viewer.end,
        frames=frames,
        said=said if wire.rendered or not wire.numbered else None,
        exact=wire.exact,
    )
