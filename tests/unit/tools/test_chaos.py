"""The fault matrix detects every broken promise: each one is broken in an observation, and is named and counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from chaos.__main__ import main
from chaos.dialects import DIALECTS, DONE, ChatCompletions, Dialect, text_of
from chaos.fault import Fault
from chaos.faults import FAULTS, CommitsFail, ReadsFail, UserHogs, WorkerDiesWithForty
from chaos.judging import judge
from chaos.plan import FULL, SHORT, Plan
from chaos.promise import Observation, Promise, Verdict, Watched
from chaos.question import Question
from chaos.report import Played, conclusion, progress, table, table_of_dialects
from chaos.round import Round
from chaos.saved import Saved
from chaos.stage import errors
from chaos.upstreams import upstreams
from chaos.viewer import Sight
from chaos.wires import GONE, TOO_EARLY
from lib.runtime import catalog
from local.client import Frame, Stream
from local.demo_upstream import DemoUpstream

CHAT = ChatCompletions()
QUESTION = Question(name="asked", dialect=CHAT, tokens=40, rate=60)
OPENING, CLOSING = "", ""
BREAKS_OFF = Promise(states=frozenset({"incomplete"}))


def frame(number: int, text: str) -> Frame:
    return Frame(number, json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}))


def journal(texts: list[str] | tuple[str, ...]) -> tuple[Frame, ...]:
    return tuple(frame(number, text) for number, text in enumerate(texts, 1))


def whole() -> list[str]:
    """An answer's events: the role's, the tokens', and the one with the finish reason."""
    return [OPENING, *QUESTION.answer, CLOSING]


def saved(frames: tuple[Frame, ...], **changes: Any) -> Saved:
    said = "".join(text_of(CHAT, each) for each in frames)
    usual = {
        "generation": "g1",
        "state": "completed",
        "reason": None,
        "last": frames[-1].id if frames else 0,
        "content": said,
        "journal": frames,
        "text": said,
        "mark": "unchanged",
    }
    every = {**usual, "code": changes.get("reason"), **changes}
    return Saved(**{"message_state": every["state"], "final": every["state"], **every})


def observed(frames: tuple[Frame, ...], **changes: Any) -> Observation:
    """What is seen of a generation whose journal is `frames`, by all who look."""
    state = {name: changes.pop(name) for name in ("state", "reason", "code") if name in changes}
    end = DONE if state.get("state", "completed") == "completed" else state.get("code", state.get("reason"))
    usual: dict[str, Any] = {
        "name": QUESTION.name,
        "dialect": CHAT,
        "promise": Promise(),
        "answer": QUESTION.answer,
        "sent": len(QUESTION.answer),
        "calls": 1,
        "kept": (frames[:10],),
        "readings": (saved(frames, **state), saved(frames, **state)),
        "watched": (Watched(wire="native", frames=frames, end=end),),
    }
    return Observation(**{**usual, **changes})


def counts(verdict: Verdict) -> tuple[int, int, int, int]:
    return verdict.lost, verdict.duplicated, verdict.disordered, verdict.stuck


WHOLE = journal(whole())
ALL_IN_ORDER = (0, 0, 0, 0)


def test_an_answer_that_is_all_there_breaks_no_promise() -> None:
    verdict = judge(observed(WHOLE))
    assert verdict.broken == ()
    assert counts(verdict) == ALL_IN_ORDER
    assert (verdict.sent, verdict.saved, verdict.generation) == (40, 40, "g1")


def test_a_part_of_an_answer_breaks_no_promise_where_it_may_break_off() -> None:
    frames = journal(whole()[:20])
    verdict = judge(observed(frames, state="incomplete", reason="worker_lost", promise=BREAKS_OFF))
    assert verdict.broken == ()
    assert (counts(verdict), verdict.saved) == (ALL_IN_ORDER, 19)


