"""The protocol that every dialect implements. Read this page before adding one.

A dialect is one model API as upstreams implement it: its requests, what its events mean, and how they are folded into
an answer. It is pure: it takes bytes and JSON and returns values. It must not wait or do I/O, and it has no state other
than in a `Reading` or an `Answer`, each for one answer.

To add an API:

1. Write `dialects/NAME.py` with a class that implements `Dialect`, and a subclass of `Answer`.
2. Add an instance to `DIALECTS` in `dialects/__init__.py`.
3. If clients should use this API too, add a module to `wires`. Upstreams that support the API list it in the catalog:
   `speaks = ["NAME"]`.

If its clients send their key in a header of its own, `cloud/tokens.py` and the catalog know that header. Nothing else
has to change. Every dialect follows these rules:

- **Keep unknown fields.** Events are passed on and saved unchanged. A field that the dialect does not know is merged
  like any other (`folding`) and goes into the message's `extra`.
- **Reject malformed events.** Raise `Malformed` for an event that does not belong to this API. This ends the answer.
- **An error is a step.** The upstream's own error, wherever it is in an event, becomes a `Fault` with its message, code
  and status.
- **Do not rely on a single sign of the end.** `Finish` and `EndMark` are what the upstream claims. `Answer` decides
  whether it holds: output after a finish withdraws it.
- **Do not buffer an answer or process it twice.** Reading an event takes time proportional to that event.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from lib.dialects.calls import Calls
from lib.dialects.conversation import Conversation
from lib.dialects.steps import OUTPUT, WORDS, Fault, Finish, Json, Reasoning, Refusal, Step, Text
from lib.domain.errors import HoldfastError
from lib.domain.event import Event
from lib.domain.message import Said
from lib.runtime.catalog import Prefill

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Malformed(Exception):
    """An event or a body is not a JSON object, does not belong to this API, or is nested too deeply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a request asks for, as far as this service must know.

    `fallbacks` are more models that the upstream may take. `choices` is the number of answers. `output_tokens` is the
    most that it asks for, or None if it sets no limit. The fields' names, as this API has them, are for error messages.
    `usage_shown`: the client wants to see events that contain only usage. `kept` is the first field that names, by an
    id, what the upstream keeps for all who share a key.
    """

    model: str
    streamed: bool
    fallbacks: tuple[str, ...] = ()
    choices: int = 1
    choices_field: str = "n"
    output_tokens: int | None = None
    output_tokens_field: str = "max_tokens"
    usage_shown: bool = True
    kept: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outgoing:
    """A request to an upstream. `path` is appended to the base URL, and `headers` must not contain credentials."""

    path: str
    body: bytes = b""
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()


class Read(NamedTuple):
    """One event and its meaning. A tuple for speed, since there is one per token.

    `payload` is the event's JSON with well-formed texts. `kept`: the event belongs into the journal. Bare errors do
    not, nor does an end mark that says nothing else. `usage_only`: it contains only usage, and is kept only if the
    client wants to see that.
    """

    event: Event
    payload: Json
    steps: tuple[Step, ...] = ()
    kept: bool = True
    usage_only: bool = False

    @property
    def text(self) -> str:
        """The visible text that the event adds to the first choice."""
        return "".join([step.text for step in self.steps if type(step) is Text and step.choice == 0])


class Answer(ABC):
    """Folds the events of one answer. `choices` is how many answers the request asked for.

    Folding n events takes time proportional to n.
    """

    def __init__(self, choices: int = 1):
        self._wanted = choices
        self._finished: dict[int, str] = {}
        self._withdrawn = False
        self._has_output = False
        self._words: defaultdict[tuple[type[Step], int], list[str]] = defaultdict(list)
        self.calls = Calls()
        self.events = 0
        self.text_events = 0  # events that added visible text: a lower bound for the tokens used

    def add(self, read: Read) -> None:
        """Adds an event. Events must be in order, and must be such as are kept."""
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
        self.calls.add(read.steps)
        self._fold(read)

    def words(self, kind: type[Text | Reasoning | Refusal], choice: int = 0) -> str:
        """The joined text of all steps of one kind."""
        return "".join(self._words.get((kind, choice), ()))

    @property
    def finished(self) -> bool:
        """Whether every requested choice has a finish reason without output after it."""
        return len(self._finished) >= max(self._wanted, self._seen_choices())

    @property
    def withdrawn(self) -> bool:
        """Whether output came after a finish reason, so that this upstream's finish reasons are not reliable."""
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
        """The number of choices in the events so far."""

    @property
    @abstractmethod
    def usage(self) -> Json | None:
        """The latest token usage that the upstream sent."""

    @abstractmethod
    def said(self) -> Said:
        """The answer for the application's message."""

    @abstractmethod
    def body(self) -> bytes:
        """The answer as this API's unary body. If the upstream sent a unary body, its unchanged bytes."""


