"""What is promised for a generation, what was observed of it, and the verdict. Values: see `judging`."""

from __future__ import annotations

from dataclasses import dataclass

from chaos.dialects import Dialect
from chaos.saved import Saved
from local.client import Frame


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """What is promised for one generation, besides that a completed one has the whole answer.

    `states` are the allowed final states. `tokens` is how many are saved if it does not complete. `no_more`: once it
    has words, no other attempt adds to it. `calls` is the largest number of upstream calls that ask for
    an answer, of which each is paid. `recover` is the longest recovery, in seconds.
    """

    states: frozenset[str] = frozenset({"completed"})
    tokens: int | None = None
    no_more: bool = False
    calls: int | None = None
    recover: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """What one viewer saw by its `wire`, and the end that it was sent, if any.

    `frames` are the numbered events, of all connections. A wire without numbers has `said` instead: the text of each
    response, from the answer's first word on. One whose events are its own has both. `exact`: an event's data is as the
    upstream sent it.
    """

    wire: str
    end: str | None
    frames: tuple[Frame, ...] = ()
    said: tuple[str, ...] | None = None
    exact: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """All observations of one generation.

    `answer` are the tokens of the upstream's whole answer in its `dialect`, and `sent` is how many it sent. `calls` is
    how often it was asked for the answer, and `left_open` how many of all calls were open seconds after the end.
    `generated` are the upstream's own events, if it keeps them. `kept` are the journals read while it ran, and
    `readings` what was read after it had ended (or had taken too long), in order. `overdue`: it had not ended in time,
    whatever happened later. `recovered` is how many seconds it took to continue, if it had to. `billed` has the tokens
    of prompt and answer that each of the calls which came to their end says to have taken, and with `one_call` all
    attempts read one call's answer, which the upstream generates in the background.
    """

    name: str
    dialect: Dialect
    promise: Promise
    answer: tuple[str, ...]
    sent: int
    calls: int
    kept: tuple[tuple[Frame, ...], ...]
    readings: tuple[Saved, ...]
    watched: tuple[Watched, ...]
    generated: tuple[str, ...] | None = None
    left_open: int = 0
    overdue: bool = False
    recovered: float | None = None
    billed: tuple[tuple[int, int], ...] = ()
    one_call: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Counts of tokens, but for `stuck` (0 or 1), `left_open` (upstream calls) and `recovered` (seconds).

    `broken`: a sentence per broken promise.
    """

    name: str
    dialect: str
    generation: str | None
    sent: int
    saved: int
    lost: int
    duplicated: int
    disordered: int
    stuck: int
    left_open: int
    recovered: float | None
    broken: tuple[str, ...]