def test_an_event_that_is_missing_is_lost() -> None:
    frames = WHOLE[:20] + WHOLE[21:]
    verdict = judge(observed(frames))
    assert counts(verdict) == (2, 0, 0, 0)  # in the journal, and at the viewer
    assert (
        "expected the journal's events to be 1, 2, 3 and so on, found 20, 22, 23 where 21 should be" in verdict.broken
    )
    assert any("how the upstream's answer begins" in sentence for sentence in verdict.broken)


def test_a_token_is_lost_even_where_the_numbers_hide_it() -> None:
    texts = whole()
    del texts[20]
    assert counts(judge(observed(journal(texts)))) == (1, 0, 0, 0)


def test_a_token_within_a_part_is_lost_though_no_more_was_promised() -> None:
    texts = whole()[:20]
    del texts[10]
    verdict = judge(observed(journal(texts), state="incomplete", reason="worker_lost", promise=BREAKS_OFF))
    assert counts(verdict) == (1, 0, 0, 0)


@pytest.mark.parametrize("who", ["the journal, before", "a viewer"])
def test_what_was_committed_and_is_gone_is_lost(who: str) -> None:
    frames = journal(whole()[:20])
    seen: dict[str, Any] = {"kept": (WHOLE[:25],)} if who == "the journal, before" else {"watched": watched(WHOLE[:25])}
    verdict = judge(observed(frames, state="incomplete", reason="worker_lost", promise=BREAKS_OFF, **seen))
    assert verdict.lost == 5
    assert "expected every event that had been committed to stay in the journal, 5 have not: 21, 22, 23, 24, 25" in (
        verdict.broken
    )


def test_a_committed_event_that_has_other_bytes_now_is_lost() -> None:
    changed = (*WHOLE[:5], Frame(6, WHOLE[5].data + " "), *WHOLE[6:])
    verdict = judge(observed(WHOLE, kept=(changed[:10],)))
    assert verdict.lost == 1
    assert any("1 have not: 6" in sentence for sentence in verdict.broken)


def test_what_is_missing_of_an_answer_that_must_complete_is_lost() -> None:
    frames = journal(whole()[:20])
    verdict = judge(observed(frames, state="incomplete", reason="worker_lost"))
    assert counts(verdict) == (40 - 19, 0, 0, 0)
    assert verdict.broken == ("expected it to end as completed, it is incomplete (worker_lost)",)


def test_a_completed_answer_that_is_not_whole_is_named() -> None:
    verdict = judge(observed(journal(whole()[:20])))
    assert verdict.lost == 21
    assert any("expected the completed answer to be whole" in sentence for sentence in verdict.broken)


def test_an_event_that_is_there_twice_is_a_duplicate() -> None:
    verdict = judge(observed(WHOLE[:20] + WHOLE[19:]))
    assert counts(verdict)[1] == 2  # once in the journal, once at the viewer
    assert any("found 20, 20, 21 where 21 should be" in sentence for sentence in verdict.broken)


def test_a_token_that_is_repeated_is_a_duplicate_even_where_the_numbers_hide_it() -> None:
    texts = whole()
    texts.insert(20, texts[19])
    verdict = judge(observed(journal(texts)))
    assert counts(verdict) == (0, 1, 0, 0)
    assert any("how the upstream's answer begins" in sentence for sentence in verdict.broken)


def test_a_viewer_that_sees_an_event_twice_is_a_duplicate() -> None:
    verdict = judge(observed(WHOLE, watched=watched(WHOLE[:20] + WHOLE[15:], end=DONE)))
    assert counts(verdict) == (0, 5, 1, 0)
    sentence = "expected viewer 1 (native) to see events 1, 2, 3 and so on, found 20, 16, 17 where 21 should be"
    assert verdict.broken == (sentence,)


def test_a_viewer_that_misses_an_event_is_named() -> None:
    verdict = judge(observed(WHOLE, watched=watched(WHOLE[:20] + WHOLE[21:], end=DONE)))
    assert counts(verdict) == (1, 0, 0, 0)
    sentence = "expected viewer 1 (native) to see events 1, 2, 3 and so on, found 20, 22, 23 where 21 should be"
    assert verdict.broken == (sentence,)


