"""The outbox against the real emulator: what is still to be told is told by whoever comes, and for a day at most."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from lib.cloud.documents import Patch, Put
from lib.delivery.deliveries import GIVEN_UP_AFTER, Deliveries, NotYet
from lib.delivery.sender import Undelivered
from lib.dialects import DIALECTS
from lib.domain.channel import Channel
from lib.domain.delivery import Delivery
from lib.domain.end import End, State
from lib.domain.errors import Unavailable
from lib.domain.message import Said
from lib.journal import ending
from lib.journal.outbox import Outbox
from lib.journal.writer import Fenced
from lib.runtime.logs import Line
from lib.serving.generations import START_GRACE
from lib.serving.healing import REQUEUE_EVERY, Healer

WEBHOOK = Channel.WEBHOOK
LONG_LOST = START_GRACE + ending.LOST_GRACE + timedelta(seconds=1)
HOUR = timedelta(hours=1)


class Queue:
    """Keeps the deliveries, with the state that the generation had then. `away`: it refuses them."""

    def __init__(self, store):
        self._store = store
        self.away = False
        self.added = []

    def deliver(self, delivery, seconds):
        if self.away:
            raise Unavailable("as the test asked")
        self.added.append((delivery, self._store.generation(delivery.generation_id).state))


class Receiver:
    """Takes what is sent, or fails as the test wants."""

    def __init__(self):
        self.fault = None
        self.sent = []

    def send(self, generation):
        self.sent.append(generation)
        if self.fault is not None:
            raise self.fault
        return 1


@pytest.fixture
def queue(store):
    return Queue(store)


@pytest.fixture
def healer(store, queue, clock):
    return Healer(store, queue, DIALECTS, clock, Outbox(store, queue, (WEBHOOK,)))


@pytest.fixture
def receiver():
    return Receiver()


@pytest.fixture
def deliveries(store, receiver, clock):
    return Deliveries(store, {WEBHOOK: receiver}, clock)


@pytest.fixture
def to_tell(begin):
    return lambda **more: begin(outbox={"webhook": {}}, **more)


@pytest.fixture
def ended(to_tell, hold, store, clock):
    """A generation that a worker has ended, and whose delivery nobody has added."""

    def ended(state=State.COMPLETED, **more):
        generation = to_tell(**more)
        hold(generation).journal.finish([], End(state=state), Said(fields={"content": "canary"}))
        return store.generation(generation.id)

    return ended


@pytest.fixture
def lines(caplog):
    """The log's lines as they are printed."""
    caplog.set_level("INFO", "lib.delivery")
    return lambda: [json.loads(Line().format(record)) for record in caplog.records]


def test_the_final_commit_alone_makes_the_outbox_due(ended, store, documents):
    generation = ended()
    assert (generation.state, generation.outbox) == (State.COMPLETED, {"webhook": {}})
    (kept,) = documents.get(generation.path)
    assert kept.fields["outbox"] == {"webhook": {}}


def test_what_the_api_ends_is_in_the_queue_before_it_is_ended(healer, to_tell, store, queue, clock):
    """Else nobody might come back to it after a crash between the two."""
    generation = to_tell()
    clock.advance(LONG_LOST)
    assert healer.heal(generation, store.read_head(generation))
    assert store.generation(generation.id).state is State.FAILED
    assert queue.added == [(Delivery.of(generation, WEBHOOK), State.QUEUED)]


def test_what_the_api_stops_is_in_the_queue_before_it_is_stopped(healer, to_tell, store, queue):
    generation = to_tell()
    healer.stop(generation, store.read_head(generation))
    assert store.generation(generation.id).state is State.STOPPED
    assert queue.added == [(Delivery.of(generation, WEBHOOK), State.QUEUED)]


def test_a_stop_works_while_the_queue_is_away_and_its_end_is_told_by_the_next_reader(
    healer, to_tell, store, queue, clock
):
    generation = to_tell()
    queue.away = True
    healer.stop(generation, store.read_head(generation))
    stopped = store.generation(generation.id)
    assert (stopped.state, queue.added) == (State.STOPPED, [])
    queue.away = False
    clock.advance(REQUEUE_EVERY)
    healer.heal(stopped, store.read_head(generation))
    assert queue.added == [(Delivery.of(generation, WEBHOOK), State.STOPPED)]


def test_whoever_reads_an_end_whose_delivery_was_lost_adds_it_again_once_a_minute(healer, ended, store, queue, clock):
    generation = ended()
    head = store.read_head(generation)
    healer.heal(generation, head)
    assert queue.added == [], "its worker may be about to add it"
    clock.advance(REQUEUE_EVERY)
    for _ in range(3):
        healer.heal(store.generation(generation.id), head)
    assert len(queue.added) == 1
    clock.advance(REQUEUE_EVERY)
    healer.heal(store.generation(generation.id), head)
    assert len(queue.added) == 2
    store.change_outbox(generation, WEBHOOK, None)
    clock.advance(REQUEUE_EVERY)
    healer.heal(store.generation(generation.id), head)
    assert len(queue.added) == 2


def test_a_worker_adds_what_an_ended_generation_still_has_and_nothing_for_a_live_one(to_tell, ended, store, queue):
    outbox = Outbox(store, queue, (WEBHOOK,))
    live, done, told = to_tell(), ended(), ended()
    store.change_outbox(told, WEBHOOK, None)
    for each in (live, done, told):
        outbox.flush(each.id)
    outbox.flush("no such generation")
    assert [delivery.generation_id for delivery, _ in queue.added] == [done.id]