class Reading(Protocol):
    """Reads one call's events in order. Has the state that is needed from one event to the next."""

    def read(self, event: Event) -> Read:
        """The event's meaning, and the event as clients see it. Errors: `Malformed`."""
        ...


@dataclass(frozen=True, slots=True)
class Rest:
    """The request for the rest of an interrupted answer, and the reading that joins the rest to what is saved."""

    request: Json
    reading: Reading


@dataclass(frozen=True, slots=True)
class Resumption:
    """The request that goes on with an answer at the upstream's own cursor, and the reading of what it brings."""

    outgoing: Outgoing
    reading: Reading


class Background(Protocol):
    """What an API has for answers that the upstream generates without a connection, and keeps for a while.

    Such an answer is read on from any of its events. So it is generated once, however often the reading breaks off.
    """

    def outgoing(self, request: Json, *, ask_usage: bool, headers: Mapping[str, str] = NO_HEADERS) -> Outgoing:
        """The request for an answer in the background. Like `Dialect.outgoing` if the client does not want that."""
        ...

    def resumption(self, answer: Answer) -> Resumption | None:
        """How to go on with `answer` at the upstream's cursor, or None if it is not in the background."""
        ...

    def cancelling(self, answer: Answer) -> Outgoing | None:
        """The request that ends the generating of `answer`, or None if it is not in the background."""
        ...


class Dialect(Protocol):
    """One model API."""

    name: str
    end_mark: Event | None
    """The event that ends a stream of this API, if it has one that is not kept in the journal."""

    ping: Event | None
    """The event that keeps a silent stream of this API alive, if it has one. Otherwise comments do."""

    headers: tuple[str, ...]
    """The client's headers that are a part of a request in this API, in lower case. No credentials."""

    background: Background | None
    """What this API has for answers in the background, if it has that."""

    def check(self, body: object) -> Asked:
        """Validates a request's JSON. Errors: `InvalidRequest`, which names the field."""
        ...

    def outgoing(self, request: Json, *, ask_usage: bool, headers: Mapping[str, str] = NO_HEADERS) -> Outgoing:
        """The request to the upstream. `ask_usage`: ask for a stream's usage, unless the client sets that itself.

        `headers` are those of `self.headers` that came with the request.
        """
        ...

    def streaming(self, request: Json) -> Json:
        """The request changed to ask for a stream, for client protocols that express this outside of the body."""
        ...

    def written(self, conversation: Conversation) -> Json:
        """A request for the next turn of a conversation. Errors: `InvalidRequest`, which names what can't be said."""
        ...

    def question(self, request: Json) -> str:
        """The text of the last turn of a request's user that has any. Empty if there is none."""
        ...

    def reading(self) -> Reading:
        """A reading for a new call."""
        ...

    def read(self, event: Event) -> Read:
        """The meaning of an event in the journal, which a `Reading` has accepted before. Errors: `Malformed`."""
        ...

    def events(self, body: bytes, *, streamed: bool) -> list[Event]:
        """Converts a unary JSON body into events. `streamed`: into those of a stream. Errors: `Malformed`."""
        ...

    def fault(self, status: int, body: bytes) -> Fault:
        """Reads a response with an error status."""
        ...

    def error(self, error: HoldfastError, own: bytes = b"") -> Event:
        """An error as this API writes it: the last event of a stream, whose data is the body of a refusal as well.

        `own` is the upstream's own error, a JSON object, if there is one. It is passed on as it is, if it has this
        API's shape.
        """
        ...

    def answer(self, choices: int = 1) -> Answer:
        """An empty answer."""
        ...

    def rest(self, request: Json, answer: Answer, style: Prefill | None) -> Rest | None:
        """How to ask for the rest of `answer`, or None if it can't be continued. A silent answer is started again."""
        ...


def folded(dialect: Dialect, events: Iterable[Event], choices: int = 1) -> Answer:
    """Folds events of the journal. Errors: `Malformed`."""
    answer = dialect.answer(choices)
    for event in events:
        answer.add(dialect.read(event))
    return answer
