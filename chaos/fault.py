"""What every fault is: a load, something that goes wrong from outside, and a promise.

A fault acts on processes, the network and the upstream, never inside the service. It must leave the stage as it found
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from chaos.dialects import DIALECTS, Dialect
from chaos.plan import Plan
from chaos.promise import Promise
from chaos.question import Question
from chaos.round import Asked, Round
from chaos.stage import Stage

MAX_ATTEMPTS = 3  # of a generation, by default
ENDS_OR_BREAKS_OFF = frozenset({"completed", "incomplete"})


class Fault:
    """The base of all faults: a load, the fault itself, and a promise. `recovery` is the start of the recovery time."""

    key: ClassVar[str]
    title: ClassVar[str]
    recovery: ClassVar[str | None] = None
    viewers: ClassVar[tuple[int, int]] = (1, 2)  # per generation
    leaves: ClassVar[int] = 1  # how often a viewer leaves, at most
    dialects: ClassVar[Sequence[Dialect]] = DIALECTS
    native: ClassVar[bool] = False  # all viewers stream in their model's own API, since their times are measured

    def load(self, plan: Plan) -> int:
        """How many questions a round has."""
        return plan.load

    def later(self, plan: Plan) -> int:
        """How many of them, the last ones, are not asked until the fault asks them."""
        return 0

    def tokens(self, plan: Plan) -> tuple[int, int]:
        """The smallest and largest number of tokens of an answer."""
        return plan.tokens

    def question(self, on: Round, usual: Question, place: int) -> Question:
        """The question of one generation, from the `usual` one. Every other one is resumable."""
        return usual

    def begin(self, on: Round) -> None:
        """Runs before anything is asked."""

    def strike(self, on: Round) -> None:
        """Runs while the answers stream. The stage must work again when it returns, but may still be recovering."""

    def settle(self, on: Round) -> None:
        """Runs after all generations have ended, before they are read for the last time."""

    def restore(self, stage: Stage) -> None:
        """Undoes the fault, also after an error."""

    def recovered(self, on: Round, asked: Asked) -> float | None:
        """The seconds that are reported and promised for one generation, if there are any."""
        return on.recovered(asked)

    def promise(self, plan: Plan, question: Question) -> Promise:
        """What is promised. By default, every answer completes with one upstream call, and recovers in time."""
        return Promise(calls=1, recover=plan.recover if self.recovery else None)


class WorkerFault(Fault):
    """The worker is lost. Answers that an upstream can continue complete; the others end with what was committed.

    Of a body that comes whole nothing is committed before its end, so it is asked for again. Who waits for a whole body
    does not see whether an answer that the upstream streams has begun: then it may be asked for again too.
    """

    no_more = True

    def promise(self, plan: Plan, question: Question) -> Promise:
        if question.whole:
            return Promise(calls=MAX_ATTEMPTS)
        if question.continues:
            return Promise(recover=plan.recover, calls=1 if question.background and question.streamed else None)
        if not question.streamed:
            return Promise(states=ENDS_OR_BREAKS_OFF, calls=MAX_ATTEMPTS)
        return Promise(states=ENDS_OR_BREAKS_OFF, no_more=self.no_more, calls=1)
