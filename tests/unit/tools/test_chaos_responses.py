"""The fault matrix in OpenAI's Responses: answers in the background, and events of its own."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from chaos.dialects import DONE, RESPONSES, ChatCompletions
from chaos.fault import MAX_ATTEMPTS
from chaos.faults import FAULTS, UpstreamFaults, WorkerFrozen, WorkerKilled, WorkerKilledInBackground
from chaos.judging import judge
from chaos.plan import FULL, SHORT, Plan
from chaos.promise import Observation, Promise, Watched
from chaos.question import Question
from chaos.round import Round
from chaos.saved import Saved
from chaos.stage import data_in
from chaos.viewer import Sight
from chaos.wires import Begun, Over, Responses, Told
from local.client import Client, Frame
from local.demo_upstream import DemoUpstream

QUESTION = Question(name="asked", dialect=RESPONSES, tokens=40, rate=0.0)
BACKGROUND = replace(QUESTION, resumable=True)
Json = dict[str, Any]


def generated(upstream: DemoUpstream, **fault: Any) -> tuple[str, ...]:
    """The events of the whole answer, as the upstream sends them."""
    body = replace(QUESTION, fault=fault or None).body
    return data_in(requests.post(upstream.url + RESPONSES.path("", True), json=body, timeout=30).content)


@pytest.fixture(scope="module")
def events() -> tuple[str, ...]:
    with DemoUpstream() as upstream:
        return generated(upstream)


def journal(events: tuple[str, ...]) -> tuple[Frame, ...]:
    return tuple(Frame(number, data, json.loads(data)["type"]) for number, data in enumerate(events, 1))


def saved(frames: tuple[Frame, ...], state: str = "completed") -> Saved:
    said = "".join(RESPONSES.text(json.loads(frame.data)) for frame in frames)
    code = None if state == "completed" else "worker_lost"
    return Saved(
        generation="g1",
        state=state,
        reason=code,
        code=code,
        last=len(frames),
        message_state=state,
        content=said,
        journal=frames,
        text=said,
        final=state,
        mark="",
    )


def observed(events: tuple[str, ...], state: str = "completed", **changes: Any) -> Observation:
    frames = journal(events)
    usual: Json = {
        "name": QUESTION.name,
        "dialect": RESPONSES,
        "promise": Promise(states=frozenset({state}), calls=1),
        "answer": QUESTION.answer,
        "sent": QUESTION.tokens,
        "calls": 1,
        "kept": (),
        "readings": (saved(frames, state),),
        "watched": (),
        "generated": events,
    }
    return Observation(**{**usual, **changes})


def test_a_journal_that_has_the_upstreams_own_events_breaks_no_promise(events: tuple[str, ...]) -> None:
    assert judge(observed(events)).broken == ()
    broken_off = observed(events[:20], "incomplete", generated=events)
    assert judge(broken_off).broken == ()


def test_an_answer_in_the_background_that_is_not_the_upstreams_to_the_byte_is_named(events: tuple[str, ...]) -> None:
    other = (*events[:9], events[9].replace("{", "{ ", 1), *events[10:])
    count = len(events)
    words = f"expected the journal's {count} events to be the {count} of the upstream to the byte, event 10 is not"
    assert words in judge(observed(events, generated=other)).broken
    for more, less in ((events, events[:-1]), (events[:-1], events)):
        (sentence,) = judge(observed(more, generated=less)).broken
        assert sentence.endswith(f"to the byte, event {count} is not")
    assert judge(observed(events[:20], "incomplete", generated=other)).broken


def test_a_second_generation_is_named(events: tuple[str, ...]) -> None:
    assert judge(observed(events, calls=2)).broken == ("expected 1 upstream calls at the most, there were 2",)


def test_a_viewer_whose_events_are_rendered_is_judged_by_their_numbers_and_by_what_they_say(
    events: tuple[str, ...],
) -> None:
    rendered = tuple(Frame(number, "{}") for number in range(1, 100))
    whole = "".join(QUESTION.answer)
    seen = Watched(wire="responses", frames=rendered, said=(whole,), end=DONE, exact=False)
    assert judge(observed(events, watched=(seen,))).broken == ()
    gap = replace(seen, frames=rendered[:5] + rendered[6:])
    verdict = judge(observed(events, watched=(gap,)))
    assert (verdict.lost, len(verdict.broken)) == (1, 1)
    assert "expected viewer 1 (responses) to see events 1, 2, 3 and so on" in verdict.broken[0]
    short = replace(seen, said=(whole.removeprefix(QUESTION.answer[0]),))
    verdict = judge(observed(events, watched=(short,)))
    assert (verdict.lost, len(verdict.broken)) == (1, 2)


def test_the_worker_may_be_lost_and_what_is_generated_in_the_background_is_paid_once() -> None:
    for fault in (WorkerKilled(), WorkerKilledInBackground()):
        assert fault.promise(FULL, BACKGROUND) == Promise(calls=1, recover=FULL.recover)
    promise = WorkerKilled().promise(FULL, QUESTION)
    assert (promise.states, promise.no_more, promise.calls) == ({"completed", "incomplete"}, True, 1)
    # The upstream streams for who waits for a whole body too, and it may not have begun.
    assert WorkerKilled().promise(FULL, replace(BACKGROUND, streamed=False)) == Promise(recover=FULL.recover)
    promise = WorkerKilled().promise(FULL, replace(QUESTION, streamed=False))
    assert (promise.states, promise.calls) == ({"completed", "incomplete"}, MAX_ATTEMPTS)


def test_the_worker_is_killed_over_upstreams_that_generate_in_the_background() -> None:
    assert WorkerKilledInBackground in FAULTS
    questions = [asked.question for asked in unplayed(WorkerKilledInBackground(), 7).asked]
    assert all(question.background and question.streamed for question in questions)
    assert questions[0].model == "responses-resumable"


def test_an_answer_must_be_read_on_in_the_background_or_the_round_shows_nothing() -> None:
    fault, calls = WorkerKilledInBackground(), [{"method": "POST"}]
    turn = unplayed(fault, 7, calls=lambda: {"asked": calls})
    fault.settle(turn)
    assert len(turn.broken) == 1
    calls.append({"method": "GET"})
    fault.settle(turn)
    assert len(turn.broken) == 1


def test_of_an_upstreams_faults_those_that_pass_cost_no_second_generation_in_the_background() -> None:
    faults = UpstreamFaults()
    breaks = replace(QUESTION, fault={"kind": "break", "at": 9, "times": 1})
    assert faults.promise(FULL, replace(breaks, resumable=True)) == Promise(calls=1)
    for streamed in (True, False):
        promise = faults.promise(FULL, replace(breaks, streamed=streamed))
        assert promise == Promise(states=frozenset({"incomplete"}), tokens=9, calls=1)
    unended = faults.promise(FULL, replace(QUESTION, fault={"kind": "no_done"}))
    assert unended == Promise(states=frozenset({"incomplete"}), tokens=QUESTION.tokens, calls=1)
    assert faults.promise(FULL, replace(QUESTION, dialect=ChatCompletions(), fault={"kind": "no_done"})).calls == 1
    for seed in range(20):
        for asked in unplayed(faults, seed).asked:
            question = asked.question
            assert not (question.background and (question.fault or {})["kind"] in faults.not_in_background)


def test_who_asked_in_responses_goes_on_in_it_and_nobody_else_follows_in_it() -> None:
    for fault in FAULTS:
        for asked in unplayed(fault(), 7).asked:
            asker, *others = asked.viewers
            assert not (asked.question.dialect is RESPONSES and asker.wire.name == "native")
            assert isinstance(asker.wire, Responses) or not any(isinstance(each.wire, Responses) for each in others)


def test_an_answer_has_begun_with_its_first_word(events: tuple[str, ...]) -> None:
    asked = unplayed(WorkerKilledInBackground(), 7).asked[0]
    frames = journal(events)
    first = next(place for place, frame in enumerate(frames) if RESPONSES.text(json.loads(frame.data)))
    asked.viewers[0].seen += [Sight(frame, 1.0, 0.0) for frame in frames[:first]]
    assert first
    assert not asked.begun
    asked.viewers[0].seen.append(Sight(frames[first], 1.0, 0.0))
    assert asked.begun


def test_a_frozen_worker_wakes_while_its_rival_reads_on_in_the_background() -> None:
    for plan in (FULL, SHORT):
        questions = [asked.question for seed in range(9) for asked in unplayed(WorkerFrozen(), seed, plan).asked]
        lasting = {question.background: question.tokens / plan.rate > 1.5 * plan.frozen for question in questions}
        assert lasting == {True: True, False: False}


def test_an_answer_recovers_with_the_first_word_that_was_not_committed(events: tuple[str, ...]) -> None:
    turn = unplayed(WorkerKilledInBackground(), 7)
    asked = turn.asked[0]
    frames = journal(events)
    asked.kept.append(frames[:20])
    turn._since = 100.0
    assert turn.recovered(asked) is None
    later = [Frame(each.id + 7, each.data, each.name) for each in frames if each.id]  # by numbers of another protocol
    asked.viewers[0].seen += [Sight(each, 101.0 + at, 0.0) for at, each in enumerate(later)]
    assert turn.recovered(asked) == 101.0 + 20 - 100.0


def test_the_last_event_of_a_stream_has_no_id_and_is_a_part_of_it(events: tuple[str, ...]) -> None:
    *others, last = journal(events)
    *frames, end = told([*others, replace(last, id=None)])
    assert ([frame.id for frame in frames if isinstance(frame, Frame)], end) == (
        list(range(1, len(events) + 1)),
        Over(DONE),
    )


@pytest.mark.parametrize(
    ("data", "name", "end"),
    [
        ({"response": {"status": "failed", "error": {"code": "worker_lost"}}}, "response.failed", "worker_lost"),
        ({"error": {"code": None, "type": "server_error"}}, "error", "server_error"),
        ({"error": {"code": "still_running"}}, "error", None),
    ],
)
def test_an_error_of_the_response_or_of_the_service_tells_how_a_stream_ended(
    data: Json, name: str, end: str | None, events: tuple[str, ...]
) -> None:
    *frames, last = told([*journal(events[:5]), Frame(None, json.dumps({"type": name, **data}), name)])
    assert (len(frames), last) == (5, Over(end))


@pytest.mark.parametrize("kind", ["crlf", "no_space", "comments", "multi_line"])
def test_a_stream_says_the_same_however_it_is_written(kind: str) -> None:
    with DemoUpstream() as upstream:
        events = generated(upstream, kind=kind)
    said = [text for data in events if (text := RESPONSES.text(json.loads(data)))]
    assert said == list(QUESTION.answer)


def told(frames: list[Frame]) -> list[Told]:
    """What a viewer is told of a stream, after the generation's id."""
    response = requests.Response()
    response.headers["X-Generation-Id"] = "g1"
    lines = [
        (f"id: {frame.id}\n" if frame.id else "") + f"event: {frame.name}\ndata: {frame.data}\n\n" for frame in frames
    ]
    response.raw = io.BytesIO("".join(lines).encode())
    client = Client("http://nowhere", "alice")
    begun, *more = Responses(client, QUESTION).told(response, 0)
    client.session.close()
    assert begun == Begun("g1")
    return more


def unplayed(fault: Any, seed: int, plan: Plan = FULL, **stage: Any) -> Round:
    """A round that is not played."""
    nothing: Any = SimpleNamespace(plan=plan, stack=SimpleNamespace(url="http://nowhere"), **stage)
    turn = Round(nothing, fault, 1, seed)
    for asked in turn.asked:
        for viewer in asked.viewers:
            viewer.close()
    return turn
