"""The order of a chat's turns against the real emulator: what gets in, what leaves, and who sees to the next one."""

from __future__ import annotations

import uuid
from datetime import timedelta

import orjson
import pytest

from lib.cloud.documents import Create, Delete, Exists, Patch, Put, Stale, TakeOut
from lib.dialects import DIALECTS
from lib.domain.end import End, State
from lib.domain.errors import Conflict, TooManyRequests, Unavailable
from lib.domain.message import Said
from lib.domain.task import Task
from lib.domain.turn import TurnMode, turns_path
from lib.engine.claim import AwaitsTurn, Claim, Exhausted, claim
from lib.journal.ending import LOST_GRACE
from lib.journal.outbox import Outbox
from lib.journal.turns import BESIDE_SECONDS, TURN_SECONDS, Turns, ahead_of, seconds_behind
from lib.runtime.settings import Settings
from lib.serving.generations import Generations
from lib.serving.healing import REQUEUE_AFTER, Healer
from lib.serving.places import LONGEST_WAIT
from lib.serving.start_request import StartRequest
from lib.serving.tail import Tails
from local.token import PROJECT

COMPLETED = End(state=State.COMPLETED)
SAID = Said(fields={"content": "said"})
LATER = REQUEUE_AFTER + timedelta(seconds=1)


class Line:
    """Keeps the ids of what is to be worked now, and of what is to be looked after later. `away`: it refuses both."""

    def __init__(self):
        self.now, self.later, self.names = [], [], []
        self.away = False

    def enqueue(self, generation, version=None):
        self.schedule(Task.of(generation), 0.0)

    def schedule(self, task, seconds, name=None):
        if self.away:
            raise Unavailable("as the test asked")
        assert seconds in (0.0, BESIDE_SECONDS, TURN_SECONDS)
        if name not in self.names:
            (self.later if seconds else self.now).append(task.generation_id)
            self.names += [name] if name else []

    def deliver(self, *_):
        raise AssertionError("nothing is told here")


@pytest.fixture
def line():
    return Line()


@pytest.fixture
def healer_over(line, clock, store_over):
    def healer_over(over):
        store = store_over(over)
        return Healer(store, line, DIALECTS, clock, Outbox(store, line, ()))

    return healer_over


@pytest.fixture
def healer(healer_over, documents):
    return healer_over(documents)


@pytest.fixture
def service_over(stack, documents, store_over, listener, line, clock, healer_over):
    def service_over(over=documents, **environ):
        settings = Settings.from_env(
            {
                "GOOGLE_CLOUD_PROJECT": PROJECT,
                "FIRESTORE_EMULATOR_HOST": stack.firestore_host,
                "TASKS_EMULATOR_HOST": stack.tasks_host,
                "WORKER_URL": "https://worker.example",
                "TASKS_INVOKER": "invoker@example.com",
                "UPSTREAM_BASE_URL": "http://127.0.0.1:9/v1",
                "UPSTREAM_MODELS": "*",
                **environ,
            }
        )
        store, healer = store_over(over), healer_over(over)
        tails = Tails(store, listener, viewer=uuid.uuid4().hex, clock=clock, heal=healer.heal)
        return Generations(settings, store, line, tails, healer, DIALECTS, clock)

    return service_over


@pytest.fixture
def ask(service_over, uid):
    """Starts a generation in the chat, and leaves it."""
    service = service_over()

    def ask(turn="queue", on=service, by=uid, key=None, **more):
        body = orjson.dumps({"model": "demo", "messages": [{"role": "user", "content": key or uuid.uuid4().hex}]})
        asked = StartRequest(
            body=body, dialect="chat_completions", chat_id="chat", turn=turn, idempotency_key=key, **more
        )
        begun = on.start(by, asked)
        begun.tail.close()
        return begun.generation

    return ask


@pytest.fixture
def order(store, uid):
    return lambda: list(store.turns.order(f"users/{uid}/chats/chat/messages/any").ids)


@pytest.fixture
def claimed(store, clock):
    """What a worker gets that has a task of a generation."""
    return lambda generation: claim(store, Task.of(generation), timedelta(seconds=15), clock, lambda _: 3)


