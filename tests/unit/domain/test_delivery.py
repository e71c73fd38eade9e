"""A delivery: a generation's id, when it was created, and a channel."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from lib.domain.channel import Channel
from lib.domain.delivery import Delivery, event_id
from lib.domain.errors import InvalidRequest
from tests.unit.domain.test_generation import QUEUED


@pytest.mark.parametrize("channel", Channel)
def test_a_delivery_that_was_encoded_is_decoded_to_itself(channel: Channel) -> None:
    delivery = Delivery.of(QUEUED, channel)
    assert Delivery.decode(delivery.encode()) == delivery
    assert delivery.is_of(QUEUED)


def test_what_is_started_anew_under_an_id_is_another_delivery_and_another_event() -> None:
    anew = replace(QUEUED, created_at=QUEUED.created_at + timedelta(milliseconds=1))
    delivery = Delivery.of(QUEUED, Channel.WEBHOOK)
    assert not delivery.is_of(anew)
    assert not delivery.is_of(replace(QUEUED, id="g2"))
    assert delivery.name != Delivery.of(anew, Channel.WEBHOOK).name
    assert event_id(QUEUED) != event_id(anew)


def test_each_channel_has_a_task_of_its_own_and_one_event_for_all() -> None:
    assert len({Delivery.of(QUEUED, channel).name for channel in Channel}) == len(Channel)
    assert event_id(QUEUED) == "evt_g1_1767323045678"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"generation":"g","created":1}',
        b'{"generation":"g","created":1,"channel":"post"}',
        b'{"generation":"","created":1,"channel":"webhook"}',
        b'{"generation":1,"created":1,"channel":"webhook"}',
        b'{"generation":"g","created":"1","channel":"webhook"}',
        b'{"generation":"g","created":true,"channel":"webhook"}',
    ],
)
def test_what_is_no_delivery_is_refused_as_a_bad_request(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="generation"):
        Delivery.decode(body)
