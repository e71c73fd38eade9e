"""Faults of the task queue: it delivers twice, late, or can't be reached."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import requests
from google.cloud.firestore_v1.base_query import FieldFilter

from chaos.fault import Fault
from chaos.question import Question
from chaos.round import Round
from chaos.stage import WAIT_SECONDS, Stage
from chaos.wires import Native
from lib.domain.collections import GENERATIONS, JOURNAL
from local.client import Client


class TasksTwice(Fault):
    """Every task is delivered twice, at the same time."""

    key = "tasks-twice"
    title = "tasks delivered twice"

    def begin(self, on: Round) -> None:
        on.stage.fault_queue(duplicate=2)

    def restore(self, stage: Stage) -> None:
        stage.fault_queue(duplicate=1)


class TasksLate(Fault):
    """Every task is delivered late, and again after its generation has ended."""

    key = "tasks-late"
    title = "tasks delivered late"

    def begin(self, on: Round) -> None:
        on.stage.fault_queue(late=on.plan.late)

    def settle(self, on: Round) -> None:
        on.read(on.asked)
        for asked in on.asked:
            if asked.generation is not None:
                on.stage.send_task(asked.question, asked.generation, on.stage.stack.worker_url)
        if not on.stage.wait_for_an_empty_queue(on.plan.late + WAIT_SECONDS):
            on.broken.append("expected a task of a generation that has ended to be done with, it is tried again")

    def restore(self, stage: Stage) -> None:
        stage.fault_queue(late=0)


class QueueUnreachable(Fault):
    """No task can be created, so requests are refused with a clear error and leave nothing. Later ones work."""

    key = "queue-unreachable"
    title = "task queue unreachable"
    recovery = "its return"

    def begin(self, on: Round) -> None:
        on.stage.fault_queue(unavailable=True)
        with ThreadPoolExecutor(len(on.asked)) as pool:
            for sentences in pool.map(lambda asked: self._refused(on, asked.question), on.asked):
                on.broken += sentences
        on.stage.fault_queue(unavailable=False)
        on.recovers_from_now()

    def _refused(self, on: Round, question: Question) -> list[str]:
        """The broken promises for a request that can't be enqueued."""
        client = Client(on.stage.stack.url, question.user)
        with Native(client, question).ask() as answer:
            said = (answer.status_code, _error_code(question, answer))
        broken = []
        if said != (503, "queue_unavailable"):
            expected = f"{question.name} ({question.dialect.name}): expected"
            broken.append(f"{expected} status 503 with the code queue_unavailable, got {said}")
        database = on.stage.database
        message = database.document(question.path)
        mine = FieldFilter("owner", "==", question.user)
        left = [
            *([message] if message.get(timeout=WAIT_SECONDS).exists else []),
            *(document.reference for document in message.collection(JOURNAL).stream(timeout=WAIT_SECONDS)),
            *(each.reference for each in database.collection(GENERATIONS).where(filter=mine).stream()),
        ]
        if left:
            broken.append(f"{question.name}: expected nothing to be left, found {[each.path for each in left]}")
        if listed := list(client.list()):
            broken.append(f"{question.name}: expected an empty list, found {listed}")
        client.session.close()
        return broken

    def restore(self, stage: Stage) -> None:
        stage.fault_queue(unavailable=False)


def _error_code(question: Question, answer: requests.Response) -> str | None:
    try:
        return question.dialect.code(answer.json())
    except (ValueError, KeyError, TypeError):
        return None