@pytest.fixture
def end(hold):
    return lambda generation: hold(generation).journal.finish([], COMPLETED, SAID)


def stops(documents, generation):
    return documents.get(generation.path)[0].fields["stopRequestedAt"]


# Getting in


def test_the_first_one_has_a_task_at_once_and_each_other_one_that_looks_after_it(ask, order, line):
    first, second, third = ask("reject"), ask(), ask()
    assert order() == [first.id, second.id, third.id]
    assert (first.ahead, second.ahead, third.ahead) == (0, 1, 2)
    assert (line.now, line.later) == ([first.id], [second.id, third.id])


def test_what_takes_no_turn_neither_reads_nor_writes_an_order(faulty, service_over, ask, order, end, store):
    written = []
    faulty.fail(having=lambda writes: written.extend(write.path for write in writes) or False)
    generation = ask("parallel", on=service_over(faulty))
    assert faulty.asked["get"] == 0
    end(generation)
    assert written
    assert not any(path.startswith("holdfastTurns/") for path in written)
    assert order() == []
    assert generation.turn is None
    assert b"turns" not in Task.of(generation).encode()


def test_an_answer_that_takes_no_turn_is_in_the_way_of_those_that_do(ask, order, hold, claimed, documents):
    beside = ask("parallel")
    worked = hold(beside)
    with pytest.raises(Conflict) as refused:
        ask("reject")
    assert refused.value.details == {"generation": beside.id}
    queued = ask()
    assert order() == [beside.id, queued.id]
    assert isinstance(waits := claimed(queued), AwaitsTurn)
    assert (waits.first.id, seconds_behind(waits.first)) == (beside.id, BESIDE_SECONDS)
    assert stops(documents, beside) is None
    interrupting = ask("interrupt")
    assert order() == [beside.id, interrupting.id, queued.id]
    assert stops(documents, beside) is not None
    assert isinstance(claimed(interrupting), AwaitsTurn)
    worked.journal.finish([], COMPLETED, SAID)
    assert isinstance(claimed(interrupting), Claim)
    assert isinstance(claimed(queued), AwaitsTurn)


def test_the_operator_says_what_a_prompt_without_a_word_does(service_over, ask):
    service = service_over(CHAT_TURNS="reject")
    first = ask(None, on=service)
    with pytest.raises(Conflict) as refused:
        ask(None, on=service)
    assert refused.value.details == {"generation": first.id}
    assert ask("parallel", on=service).turn is None


@pytest.mark.parametrize("error", [Stale, Exists])
def test_who_loses_a_race_reads_the_order_again(faulty, service_over, ask, order, error):
    """Another device's prompt gets in between this one's reading of the order and its commit."""
    between = []

    def race(writes):
        if not between and any(write.path.startswith("holdfastTurns/") for write in writes):
            between.append(ask())
        return False

    first = [ask()] if error is Stale else []  # where there is no document yet, both create it
    faulty.fail(having=race)
    last = ask(on=service_over(faulty))
    assert order() == [each.id for each in (*first, *between, last)]
    assert last.ahead == len(order()) - 1


def test_a_start_whose_commit_s_answer_was_lost_is_in_the_order_once(faulty, service_over, ask, order, line):
    faulty.fail(having=lambda writes: isinstance(writes[0], Create), lost=True)
    generation = ask(on=service_over(faulty))
    assert (faulty.failed, order(), line.now) == (1, [generation.id], [generation.id])


def test_who_is_refused_by_a_limit_has_left_the_order_and_has_interrupted_nobody(
    service_over, ask, order, documents, line
):
    first = ask()
    with pytest.raises(TooManyRequests) as refused:
        ask("interrupt", on=service_over(MAX_LIVE_GENERATIONS="1"))
    assert refused.value.code == "too_many_generations"
    assert order() == [first.id]
    assert stops(documents, first) is None


def test_a_request_that_is_repeated_is_not_refused_for_its_own_answer(ask, order, service_over):
    first = ask("reject", key="again")
    assert ask("reject", key="again").id == first.id
    few = service_over(MAX_WAITING_TURNS="1")
    second = ask("queue", on=few, key="waits")
    assert ask("queue", on=few, key="waits").id == second.id
    with pytest.raises(TooManyRequests):
        ask("queue", on=few)
    assert order() == [first.id, second.id]