def test_tokens_that_changed_places_are_out_of_order() -> None:
    texts = whole()
    texts[19], texts[20] = texts[20], texts[19]
    verdict = judge(observed(journal(texts)))
    assert counts(verdict) == (0, 0, 1, 0)
    assert any("how the upstream's answer begins" in sentence for sentence in verdict.broken)


def test_events_that_changed_places_are_out_of_order() -> None:
    frames = (*WHOLE[:19], WHOLE[20], WHOLE[19], *WHOLE[21:])
    assert counts(judge(observed(frames, watched=watched(WHOLE, end=DONE)))) == (0, 0, 1, 0)


def test_a_generation_that_does_not_end_is_stuck() -> None:
    frames = journal(whole()[:20])
    stuck = saved(frames, state="streaming", final=None)
    verdict = judge(observed(frames, readings=(stuck,), watched=watched(frames), promise=BREAKS_OFF))
    assert counts(verdict) == (0, 0, 0, 1)
    assert verdict.broken == ("expected it to have ended as incomplete, it is stuck: streaming, after event 20",)


def test_a_generation_that_ends_too_late_is_stuck() -> None:
    verdict = judge(observed(WHOLE, overdue=True))
    assert verdict.stuck == 1
    assert verdict.broken == ("expected it to have ended as completed in time, it took longer; it is completed now",)


def test_a_generation_that_never_was_is_stuck_and_lost() -> None:
    verdict = judge(observed(WHOLE, readings=()))
    assert counts(verdict) == (40, 0, 0, 1)
    assert verdict.broken == ("expected a generation and its message in Firestore, found none",)


def test_an_end_that_changes_is_named() -> None:
    frames = journal(whole()[:20])
    broken_off = saved(frames, state="incomplete", reason="worker_lost", mark="before")
    verdict = judge(observed(WHOLE, readings=(broken_off, saved(WHOLE, mark="after"))))
    assert verdict.broken == (
        "expected nothing to change after the end, found it incomplete with 20 events and then completed with 42, "
        "or written again",
    )


def test_a_message_that_is_written_again_after_the_end_is_named() -> None:
    readings = (saved(WHOLE, mark="before"), saved(WHOLE, mark="after"))
    assert any("nothing to change after the end" in each for each in judge(observed(WHOLE, readings=readings)).broken)


def test_a_generation_whose_parts_disagree_on_the_end_is_named() -> None:
    torn = saved(WHOLE, message_state="incomplete")
    assert any("expected one end" in each for each in judge(observed(WHOLE, readings=(torn,))).broken)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"content": "other"}, "expected the message to be the journal's text"),
        ({"text": "other"}, "expected the text of the journal's segments to be that of their frames"),
        ({"last": 7}, "expected the generation's last event to be 42, the journal's, it says 7"),
    ],
    ids=["message", "segments", "last"],
)
def test_what_firestore_says_in_two_places_must_agree(changes: dict[str, Any], sentence: str) -> None:
    verdict = judge(observed(WHOLE, readings=(saved(WHOLE, **changes),)))
    assert any(each.startswith(sentence) for each in verdict.broken)


@pytest.mark.parametrize(
    ("state", "reason", "end", "due"),
    [
        ("completed", None, "worker_lost", DONE),
        ("incomplete", "worker_lost", DONE, "worker_lost"),
    ],
)
def test_a_viewer_that_is_told_another_end_is_named(state: str, reason: str | None, end: str, due: str) -> None:
    promise = Promise(states=frozenset({state}))
    seen = observed(WHOLE, state=state, reason=reason, promise=promise, watched=watched(WHOLE, end=end))
    sentence = f"expected viewer 1 (native) to be told {due}, since it is {state}; it was told {end}"
    assert judge(seen).broken == (sentence,)


