"""Whether what is promised for a generation was kept, judged from observations.

Pure: nothing here may read a clock or do I/O. Every broken promise is reported as a sentence with what was expected.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest

from chaos.bills import about_the_bill
from chaos.dialects import DONE, text_of
from chaos.promise import Observation, Verdict, Watched
from chaos.saved import Saved
from chaos.wires import GONE
from local.client import Frame


def judge(seen: Observation) -> Verdict:
    """Judges whether the promises for a generation were kept."""
    if not seen.readings:
        return _never_began(seen)
    last = seen.readings[-1]
    spoken = [text for frame in last.journal if (text := text_of(seen.dialect, frame))]
    found = _places(seen.answer, "".join(spoken))
    numbers = [frame.id or 0 for frame in last.journal]
    viewed = [[frame.id or 0 for frame in watched.frames] for watched in seen.watched]
    heard = [_places(seen.answer, said) for watched in seen.watched for said in watched.said or ()]
    missing = set(range(_due(seen, last, found))) - set(found)
    gone = _gone(seen, last)
    return Verdict(
        name=seen.name,
        dialect=seen.dialect.name,
        generation=last.generation,
        sent=seen.sent,
        saved=len(found),
        lost=max(len(missing), len(gone)) + sum(map(_skipped, viewed)) + sum(len(_holes(places)) for places in heard),
        duplicated=max(_repeated(found), _repeated(numbers)) + sum(map(_repeated, [*viewed, *heard])),
        disordered=max(_backwards(found), _backwards(numbers)) + sum(map(_backwards, [*viewed, *heard])),
        stuck=1 if seen.overdue or not last.ended else 0,
        left_open=seen.left_open,
        recovered=seen.recovered,
        broken=(
            *_about_the_end(seen, last),
            *_about_the_journal(seen, last, gone),
            *_about_the_answer(seen, last, spoken),
            *_about_the_upstream(seen, last),
            *_about_viewers(seen, last),
            *about_the_bill(seen, last),
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
        dialect=seen.dialect.name,
        generation=None,
        sent=seen.sent,
        saved=0,
        lost=len(seen.answer),
        duplicated=0,
        disordered=0,
        stuck=1,
        left_open=seen.left_open,
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
    if seen.left_open:
        yield f"expected no upstream call to stay open, {seen.left_open} of {seen.calls} did"
    if promise.recover is not None and seen.recovered is not None and seen.recovered > promise.recover:
        yield f"expected it to go on within {promise.recover:g} s, it took {seen.recovered:.1f} s"


def _about_the_journal(seen: Observation, last: Saved, gone: Sequence[int]) -> Iterator[str]:
    numbers = [frame.id for frame in last.journal]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"expected the journal's events to be 1, 2, 3 and so on, {_first_odd(numbers)}"
    unnamed = [frame.id for frame in last.journal if frame.name != seen.dialect.event_name(json.loads(frame.data))]
    if unnamed:
        yield f"expected every event to have its API's name, {len(unnamed)} have not, first {unnamed[0]}"
    if last.ended and last.last != _last(last.journal):
        yield f"expected the generation's last event to be {_last(last.journal)}, the journal's, it says {last.last}"
    if last.text != "".join(text_of(seen.dialect, frame) for frame in last.journal):
        yield "expected the text of the journal's segments to be that of their frames, it is not"
    if gone:
        shown = ", ".join(map(str, gone[:5])) + (", …" if len(gone) > 5 else "")
        yield f"expected every event that had been committed to stay in the journal, {len(gone)} have not: {shown}"
    if seen.promise.no_more and (others := _by_others(seen, last)):
        told = "expected no other attempt to write after the answer's first words"
        yield f"{told}, {len(others)} events are another's, first {others[0]}"


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


def _about_the_upstream(seen: Observation, last: Saved) -> Iterator[str]:
    """Of an answer that the upstream keeps: whether the journal has the same events, to the byte."""
    if seen.generated is None:
        return
    here = [frame.data for frame in last.journal]
    there = seen.generated if last.state == "completed" else seen.generated[: len(here)]
    odd = next((n for n, (a, b) in enumerate(zip_longest(here, there), 1) if a != b), None)
    if odd is not None:
        yield (
            f"expected the journal's {len(here)} events to be the {len(there)} of the upstream to the byte, "
            f"event {odd} is not"
        )


def _about_viewers(seen: Observation, last: Saved) -> Iterator[str]:
    for place, watched in enumerate(seen.watched, 1):
        viewer = f"viewer {place} ({watched.wire})"
        if watched.said is None or watched.frames:
            yield from _about_numbers(viewer, watched, last)
        if watched.said is not None:
            yield from _about_words(viewer, watched, last)
        if not last.ended:
            continue
        due = {"completed": DONE, "stopped": DONE, "incomplete": last.code}.get(last.state)
        if watched.end is None:
            yield f"expected {viewer} to be told the end, it was told nothing"
        elif due is not None and watched.end != due and not (watched.end == GONE and watched.said is not None):
            yield f"expected {viewer} to be told {due}, since it is {last.state}; it was told {watched.end}"
        elif last.state == "failed" and watched.end == DONE:
            yield f"expected {viewer} to be told of the failure, it was told {DONE}"


def _about_numbers(viewer: str, watched: Watched, last: Saved) -> Iterator[str]:
    numbers = [frame.id for frame in watched.frames]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"expected {viewer} to see events 1, 2, 3 and so on, {_first_odd(numbers)}"
    if last.ended and watched.said is None and _last(watched.frames) != _last(last.journal):
        yield f"expected {viewer} to see all {_last(last.journal)} events, it saw {_last(watched.frames)}"


def _about_words(viewer: str, watched: Watched, last: Saved) -> Iterator[str]:
    *cut, whole = watched.said or ("",)
    for said in (*cut, whole):
        if last.ended and not last.content.startswith(said):
            yield f"expected {viewer} to read how the message begins, {_difference(last.content, said)}"
    if last.ended and watched.end == DONE and whole != last.content:
        yield f"expected {viewer} to read all {len(last.content)} characters, it read {len(whole)}"


def _gone(seen: Observation, last: Saved) -> list[int]:
    """The events that a viewer or an earlier reading saw, and that are missing or different in the journal now."""
    then = [(frames, True) for frames in (*seen.kept, *(reading.journal for reading in seen.readings))]
    then += [(watched.frames, watched.exact) for watched in seen.watched if watched.said is None]
    gone = set()
    for exact in (True, False):
        now = {_form(frame, exact) for frame in last.journal}
        seen_then = (frame for frames, its in then if its is exact for frame in frames)
        gone |= {frame.id or 0 for frame in seen_then if _form(frame, exact) not in now}
    return sorted(gone)


def _by_others(seen: Observation, last: Saved) -> list[int]:
    """The events that another attempt wrote than the one that wrote the answer's first words.

    The first attempt may have sent more before it was lost than was committed then.
    """
    written = zip(last.journal, last.attempts, strict=True)
    first = next((attempt for frame, attempt in written if text_of(seen.dialect, frame)), None)
    return [frame.id or 0 for frame, attempt in written if attempt != first]  # those that are left, after the words


def _form(frame: Frame, exact: bool) -> tuple[int | None, str, str]:
    """An event for comparison: its number, name and data, in which line ends mean nothing (RFC 8259, section 2).

    If it is not `exact`, a client has parsed its data and shows what that says.
    """
    data = frame.data.replace("\n", "") if exact else json.dumps(json.loads(frame.data), sort_keys=True)
    return frame.id, frame.name, data


def _places(answer: Sequence[str], said: str) -> list[int]:
    """The places in the answer of the tokens that a text consists of. What is no token is passed over."""
    places = {token: place for place, token in enumerate(answer)}
    longest_first = sorted(answer, key=len, reverse=True)
    return [places[token] for token in re.findall("|".join(map(re.escape, longest_first)), said)] if said else []


def _holes(places: Sequence[int]) -> set[int]:
    """The tokens that are missing before the last one."""
    return set(range(max(places, default=-1) + 1)) - set(places)


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