def test_one_that_failed_is_started_anew_at_the_end_of_the_order(ask, order, hold):
    failed = ask(key="again")
    error = {"message": "it was busy", "code": "busy", "status": 503, "retryable": True}
    hold(failed).journal.finish([], End(state=State.FAILED, reason="upstream_status", error=error), SAID)
    running = ask()
    anew = ask(key="again")
    assert (anew.id, anew.ahead) == (failed.id, 1)
    assert order() == [running.id, failed.id]
    with pytest.raises(Conflict):
        ask("reject")


def test_one_that_is_lost_does_not_keep_a_chat_busy(ask, clock, order, store):
    lost = ask()
    clock.advance(timedelta(minutes=30) + LOST_GRACE + timedelta(seconds=1))
    next_ = ask("reject")
    assert store.generation(lost.id).state is State.FAILED
    assert order() == [next_.id]


def test_one_that_has_expired_is_taken_out_by_the_next_who_comes(ask, documents, order):
    """TTL deletes the generation's documents and knows nothing of an order."""
    expired = ask()
    second = ask()
    documents.commit(Delete(expired.path), Delete(expired.head_path))
    third = ask()
    assert (third.ahead, order()) == (1, [second.id, third.id])


# Leaving


def test_an_end_and_the_leaving_are_one_commit(faulty, store_over, hold, ask, order, clock, store):
    generation = ask()
    held = hold(generation, over=store_over(faulty))
    together = []
    faulty.fail(having=lambda writes: together.append({type(write) for write in writes}) or False)
    held.journal.finish([], COMPLETED, SAID)
    assert TakeOut in together[-1]
    assert Put in together[-1]
    assert order() == []


def test_the_leaving_reads_nothing_and_spares_who_came_meanwhile(ask, order, hold):
    first = ask()
    held = hold(first)
    second = ask()
    held.journal.finish([], COMPLETED, SAID)
    assert order() == [second.id]


@pytest.mark.parametrize("how", ["stopped", "deleted", "lost"])
def test_whatever_ends_one_without_a_worker_passes_the_turn_on(
    service_over, ask, order, uid, clock, line, how, healer, store
):
    service = service_over()
    first, second = ask(), ask()
    if how == "stopped":
        assert service.stop(uid, first.id)[0].state is State.STOPPED
    elif how == "deleted":
        service.delete(uid, first.id)
    else:
        clock.advance(timedelta(minutes=30) + LOST_GRACE + timedelta(seconds=1))
        assert healer.heal(first, store.read_head(first))
    assert order() == [second.id]
    assert line.now == [first.id, second.id]


def test_a_deletion_that_is_interrupted_has_left_the_order(faulty, service_over, ask, order, uid):
    first, second = ask(), ask()
    faulty.fail(having=lambda writes: writes[0].path == first.path, times=100)
    with pytest.raises(Unavailable):
        service_over(faulty).delete(uid, first.id)
    assert order() == [second.id]


# Whose turn it is


def test_a_worker_runs_nobody_before_its_turn(ask, claimed, end, line, store):
    first, second = ask(), ask()
    waits = claimed(second)
    assert isinstance(waits, AwaitsTurn)
    assert (waits.generation.id, waits.first.id) == (second.id, first.id)
    assert store.generation(second.id).state is State.QUEUED
    end(first)
    assert isinstance(claimed(second), Claim)


def test_an_order_that_somebody_has_deleted_makes_nobody_wait(ask, claimed, documents):
    ask()
    second = ask()
    documents.commit(Delete(turns_path(second.message_path)))
    assert isinstance(claimed(second), Claim)


@pytest.mark.parametrize("why", ["stopped by a write of its user's", "waiting for too long"])
def test_one_that_is_not_to_begin_any_more_is_ended_while_it_waits(ask, claimed, documents, clock, why, store):
    ask()
    second = ask()
    if why.startswith("stopped"):
        store.patch(second, {"stopRequestedAt": clock()})
    else:
        clock.advance(LONGEST_WAIT + LOST_GRACE + timedelta(seconds=1))
    assert isinstance(claimed(second), Exhausted)