def test_a_viewer_that_is_not_told_the_end_is_named() -> None:
    verdict = judge(observed(WHOLE, watched=watched(WHOLE[:30])))
    assert verdict.broken == (
        "expected viewer 1 (native) to see all 42 events, it saw 30",
        "expected viewer 1 (native) to be told the end, it was told nothing",
    )


def test_a_second_upstream_call_is_named_where_one_was_promised() -> None:
    verdict = judge(observed(WHOLE, calls=2, promise=Promise(calls=1)))
    assert verdict.broken == ("expected 1 upstream calls at the most, there were 2",)


def test_an_upstream_call_that_stays_open_is_named() -> None:
    verdict = judge(observed(WHOLE, left_open=1))
    assert verdict.left_open == 1
    assert verdict.broken == ("expected no upstream call to stay open, 1 of 1 did",)


def test_a_viewer_without_numbers_that_hears_all_of_it_breaks_no_promise() -> None:
    whole = "".join(QUESTION.answer)
    for seen in (heard(whole), heard(whole[:50], "", whole), heard(whole[:50], end=GONE)):
        verdict = judge(observed(WHOLE, watched=seen))
        assert (counts(verdict), verdict.broken) == (ALL_IN_ORDER, ())


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda tokens: tokens[:20] + tokens[21:], (1, 0, 0, 0)),
        (lambda tokens: tokens[:20] + tokens[19:], (0, 1, 0, 0)),
        (lambda tokens: (*tokens[:19], tokens[20], tokens[19], *tokens[21:]), (0, 0, 1, 0)),
    ],
    ids=["lost", "duplicated", "out of order"],
)
def test_what_a_viewer_without_numbers_hears_is_judged_by_its_tokens(change: Any, count: tuple[int, ...]) -> None:
    verdict = judge(observed(WHOLE, watched=heard("".join(change(QUESTION.answer)))))
    assert counts(verdict) == count
    assert any("viewer 1 (ai_sdk) to read how the message begins" in sentence for sentence in verdict.broken)


def test_a_viewer_without_numbers_that_is_told_the_end_too_early_is_named() -> None:
    most = "".join(QUESTION.answer[:-1])
    (sentence,) = judge(observed(WHOLE, watched=heard(most))).broken
    assert sentence.startswith("expected viewer 1 (ai_sdk) to read all ")
    (sentence,) = judge(observed(WHOLE, watched=heard(most, end=TOO_EARLY))).broken
    assert sentence == f"expected viewer 1 (ai_sdk) to be told {DONE}, since it is completed; it was told {TOO_EARLY}"


def test_an_event_that_a_client_has_parsed_may_be_written_otherwise_and_say_nothing_else() -> None:
    again = tuple(replace(each, data=json.dumps(json.loads(each.data), indent=1)) for each in WHOLE)
    parsed = Watched(wire="callable", frames=again, end=DONE, exact=False)
    assert judge(observed(WHOLE, watched=(parsed,))).broken == ()
    assert judge(observed(WHOLE, watched=(replace(parsed, exact=True),))).lost == len(WHOLE)
    other = (*again[:5], frame(6, "other"), *again[6:])
    assert judge(observed(WHOLE, watched=(replace(parsed, frames=other),))).lost == 1


def test_an_event_with_another_name_is_another_event_and_not_its_api_s() -> None:
    named = (*WHOLE[:5], replace(WHOLE[5], name="ping"), *WHOLE[6:])
    assert judge(observed(WHOLE, watched=watched(named, end=DONE))).lost == 1
    assert judge(observed(named)).broken == ("expected every event to have its API's name, 1 have not, first 6",)


def test_an_answer_that_continues_too_late_is_named() -> None:
    verdict = judge(observed(WHOLE, recovered=31.0, promise=Promise(recover=30.0)))
    assert verdict.broken == ("expected it to go on within 30 s, it took 31.0 s",)


