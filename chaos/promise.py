"""What is promised for a generation, and whether that was kept, judged from observations.

Pure: nothing here may read a clock or do I/O. Every broken promise is reported as a sentence with what was expected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chaos.saved import Saved
from chaos.viewer import DONE
from local.client import Frame


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """What is promised for one generation, besides that a completed one has the whole answer.

    `states` are the allowed final states. `tokens` is how many are saved if it does not complete. `no_more`: it ends
    with exactly what was committed when the fault began. `calls` is the largest number of upstream calls. `recover` is
    the longest recovery, in seconds.
    """

    states: frozenset[str] = frozenset({"completed"})
    tokens: int | None = None
    no_more: bool = False
    calls: int | None = None
    recover: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """What one viewer saw on all of its connections, and the end that it was sent, if any."""

    frames: tuple[Frame, ...]
    end: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """All observations of one generation.

    `answer` are the tokens of the upstream's whole answer, and `sent` is how many it sent in `calls` calls. `kept` are
    the journals read while it ran, and `readings` what was read after it had ended (or had taken too long), in order.
    `overdue`: it had not ended in time, whatever happened later. `recovered` is how many seconds it took to continue,
    if it had to.
    """

    name: str
    promise: Promise
    answer: tuple[str, ...]
    sent: int
    calls: int
    kept: tuple[tuple[Frame, ...], ...]
    readings: tuple[Saved, ...]
    watched: tuple[Watched, ...]
    overdue: bool = False
    recovered: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Counts of tokens, but for `stuck` (0 or 1) and `recovered` (seconds). `broken`: a sentence per broken promise."""

    name: str
    generation: str | None
    sent: int
    saved: int
    lost: int
    duplicated: int
    disordered: int
    stuck: int
    recovered: float | None
    broken: tuple[str, ...]


def judge(seen: Observation) -> Verdict:
    """Judges whether the promises for a generation were kept."""
    if not seen.readings:
        return _never_began(seen)
    last = seen.readings[-1]
    spoken = [text for frame in last.journal if (text := frame.text)]
    places = {text: place for place, text in enumerate(seen.answer)}
    found = [places[text] for text in spoken if text in places]
    numbers = [frame.id or 0 for frame in last.journal]
    viewed = [[frame.id or 0 for frame in watched.frames] for watched in seen.watched]
    missing = set(range(_due(seen, last, found))) - set(found)
    gone = _gone(seen, last)
    return Verdict(
        name=seen.name,
        generation=last.generation,
        sent=seen.sent,
        saved=len(spoken),
        lost=max(len(missing), len(gone)) + sum(map(_skipped, viewed)),
        duplicated=max(_repeated(found), _repeated(numbers)) + sum(map(_repeated, viewed)),
        disordered=max(_backwards(found), _backwards(numbers)) + sum(map(_backwards, viewed)),
        stuck=1 if seen.overdue or not last.ended else 0,
        recovered=seen.recovered,
        broken=(
            *_about_the_end(seen, last),
            *_about_the_journal(seen, last, gone),
            *_about_the_answer(seen, last, spoken),
            *_about_viewers(seen, last),
        ),
    )


def _due(seen: Observation, last: Saved, found: Sequence[int]) -> int:
    """How many tokens must be saved: if nothing was promised, those up to the last saved one."""
    if last.state == "completed" or seen.promise.states == {"completed"}:
        return len(seen.answer)
    if seen.promise.tokens is not None:
        return seen.promise.tokens
    return max(found, default=-1) + 1


def _never_began(seen: Observation) -> Verdict:
    return Verdict(
        name=seen.name,
        generation=None,
        sent=seen.sent,
        saved=0,
        lost=len(seen.answer),
        duplicated=0,
        disordered=0,
        stuck=1,
        recovered=None,
        broken=("expected a generation and its message in Firestore, found none",),
    )


def _about_the_end(seen: Observation, last: Saved) -> Iterator[str]:
    promise = seen.promise
    allowed = _either(promise.states)
    if not last.ended:
        yield f"expected it to have ended as {allowed}, it is stuck: {last.state}, after event {_last(last.journal)}"
        return
    if seen.overdue:
        yield f"expected it to have ended as {allowed} in time, it took longer; it is {last.state} now"
    if last.state not in promise.states:
        yield f"expected it to end as {allowed}, it is {last.state} ({last.reason})"
    if not last.state == last.message_state == last.final:
        yield (
            "expected one end, found the generation "
            f"{last.state}, its message {last.message_state} and its journal's head {last.final}"
        )
    for before, after in pairwise(seen.readings):
        if before.ended and before.mark != after.mark:
            yield (
                "expected nothing to change after the end, found it "
                f"{before.state} with {before.last} events and then {after.state} with {after.last}, or written again"
            )
    if promise.calls is not None and seen.calls > promise.calls:
        yield f"expected {promise.calls} upstream calls at the most, there were {seen.calls}"
    if promise.recover is not None and seen.recovered is not None and seen.recovered > promise.recover:
        yield f"expected it to go on within {promise.recover:g} s, it took {seen.recovered:.1f} s"