def test_a_service_without_a_channel_reads_and_adds_nothing(ended, faulty, store_over, queue):
    generation = ended()
    Outbox(store_over(faulty), queue, ()).flush(generation.id)
    assert (faulty.asked.total(), queue.added) == (0, [])


@pytest.mark.parametrize("state", [State.COMPLETED, State.STOPPED, State.INCOMPLETE, State.FAILED])
def test_a_delivery_that_was_taken_leaves_the_outbox(deliveries, receiver, ended, store, lines, state):
    generation = ended(state)
    deliveries.deliver(Delivery.of(generation, WEBHOOK))
    assert store.generation(generation.id).outbox == {}
    deliveries.deliver(Delivery.of(generation, WEBHOOK))  # the queue's duplicate
    assert len(receiver.sent) == 1
    told, skipped = lines()
    assert (told["message"], told["channel"], told["state"], told["tries"]) == ("delivered", "webhook", state, 1)
    assert skipped["message"] == "delivery skipped"


def test_a_delivery_before_the_end_waits_for_it(deliveries, receiver, to_tell):
    with pytest.raises(NotYet):
        deliveries.deliver(Delivery.of(to_tell(), WEBHOOK))
    assert receiver.sent == []


def test_a_receiver_that_is_down_is_asked_for_a_day_and_then_given_up_with_a_word(
    deliveries, receiver, ended, store, clock, lines
):
    generation = ended()
    delivery = Delivery.of(generation, WEBHOOK)
    receiver.fault = Undelivered("status", status=503)
    hours = round(GIVEN_UP_AFTER / HOUR)
    for tries in range(hours):
        with pytest.raises(NotYet):
            deliveries.deliver(delivery, tries)
        clock.advance(HOUR)
    assert store.generation(generation.id).outbox == {"webhook": {}}
    deliveries.deliver(delivery, hours)
    assert store.generation(generation.id).outbox == {}
    *warned, dead = lines()
    assert {(line["message"], line["severity"]) for line in warned} == {
        ("delivery failed, will be tried again", "WARNING")
    }
    assert (dead["message"], dead["severity"]) == ("delivery given up", "ERROR")
    assert (dead["channel"], dead["cause"], dead["status"], dead["tries"]) == ("webhook", "status", 503, hours + 1)


def test_a_receiver_that_comes_back_within_the_day_is_told(deliveries, receiver, ended, store, clock):
    generation = ended()
    receiver.fault = Undelivered("unreachable")
    with pytest.raises(NotYet):
        deliveries.deliver(Delivery.of(generation, WEBHOOK))
    receiver.fault = None
    clock.advance(GIVEN_UP_AFTER - timedelta(seconds=1))
    deliveries.deliver(Delivery.of(generation, WEBHOOK), 1)
    assert store.generation(generation.id).outbox == {}


def test_a_mistake_of_ours_is_tried_again_like_any_failure(deliveries, receiver, ended, lines):
    receiver.fault = RuntimeError("canary")
    with pytest.raises(NotYet):
        deliveries.deliver(Delivery.of(ended(), WEBHOOK))
    raised, warned = lines()
    assert (raised["message"], warned["cause"]) == ("a delivery raised", "internal_error")
    assert "canary" not in json.dumps([raised, warned])


def test_a_channel_that_is_not_set_up_any_more_is_given_up(store, ended, clock):
    generation = ended()
    Deliveries(store, {}, clock).deliver(Delivery.of(generation, WEBHOOK))
    assert store.generation(generation.id).outbox == {}


def test_the_delivery_of_a_failed_answer_leaves_the_outbox_of_the_next_try_alone(
    deliveries, receiver, ended, to_tell, documents, store, clock
):
    """The same request starts a failed generation anew, under its id."""
    failed = ended(State.FAILED)
    (before,) = documents.get(failed.path)
    clock.advance(timedelta(seconds=1))
    anew = {**before.fields, "createdAt": clock(), "state": "completed"}

    def send(generation):
        documents.commit(Put(failed.path, anew))

    receiver.send = send
    deliveries.deliver(Delivery.of(failed, WEBHOOK))
    assert store.generation(failed.id).outbox == {"webhook": {}}
    deliveries.deliver(Delivery.of(failed, WEBHOOK))
    assert store.generation(failed.id).outbox == {"webhook": {}}, "it was of another"


def test_an_outbox_is_cleared_whatever_others_write_at_the_same_time(
    ended, faulty, store_over, store, documents, clock
):
    generation = ended()

    class Meddling:
        def __init__(self):
            self.left = 2

        def get(self, *paths, **more):
            found = documents.get(*paths, **more)
            if self.left:
                self.left -= 1
                documents.commit(Patch(generation.path, {"requeuedAt": clock()}))
            return found

        def commit(self, *writes):
            return documents.commit(*writes)

    store_over(Meddling()).change_outbox(generation, WEBHOOK, None)
    assert store.generation(generation.id).outbox == {}


def test_of_a_deleted_generation_nothing_is_told(deliveries, receiver, ended, store):
    generation = ended()
    store.delete(generation)
    deliveries.deliver(Delivery.of(generation, WEBHOOK))
    store.change_outbox(generation, WEBHOOK, None)
    assert (receiver.sent, store.generation(generation.id)) == ([], None)


def test_a_worker_that_lost_its_generation_tells_of_no_end(to_tell, hold, store, clock, queue):
    generation = to_tell()
    first = hold(generation)
    clock.advance(timedelta(hours=1))
    hold(generation)
    with pytest.raises(Fenced):
        first.journal.finish([], End(state=State.COMPLETED), Said(fields={"content": ""}))
    Outbox(store, queue, (WEBHOOK,)).flush(generation.id)
    assert queue.added == []