@pytest.mark.parametrize(
    ("attempts", "told"),
    [
        ((1,) * 20, []),  # the lost one's last commit may arrive after it is lost
        ((1, *(2,) * 19), []),  # the first one had said nothing yet
        (
            (1,) * 18 + (2, 3),
            ["expected no other attempt to write after the answer's first words, 2 events are another's, first 19"],
        ),
    ],
)
def test_where_nobody_may_continue_only_the_attempt_with_the_first_words_writes(
    attempts: tuple[int, ...], told: list[str]
) -> None:
    frames = journal(whole()[:20])
    promise = replace(BREAKS_OFF, no_more=True)
    ended = saved(frames, state="incomplete", reason="worker_lost", attempts=attempts)
    seen = observed(frames, readings=(ended,), watched=watched(frames, "worker_lost"), promise=promise)
    assert list(judge(seen).broken) == told


def test_fewer_tokens_than_were_sent_before_the_fault_are_lost() -> None:
    promise = replace(BREAKS_OFF, tokens=25)
    verdict = judge(observed(journal(whole()[:20]), state="incomplete", reason="upstream_idle", promise=promise))
    assert counts(verdict) == (6, 0, 0, 0)
    assert any("expected the 25 tokens that were sent before the fault" in each for each in verdict.broken)


def test_a_run_in_which_a_promise_was_broken_names_it_and_fails() -> None:
    good, bad = judge(observed(WHOLE)), judge(observed(WHOLE[:20] + WHOLE[21:]))
    every = [played("worker killed", good), played("api killed", good, bad, broken=("expected more",))]
    words, status = conclusion(every)
    assert status == 1
    assert "api killed, round 1: expected more" in words
    assert (
        "api killed, round 1: generation g1 (asked, chat_completions): expected the journal's events to be 1, 2, 3"
        in words
    )
    assert "worker killed" not in words
    assert "PROMISES BROKEN" in progress(every[1], 1)
    assert "PROMISES BROKEN" not in progress(every[0], 1)


def test_a_run_in_which_every_promise_was_kept_succeeds() -> None:
    assert conclusion([played("api killed", judge(observed(WHOLE)))]) == ("Every promise was kept.", 0)


def test_the_table_has_a_row_a_fault_with_sums_and_the_median() -> None:
    good = judge(observed(WHOLE))
    lost = judge(observed(WHOLE[:20] + WHOLE[21:]))
    every = [
        played("worker killed", replace(good, recovered=1.0), lost),
        played("api killed", good, recovery=None),
        played("worker killed", replace(good, recovered=9.0), replace(good, recovered=2.0), number=2),
    ]
    heading, _, killed, api = table(every).splitlines()
    assert heading.split()[:5] == ["fault", "rounds", "sent", "saved", "lost"]
    assert killed.split() == ["worker", "killed", "2", "160", "159", "2", "0", "0", "0", "0", "2.0", "the", "kill"]
    assert api.split() == ["api", "killed", "1", "40", "40", "0", "0", "0", "0", "0", "-"]


def test_the_table_of_dialects_has_a_row_each_over_all_faults() -> None:
    good = judge(observed(WHOLE))
    bad = replace(judge(observed(WHOLE, left_open=2)), dialect="messages")
    every = [played("worker killed", good, bad), played("api killed", good)]
    heading, _, chat, messages = table_of_dialects(every).splitlines()
    assert " ".join(heading.split()) == "dialect asked sent saved lost duplicated out of order stuck left open"
    assert chat.split() == ["chat_completions", "2", "80", "80", "0", "0", "0", "0", "0"]
    assert messages.split() == ["messages", "1", "40", "40", "0", "0", "0", "0", "2"]


def test_a_round_asks_the_same_of_the_same_seed_and_something_else_of_another() -> None:
    for fault in FAULTS:
        first, again, other = asked(fault(), 7), asked(fault(), 7), asked(fault(), 8)
        assert first == again
        assert first != other


def test_every_round_asks_in_all_dialects_in_an_order_of_its_own() -> None:
    for plan in (FULL, SHORT):
        orders = set()
        for fault in FAULTS:
            dialects = [each.question.dialect for each in unplayed(fault(), 7, plan).asked]
            assert set(dialects) == set(fault.dialects), fault.key
            orders.add(tuple(each.name for each in dialects[: len(fault.dialects)]))
        assert len(orders) > 1