def test_the_turn_is_passed_on_once_however_many_pass_it(ask, end, line, store):
    first, second = ask(), ask()
    turns = Turns(store, line)
    turns.advance(first.message_path)
    assert line.now == [first.id, first.id], "nobody has claimed it, and its task may be lost"
    end(first)
    for _ in range(3):
        turns.advance(first.message_path)
    assert line.now[2:] == [second.id]
    end(second)
    turns.advance(first.message_path)
    assert line.now[2:] == [second.id]


def test_healing_begins_nobody_before_its_turn_and_one_whose_turn_was_not_passed_on(
    ask, end, healer, clock, line, store
):
    first, second = ask(), ask()
    line.now.clear()
    clock.advance(LATER)
    assert not healer.heal(second, store.read_head(second))
    assert line.now == [first.id], "the one before, which nobody works"
    end(first)
    line.now.clear()
    healer.heal(second, store.read_head(second))
    assert line.now == [second.id]


def test_while_the_queue_is_away_a_stop_works_and_the_next_reader_begins_the_next_one(
    service_over, ask, uid, line, clock, order, store
):
    service = service_over()
    first, second = ask(), ask()
    line.away = True
    assert service.stop(uid, first.id)[0].state is State.STOPPED
    assert order() == [second.id]
    line.away = False
    line.now.clear()
    clock.advance(LATER)
    service.find(uid, second.id)
    assert line.now == [second.id]


# Interrupting


def test_one_that_interrupts_is_next_and_what_was_queued_stays_queued(ask, hold, order, documents, store):
    running, queued = ask(), ask()
    hold(running)
    one = ask("interrupt")
    assert order() == [running.id, one.id, queued.id]
    assert stops(documents, running)
    other = ask("interrupt")
    assert order() == [running.id, other.id, queued.id]
    assert store.generation(one.id).state is State.STOPPED
    assert stops(documents, queued) is None


def test_what_no_worker_has_is_interrupted_at_once(ask, order, line, store):
    waiting = ask()
    one = ask("interrupt")
    assert store.generation(waiting.id).state is State.STOPPED
    assert order() == [one.id]
    assert line.now == [waiting.id, one.id]


@pytest.mark.parametrize("by", ["its task", "a reader"])
def test_an_interruption_whose_asking_was_lost_is_asked_for_again(
    faulty, service_over, ask, hold, documents, by, line, store, clock, healer
):
    running = ask()
    hold(running)
    faulty.fail(having=lambda writes: isinstance(writes[0], Patch) and "stopRequestedAt" in writes[0].fields, times=100)
    one = ask("interrupt", on=service_over(faulty))
    assert stops(documents, running) is None
    if by == "its task":
        Turns(store, line).interrupt(one, ahead_of(store, one), clock())
    else:
        clock.advance(LATER)
        healer.heal(one, store.read_head(one))
    assert stops(documents, running) == clock()


def test_in_a_shared_chat_another_member_s_answer_is_waited_for(service_over, ask, uid, documents, hold):
    chat = f"rooms-{uid}"
    documents.commit(Create(f"{chat}/chat", {"members": [uid, "other"]}))
    service = service_over(MESSAGE_PATH=f"{chat}/{{chat}}/messages/{{message}}", CHAT_MEMBERS="members")
    theirs = ask(on=service, by="other")
    hold(theirs)
    mine = ask("interrupt", on=service)
    assert mine.ahead == 1
    assert stops(documents, theirs) is None
    with pytest.raises(Conflict):
        ask("reject", on=service)


def test_what_a_client_says_of_branches_is_in_the_message_from_the_start(ask, documents):
    first = ask("parallel", parent_id="asked")
    second = ask("parallel", parent_id="asked", replaces_id=first.id)
    one, other = [each.fields for each in documents.get(first.message_path, second.message_path)]
    assert (one["parent"], one["replaces"]) == ("asked", None)
    assert (other["parent"], other["replaces"]) == ("asked", first.id)
    assert second.turn is not TurnMode.QUEUE
