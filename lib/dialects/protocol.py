"""What a model API has to say for itself: read this page before adding one.

A dialect is one API as its upstreams speak it: how its requests look, what its events mean, what they add up to. It is
pure: bytes and JSON in, values out. It waits for nothing, calls nobody, and keeps nothing between two calls but what a
`Reading` or an `Answer` keeps for one answer.

To add an API:

1. Write `dialects/NAME.py` with a class that has what `Dialect` lists below, and an `Answer` of its own.
2. Put an instance into `DIALECTS` in `dialects/__init__.py`.
3. Where clients are to speak it too, write its wire. An upstream says in the catalog that it speaks it:
   `speaks = ["NAME"]`.

Nothing else has to change. The rules that every dialect follows:

- **Keep what you do not know.** An event is passed on and saved as it came. A field without a meaning here is merged
  like any other (`folding`) and ends up in the message's `extra`.
- **Say what is malformed.** Raise `Malformed` for an event that is none of this API. It ends the answer.
- **An error is a step.** The upstream's own error, wherever it stands in an event, is a `Fault` with its words, code
  and status.
- **Never believe an end too readily.** `Finish` and `EndMark` are what the upstream said. `Answer` decides whether they
  hold: output after a finish withdraws it.
- **Never buffer an answer, and never look at all of it again.** Reading one event costs what that event is long.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from lib.dialects.steps import OUTPUT, WORDS, Fault, Finish, Json, Reasoning, Refusal, Step, Text
from lib.domain.event import Event
from lib.domain.message import Said
from lib.runtime.catalog import Prefill


class Malformed(Exception):
    """An event or a body that is no JSON object, or none of this API, or nested beyond reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a request asks for, as far as this service has to know.

    `choices` is how many answers it wants. `usage_shown`: the client is to see events that say nothing but usage.
    """

    model: str
    streamed: bool
    choices: int = 1
    usage_shown: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Outgoing:
    """A request as the upstream gets it. `path` is added to the upstream's base URL; `headers` have no credentials."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Read(NamedTuple):
    """One event and what it means. A tuple, since one is made for every token.

    `payload` is its JSON, each text in it well-formed. `kept` tells whether it belongs to the journal: an end mark or a
    bare error does not. `usage_only`: it says nothing but usage, and is kept only for a client that is to see it.
    """

    event: Event
    payload: Json
    steps: tuple[Step, ...] = ()
    kept: bool = True
    usage_only: bool = False

    @property
    def text(self) -> str:
        """The visible text that it adds to the first choice."""
        return "".join([step.text for step in self.steps if type(step) is Text and step.choice == 0])


class Answer(ABC):
    """What the events of one answer add up to. `choices` is how many answers were asked for.

    Folding an answer of n events takes time proportional to n.
    """

    def __init__(self, choices: int = 1):
        self._wanted = choices
        self._finished: dict[int, str] = {}
        self._withdrawn = False
        self._has_output = False
        self._words: defaultdict[tuple[type[Step], int], list[str]] = defaultdict(list)
        self.events = 0
        self.text_events = 0  # events that added visible text: at least so many tokens were spent on it

    def add(self, read: Read) -> None:
        """Takes one event in. Events come in their order; none of them is an end mark or a bare error."""
        self.events += 1
        visible = False
        for step in read.steps:
            if isinstance(step, OUTPUT):
                self._has_output = True
                if isinstance(step, WORDS):
                    self._words[type(step), step.choice].append(step.text)
                    visible = visible or (step.choice == 0 and type(step) is Text)
                if self._finished and self._finished.pop(step.choice, None) is not None:
                    self._withdrawn = True
            elif isinstance(step, Finish):
                self._finished[step.choice] = step.reason
        self.text_events += visible
        self._fold(read)

    def words(self, kind: type[Text | Reasoning | Refusal], choice: int = 0) -> str:
        """All that the steps of one kind have said."""
        return "".join(self._words.get((kind, choice), ()))

    @property
    def finished(self) -> bool:
        """Whether each choice that was asked for has a finish reason with no output after it."""
        return len(self._finished) >= max(self._wanted, self._seen_choices())

    @property
    def withdrawn(self) -> bool:
        """Whether output came after a finish reason: this upstream's finish reasons prove nothing by themselves."""
        return self._withdrawn

    @property
    def silent(self) -> bool:
        """Whether there is neither output nor a finish reason yet."""
        return not self._has_output and not self._finished

    @abstractmethod
    def _fold(self, read: Read) -> None:
        """Merges the event's payload."""

    @abstractmethod
    def _seen_choices(self) -> int:
        """How many choices the events have named so far."""

    @property
    @abstractmethod
    def usage(self) -> Json | None:
        """What the upstream said last of the answer's cost."""

    @abstractmethod
    def said(self) -> Said:
        """The answer as an app's message has it."""

    @abstractmethod
    def body(self) -> bytes:
        """The answer as this API's unary body: the upstream's own bytes where it sent one whole body."""


class Reading(Protocol):
    """Reads one call's events in their order, and keeps what has to be known from one to the next."""

    def read(self, event: Event) -> Read:
        """What the event means, and the event as clients are to see it. Errors: `Malformed`."""
        ...


@dataclass(frozen=True, slots=True)
class Rest:
    """The request for the rest of a broken answer, and the reading that fits what comes to what is saved."""

    request: Json
    reading: Reading


class Dialect(Protocol):
    """One model API."""

    name: str
    end_mark: Event | None
    """What ends a stream of this API, where it has such a mark."""

    def check(self, body: object) -> Asked:
        """Checks a request's JSON and says what it asks for. Errors: `InvalidRequest`, which names the field."""
        ...

    def outgoing(self, request: Json, *, ask_usage: bool) -> Outgoing:
        """The request as the upstream gets it. `ask_usage`: a stream is to tell its usage, unless the client said."""
        ...

    def streaming(self, request: Json) -> Json:
        """The request as one that wants a stream: for a client protocol that says so elsewhere than in the body."""
        ...

    def reading(self) -> Reading:
        """For the events of a new call."""
        ...

    def read(self, event: Event) -> Read:
        """What an event of the journal means: one that a `Reading` has let through before. Errors: `Malformed`."""
        ...

    def events(self, body: bytes, *, streamed: bool) -> list[Event]:
        """A whole JSON body as events; `streamed`: as those of a stream. Errors: `Malformed`."""
        ...

    def fault(self, status: int, body: bytes) -> Fault:
        """What a response that is no success says, with the upstream's own words where it sent any."""
        ...

    def answer(self, choices: int = 1) -> Answer:
        """An answer that nothing was added to."""
        ...

    def rest(self, request: Json, answer: Answer, style: Prefill | None) -> Rest | None:
        """How to ask for the rest of `answer`; None where it can't be continued. A silent answer starts over."""
        ...


def folded(dialect: Dialect, events: Iterable[Event], choices: int = 1) -> Answer:
    """The answer that events of the journal add up to. Errors: `Malformed`."""
    answer = dialect.answer(choices)
    for event in events:
        answer.add(dialect.read(event))
    return answer