def test_a_run_has_viewers_of_every_protocol_in_every_dialect() -> None:
    """But where times are measured all of them stream in the model's own API."""
    used = set()
    for fault in FAULTS:
        turn = unplayed(fault(), 7)
        here = {(each.question.dialect.name, viewer.wire.name) for each in turn.asked for viewer in each.viewers}
        assert not fault.native or {wire for _, wire in here} == {"native", "responses"}
        used |= here
    wires = ("native", "whole", "callable", "ai_sdk", "responses")
    assert used == {(dialect.name, wire) for dialect in DIALECTS for wire in wires}


def test_the_upstreams_of_a_stage_speak_a_dialect_each(tmp_path: Path) -> None:
    file = tmp_path / "upstreams.toml"
    file.write_text(upstreams("http://here", 3.0))
    there = catalog.load({"UPSTREAMS_FILE": str(file)})
    for dialect in DIALECTS:
        for resumable in (False, True):
            question = replace(QUESTION, dialect=dialect, resumable=resumable)
            upstream = there.serving(question.model)
            assert upstream.speaks == (dialect.name,)
            assert upstream.background is question.background is (resumable and dialect.name == "responses")
            assert (upstream.prefill is not None) is (resumable and not question.background)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_an_answer_of_the_demo_upstream_says_its_tokens_in_every_dialect(dialect: Dialect) -> None:
    question = replace(QUESTION, dialect=dialect, rate=0.0)
    with DemoUpstream() as upstream:

        def post(streamed: bool, **more: Any) -> requests.Response:
            body = {**replace(question, streamed=streamed).body, **more}
            return requests.post(upstream.url + dialect.path("m", streamed), json=body, stream=True, timeout=30)

        assert dialect.text(post(streamed=False).json()) == "".join(question.answer)
        frames = list(Stream(post(streamed=True)).frames())
        assert dialect.code(post(streamed=True, demo={"unknown": 1}).json())
    assert (frames[-1].data == dialect.mark) is (dialect.mark is not None)
    events = [each for each in frames if each.data != dialect.mark]
    assert [text for each in events if (text := text_of(dialect, each))] == list(question.answer)
    assert all(dialect.event_name(json.loads(each.data)) == each.name for each in events)


def test_an_answer_in_full_has_the_length_and_the_pace_that_its_round_needs() -> None:
    for fault in FAULTS:
        low, high = fault().tokens(FULL)
        for question in asked(fault(), 7):
            assert low <= question.tokens <= high