def _about_the_journal(seen: Observation, last: Saved, gone: Sequence[int]) -> Iterator[str]:
    numbers = [frame.id for frame in last.journal]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"expected the journal's events to be 1, 2, 3 and so on, {_first_odd(numbers)}"
    if last.ended and last.last != _last(last.journal):
        yield f"expected the generation's last event to be {_last(last.journal)}, the journal's, it says {last.last}"
    if last.text != "".join(frame.text for frame in last.journal):
        yield "expected the text of the journal's segments to be that of their frames, it is not"
    if gone:
        shown = ", ".join(map(str, gone[:5])) + (", …" if len(gone) > 5 else "")
        yield f"expected every event that had been committed to stay in the journal, {len(gone)} have not: {shown}"
    if seen.promise.no_more and seen.kept and len(last.journal) > len(seen.kept[-1]):
        yield f"expected nothing after event {_last(seen.kept[-1])}, the journal has {_last(last.journal)}"


def _about_the_answer(seen: Observation, last: Saved, spoken: Sequence[str]) -> Iterator[str]:
    answer, said = "".join(seen.answer), "".join(spoken)
    if last.ended and last.content != said:
        yield f"expected the message to be the journal's text, {_difference(said, last.content)}"
    if not answer.startswith(said):
        yield f"expected what is saved to be how the upstream's answer begins, {_difference(answer, said)}"
    elif last.state == "completed" and said != answer:
        yield f"expected the completed answer to be whole, {len(answer)} characters, it has {len(said)}"
    if last.ended and last.state != "completed" and seen.promise.tokens is not None:
        wanted = "".join(seen.answer[: seen.promise.tokens])
        if said != wanted:
            yield (
                f"expected the {seen.promise.tokens} tokens that were sent before the fault to be saved, "
                f"found {len(spoken)}: {_difference(wanted, said)}"
            )


def _about_viewers(seen: Observation, last: Saved) -> Iterator[str]:
    for place, watched in enumerate(seen.watched, 1):
        numbers = [frame.id for frame in watched.frames]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"expected viewer {place} to see events 1, 2, 3 and so on, {_first_odd(numbers)}"
        if not last.ended:
            continue
        if _last(watched.frames) != _last(last.journal):
            yield f"expected viewer {place} to see all {_last(last.journal)} events, it saw {_last(watched.frames)}"
        due = {"completed": DONE, "stopped": DONE, "incomplete": last.code}.get(last.state)
        if watched.end is None:
            yield f"expected viewer {place} to be told the end, it was told nothing"
        elif due is not None and watched.end != due:
            yield f"expected viewer {place} to be told {due}, since it is {last.state}; it was told {watched.end}"
        elif last.state == "failed" and watched.end == DONE:
            yield f"expected viewer {place} to be told of the failure, it was told {DONE}"


def _gone(seen: Observation, last: Saved) -> list[int]:
    """The events that a viewer or an earlier reading saw, and that are missing or different in the journal now."""
    now = {frame.id: frame for frame in last.journal}
    then = [*seen.kept, *(reading.journal for reading in seen.readings), *(each.frames for each in seen.watched)]
    return sorted({frame.id or 0 for frames in then for frame in frames if now.get(frame.id) != frame})


def _skipped(numbers: Sequence[int]) -> int:
    return max(numbers, default=0) - len(set(numbers))


def _repeated(values: Sequence[int]) -> int:
    return sum(Counter(values).values()) - len(set(values))


def _backwards(numbers: Sequence[int]) -> int:
    return sum(after < before for before, after in pairwise(numbers))


def _last(frames: Sequence[Frame]) -> int:
    return frames[-1].id or 0 if frames else 0


def _either(states: frozenset[str]) -> str:
    return " or ".join(sorted(states))


def _first_odd(numbers: Sequence[int | None]) -> str:
    place = next((place for place, number in enumerate(numbers) if number != place + 1), len(numbers))
    shown = ", ".join(map(str, numbers[max(0, place - 1) : place + 2]))
    return f"found {shown} where {place + 1} should be"


def _difference(wanted: str, found: str) -> str:
    place = next(
        (place for place, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b),
        min(len(wanted), len(found)),
    )
    return (
        f"at character {place} of {len(wanted)} found {found[place : place + 20]!r} "
        f"where {wanted[place : place + 20]!r} should be"
    )
