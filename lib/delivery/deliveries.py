"""The worker's endpoint for deliveries: each request is one try, made by Cloud Tasks, to tell of an answer's end.

A 2xx tells the queue that the delivery is over, whether it was taken or given up; after anything else the queue tries
again, with its back-off. What bounds that: a day from the end on the delivery is given up here, before the queue, whose
own bound is longer, would drop it without a word. It is sent at least once, since a process may end between the
receiver's answer and the commit that takes the channel out of the outbox.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from flask import Flask, jsonify, request

from lib.cloud.store import Store
from lib.cloud.task_queue import DELIVERIES
from lib.cloud.tokens import QueueTokens
from lib.delivery.sender import Sender, Undelivered
from lib.domain.channel import Channel
from lib.domain.delivery import Delivery
from lib.domain.errors import HoldfastError, Unauthenticated
from lib.domain.generation import Generation
from lib.runtime.logs import labelled

GIVEN_UP_AFTER = timedelta(days=1)

log = logging.getLogger(__name__)


class NotYet(HoldfastError):
    """The delivery was not taken, or its generation has not ended. The queue has to try again.

    A 503 would slow the queue down, and a 4xx tells it the same.
    """

    status = 409
    code = "not_delivered"


class Deliveries:
    """`senders` has a sender for each channel that this service has."""

    def __init__(self, store: Store, senders: Mapping[Channel, Sender], clock: Callable[[], datetime]):
        self._store = store
        self._senders = senders
        self._clock = clock

    def deliver(self, delivery: Delivery, tries: int = 0) -> None:
        """Makes one try, after `tries` others. Returns once no other is to follow. Errors: `NotYet`, `Unreachable`."""
        generation = self._store.generation(delivery.generation_id)
        if generation is None or not delivery.is_of(generation) or delivery.channel not in generation.outbox:
            log.info("delivery skipped", extra={"channel": str(delivery.channel)})
            return
        if not generation.state.terminal:
            raise NotYet("The answer has not ended.")
        receivers, failure = 0, None
        try:
            receivers = self._send(delivery.channel, generation)
        except Undelivered as error:
            failure = error
        late = self._clock() - (generation.finished_at or generation.created_at)
        over = failure is None or failure.final or late >= GIVEN_UP_AFTER
        log.log(
            logging.INFO if failure is None else logging.ERROR if over else logging.WARNING,
            "delivered" if failure is None else "delivery given up" if over else "delivery failed, will be tried again",
            extra={
                "channel": str(delivery.channel),
                "state": str(generation.state),
                "receivers": receivers if failure is None else None,
                "tries": tries + 1,
                "lateMs": round(1000 * late.total_seconds()),
                "cause": failure.cause if failure else None,
                "status": failure.status if failure else None,
            },
        )
        if not over:
            raise NotYet("The receiver did not take it.") from failure
        self._store.change_outbox(generation, delivery.channel, None)

    def _send(self, channel: Channel, generation: Generation) -> int:
        sender = self._senders.get(channel)
        if sender is None:
            raise Undelivered("not_set_up", final=True)
        try:
            return sender.send(generation)
        except (Undelivered, HoldfastError):
            raise
        except Exception as error:
            log.exception("a delivery raised")
            raise Undelivered("internal_error") from error

    def serve(self, app: Flask, tokens: QueueTokens) -> None:
        """Adds the route. Only the queue's own service account is accepted."""

        @app.post(DELIVERIES)
        def deliver() -> Any:
            try:
                tokens.verify(request.headers)
            except Unauthenticated as error:
                log.warning("task refused", extra={"cause": error.code})
                raise
            delivery = Delivery.decode(request.get_data())
            tries = request.headers.get("X-CloudTasks-TaskRetryCount", "")
            with labelled(generation=delivery.generation_id):
                self.deliver(delivery, int(tries) if tries.isdecimal() else 0)
            return jsonify(state=None)