def test_every_fault_has_a_name_of_its_own() -> None:
    assert len({fault.key for fault in FAULTS}) == len({fault.title for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize("wrong", [["--faults", "no-such"], ["--rounds", "0"], ["--seed", "x"]])
def test_what_is_asked_for_wrongly_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(wrong)
    assert refused.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_of_a_log_errors_are_shown_with_their_stacks_and_what_was_printed_past_it() -> None:
    stack = ["Traceback (most recent call last):", "  File x", "    y", "ValueError"]
    log = [
        json.dumps({"severity": "WARNING", "message": "a warning"}),
        json.dumps({"severity": "ERROR", "message": "request failed", "stack_trace": "\n".join(stack)}),
        json.dumps({"severity": "CRITICAL", "message": "WORKER TIMEOUT"}),
        "Segmentation fault",
        "7",
    ]
    assert errors("\n".join(log)) == [
        "ERROR request failed",
        *stack,
        "CRITICAL WORKER TIMEOUT",
        "Segmentation fault",
        "7",
    ]


def watched(frames: tuple[Frame, ...], end: str | None = None) -> tuple[Watched, ...]:
    return (Watched(wire="native", frames=frames, end=end),)


def heard(*said: str, end: str | None = DONE) -> tuple[Watched, ...]:
    """What a viewer without numbers has heard, a response each."""
    return (Watched(wire="ai_sdk", said=said, end=end),)


def played(title: str, *verdicts: Verdict, **changes: Any) -> Played:
    usual: dict[str, Any] = {"recovery": "the kill", "number": 1, "seconds": 1.0}
    return Played(title=title, verdicts=verdicts, **{**usual, **changes})


def unplayed(fault: Fault, seed: int, plan: Plan = FULL, **stage: Any) -> Round:
    """A round that is not played, so that nothing need be there but what of the `stage` is given."""
    nothing: Any = SimpleNamespace(plan=plan, stack=SimpleNamespace(url="http://nowhere"), **stage)
    turn = Round(nothing, fault, 1, seed)
    for each in turn.asked:
        for viewer in each.viewers:
            viewer.close()
    return turn


def asked(fault: Fault, seed: int) -> list[Question]:
    """What a round of the full plan asks."""
    return [each.question for each in unplayed(fault, seed).asked]


def test_of_a_worker_lost_with_40_answers_it_is_the_others_first_token_that_counts() -> None:
    fault = WorkerDiesWithForty()
    turn = unplayed(fault, 7)
    assert len(turn.asked) - len(turn.later) == 40
    lost, other = turn.asked[0], turn.later[0]
    for each in (lost, other):
        each.asked_at = 100.0
        each.viewers[0].seen += [Sight(WHOLE[1], at, 100.0) for at in (103.5, 104.0)]
    assert fault.recovered(turn, other) == 3.5
    assert fault.promise(FULL, other.question) == Promise(calls=1, recover=FULL.first)
    assert fault.recovered(turn, lost) is None
    assert fault.promise(FULL, lost.question).recover is None
    other.viewers[0].seen.clear()
    assert fault.recovered(turn, other) is None


def test_of_a_user_who_hogs_it_is_the_others_lag_that_counts_and_it_may_double() -> None:
    sent = [100.0 + number / 10 for number in range(1000)]
    fault = UserHogs()
    turn = unplayed(fault, 7, recorded=lambda _: sent)
    watched = next(each for each in turn.asked if each.question.dialect.name == CHAT.name)
    assert watched.question.body["demo"]["record"] is True
    for number, (text, at) in enumerate(zip(watched.question.answer, sent, strict=False), 1):
        lag = 8.0 if 20 <= number - 1 < 40 else 2.0
        watched.viewers[0].seen.append(Sight(frame(number, text), at + lag, 100.0))
    fault._began, fault._ended, fault._usual = sent[20], sent[40], 2.0
    assert fault.recovered(turn, watched) == pytest.approx(8.0)
    assert fault.promise(FULL, watched.question).recover == 4.0
    fault._began, fault._ended = sent[60], sent[80]
    assert fault.recovered(turn, watched) == pytest.approx(2.0)
    assert judge(observed(WHOLE, recovered=8.0, promise=fault.promise(FULL, watched.question))).broken


def test_the_faults_of_reads_and_commits_must_strike_or_the_round_shows_nothing() -> None:
    for fault, struck in ((ReadsFail(), {"reads": 3}), (CommitsFail(), {"UNAVAILABLE, done": 3})):
        made: dict[str, int] = {"contention": 1}
        turn = unplayed(fault, 7, firestore_made=lambda made=made: made)
        fault.settle(turn)
        assert len(turn.broken) == 1
        made |= struck
        fault.settle(turn)
        assert len(turn.broken) == 1


def test_a_viewer_is_told_the_upstreams_own_code_where_it_sent_one() -> None:
    frames = journal(whole()[:20])
    theirs = {"state": "incomplete", "reason": "upstream_error", "code": "server_error", "promise": BREAKS_OFF}
    assert judge(observed(frames, **theirs)).broken == ()
    (sentence,) = judge(observed(frames, **theirs, watched=watched(frames, end="upstream_error"))).broken
    assert "expected viewer 1 (native) to be told server_error, since it is incomplete" in sentence
