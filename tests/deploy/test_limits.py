"""Time-outs, deadlines, leases and retries fit together, in what deploy.sh deploys and in the code's defaults.

Each inequality is a promise of the design: after a change of one number, a failure here names the other one.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from lib.cloud.documents import COMMIT_SECONDS
from lib.cloud.task_queue import DELIVERY_SECONDS
from lib.delivery.deliveries import GIVEN_UP_AFTER
from lib.delivery.push import NEW_SECONDS
from lib.delivery.sender import ALL_SECONDS
from lib.engine.attempt import RETRY_AFTER_SECONDS
from lib.engine.buffer import HELD_BYTES
from lib.engine.running import HAND_OVER_SECONDS
from lib.engine.waiting import MOST_WAITS, OUTAGE_SECONDS
from lib.journal import ending
from lib.journal.writer import GIVE_UP_SECONDS
from lib.runtime.settings import Settings
from lib.serving import generations
from local.stack import QUEUE, Stack
from tests.deploy.cloud import Cloud
from tests.deploy.test_deploying import environment

LONGEST_DISPATCH = 1800  # Cloud Tasks' dispatch deadline, at the most
LONGEST_REQUEST = 3600  # Cloud Run's timeout, at the most
MOST_DISPATCHES = 5000  # Cloud Tasks' concurrent dispatches of one queue, at the most
KILL_SECONDS = 10  # Cloud Run's, from SIGTERM to SIGKILL


@dataclass(frozen=True)
class Plan:
    """What a dry run says: the flags of both functions and of the queues, and the settings they run by."""

    worker: dict[str, str]
    api: dict[str, str]
    queue: dict[str, str]
    deliveries: dict[str, str]

    @property
    def settings(self) -> Settings:
        assert {name: value for name, value in environment(self.worker).items() if name != "THREADS"} == {
            name: value for name, value in environment(self.api).items() if name != "THREADS"
        }
        return Settings.from_env(environment(self.api))

    def waits(self, queue: dict[str, str] | None = None) -> list[float]:
        """The times between the attempts at a task, as the queue doubles them."""
        queue = queue or self.queue
        least, most = float(queue["min-backoff"][:-1]), float(queue["max-backoff"][:-1])
        doublings = int(queue["max-doublings"])
        waits = [min(most, least * 2 ** min(each, doublings)) for each in range(int(queue["max-attempts"]) - 1)]
        assert waits[-1] == most, "so few doublings never reach the longest wait"
        return waits


@pytest.fixture(scope="module")
def plan(make_cloud: Callable[[str], Cloud]) -> Plan:
    done = make_cloud("plan").run("--dry-run", WEBHOOK_URL="https://hooks.example/", WEBHOOK_SECRETS="whsec_x")
    assert done.code == 0, done.err
    lines = [shlex.split(line) for line in done.out.splitlines() if line.startswith("gcloud ")]

    def flags(*words: str) -> dict[str, str]:
        (line,) = [line for line in lines if line[1 : len(words) + 1] == list(words)]
        return dict(word[2:].partition("=")[::2] for word in line if word.startswith("--"))

    return Plan(
        flags("run", "deploy", "holdfast-worker"),
        flags("run", "deploy", "holdfast-api"),
        flags("tasks", "queues", "create", "holdfast"),
        flags("tasks", "queues", "create", "holdfast-deliveries"),
    )


def test_an_upstream_s_deadlines_lie_in_each_other(plan: Plan) -> None:
    deadlines = plan.settings.catalog["default"].deadlines
    assert deadlines.connect < deadlines.first_byte < deadlines.total
    assert deadlines.idle < deadlines.total


def test_the_longest_answer_ends_before_its_task_and_its_task_before_the_worker_s_request(plan: Plan) -> None:
    settings = plan.settings
    timeout = int(plan.worker["timeout"])
    assert settings.catalog.longest < settings.dispatch_seconds <= LONGEST_DISPATCH < timeout <= LONGEST_REQUEST
    # Its last commit may have to wait for Firestore.
    assert settings.catalog.longest + GIVE_UP_SECONDS <= settings.dispatch_seconds


def test_whatever_dispatch_deadline_is_set_the_worker_s_request_may_last_longer(plan: Plan) -> None:
    assert int(plan.worker["timeout"]) > LONGEST_DISPATCH


def test_a_stream_ends_in_order_before_the_platform_cuts_it(plan: Plan) -> None:
    settings = plan.settings
    lasts = settings.status_wait_seconds + settings.response_seconds + settings.send_seconds
    assert lasts < int(plan.api["timeout"]) <= LONGEST_REQUEST
    assert settings.keepalive_seconds < settings.send_seconds < settings.response_seconds


@pytest.mark.parametrize("name", ["worker", "api"])
def test_there_is_a_thread_for_each_request_that_an_instance_gets_and_some_to_spare(plan: Plan, name: str) -> None:
    flags = getattr(plan, name)
    assert int(environment(flags)["THREADS"]) >= int(flags["concurrency"]) + 5


def test_the_queue_sends_no_more_at_once_than_the_workers_take(plan: Plan) -> None:
    takes = int(plan.worker["max-instances"]) * int(plan.worker["concurrency"])
    assert int(plan.queue["max-concurrent-dispatches"]) <= min(takes, MOST_DISPATCHES)


def test_however_many_workers_there_may_be_the_queue_s_own_limit_is_kept(cloud: Cloud) -> None:
    done = cloud.run("--dry-run", WORKER_CONCURRENCY="1000", WORKER_MAX_INSTANCES="100")
    assert f"--max-concurrent-dispatches={MOST_DISPATCHES} " in done.out


def test_several_queues_send_no_more_at_once_than_the_workers_take(cloud: Cloud) -> None:
    done = cloud.run("--dry-run", TASKS_QUEUES="3", WORKER_CONCURRENCY="10", WORKER_MAX_INSTANCES="10")
    assert done.out.count("--max-concurrent-dispatches=33 ") == 3
    few = cloud.run("--dry-run", TASKS_QUEUES="3", WORKER_CONCURRENCY="1", WORKER_MAX_INSTANCES="1")
    assert few.out.count("--max-concurrent-dispatches=1 ") == 3


def test_a_lease_outlives_a_renewal_whose_commit_takes_its_time(plan: Plan) -> None:
    lease = plan.settings.lease_seconds
    assert lease / 3 + COMMIT_SECONDS <= lease


def test_a_worker_that_died_is_followed_by_another_before_a_reader_counts_the_answer_as_lost(plan: Plan) -> None:
    lost = ending.LOST_GRACE.total_seconds()
    waits = plan.waits()
    assert max(waits) < lost
    assert lost > max(OUTAGE_SECONDS)
    assert RETRY_AFTER_SECONDS + max(waits) < lost
    # The task is still tried when the lease has run out, however early the worker died.
    assert sum(waits) > plan.settings.lease_seconds + lost


def test_a_task_is_tried_for_as_long_as_its_answer_may_wait(plan: Plan) -> None:
    kept = float(plan.queue["max-retry-duration"][:-1])
    start = generations.START_GRACE.total_seconds()
    assert kept >= start + ending.LOST_GRACE.total_seconds()
    assert kept >= plan.settings.dispatch_seconds + plan.settings.lease_seconds
    assert plan.settings.max_attempts < int(plan.queue["max-attempts"])


def test_a_task_waits_as_often_as_an_answer_may_have_leases(plan: Plan) -> None:
    longest = plan.settings.max_attempts * plan.settings.dispatch_seconds
    assert MOST_WAITS * plan.settings.lease_seconds > longest
    assert MOST_WAITS * max(OUTAGE_SECONDS) / 2 > float(plan.queue["max-retry-duration"][:-1])


def test_a_process_that_is_told_to_end_has_time_to_hand_over() -> None:
    assert HAND_OVER_SECONDS < KILL_SECONDS


def test_a_delivery_is_given_up_by_the_worker_which_says_so_before_the_queue_does(plan: Plan) -> None:
    given_up = GIVEN_UP_AFTER.total_seconds()
    waits = plan.waits(plan.deliveries)
    # The first try after that time is the last one, and the queue must still make it.
    assert float(plan.deliveries["max-retry-duration"][:-1]) > given_up + max(waits) + ending.LOST_GRACE.total_seconds()
    assert max(waits) < 3600, "who was down for an hour should not wait for another"


def test_a_try_of_a_delivery_to_many_devices_ends_within_its_task_s_deadline() -> None:
    assert NEW_SECONDS + ALL_SECONDS + COMMIT_SECONDS < DELIVERY_SECONDS < LONGEST_DISPATCH


@pytest.mark.parametrize(("name", "of"), [(QUEUE, "queue"), (f"{QUEUE}-deliveries", "deliveries")])
def test_each_queue_retries_as_the_one_that_everything_is_tested_with(
    plan: Plan, stack: Stack, name: str, of: str
) -> None:
    flags: dict[str, str] = getattr(plan, of)
    channel = grpc.insecure_channel(stack.tasks_host)
    with channel:
        client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        local = client.get_queue(name=name, timeout=30)
    retry = local.retry_config
    assert [
        f"{each.total_seconds():g}s" for each in (retry.min_backoff, retry.max_backoff, retry.max_retry_duration)
    ] == [
        flags["min-backoff"],
        flags["max-backoff"],
        flags["max-retry-duration"],
    ]
    assert retry.max_attempts == int(flags["max-attempts"])
    assert retry.max_doublings == int(flags["max-doublings"])
    assert local.rate_limits.max_dispatches_per_second == float(flags["max-dispatches-per-second"])
    assert local.rate_limits.max_concurrent_dispatches == int(flags["max-concurrent-dispatches"])


def test_an_attempt_holds_more_than_its_largest_event(plan: Plan) -> None:
    assert plan.settings.max_event_bytes <= HELD_BYTES // 2
