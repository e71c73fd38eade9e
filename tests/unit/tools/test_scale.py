"""docs/scale.md is what the model says, the model goes by the pages it names, and the simulation by its rules."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from operations import generated
from scale.__main__ import DOCS, parts
from scale.autoscaling import Fleet, Load, Moment, Service, services, simulate
from scale.demand import FUNCTIONS, Demand, World, ramp_minutes, reached
from scale.measured import BENCH, COST, Deployed, Measured, NotThere
from scale.plot import draw
from scale.scenarios import Outcome, scenarios

WORLD = World.read()
RUN, TASKS = WORLD.limits.run, WORLD.limits.tasks
SERVICE = Service(concurrency=40, cpu=0.001, vcpu=1, minimum=0, maximum=12)


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return [scenario.played(WORLD) for scenario in scenarios(WORLD)]


def test_the_page_is_what_the_model_says(outcomes: list[Outcome]) -> None:
    for name, text in parts(WORLD, outcomes).items():
        assert generated.part(DOCS / "scale.md", name) == text, "run 'make scale'"


def test_the_picture_is_what_the_simulation_says(outcomes: list[Outcome], tmp_path: Path) -> None:
    draw(outcomes, tmp_path / "scale.svg")
    assert (tmp_path / "scale.svg").read_text(encoding="utf-8") == (DOCS / "scale.svg").read_text(encoding="utf-8"), (
        "run 'make scale'"
    )


def test_every_number_is_read_from_the_page_that_measured_it(tmp_path: Path) -> None:
    counted = Measured.read(4_000)
    assert f"|  4,000 |                 1 |    {counted.writes:.0f} |" in COST.read_text(encoding="utf-8")
    dearer = tmp_path / "cost.md"
    row = re.compile(r"(\|  4,000 \| +1 \| +)[\d,]+")
    dearer.write_text(row.sub(r"\g<1>999", COST.read_text(encoding="utf-8"), count=1), encoding="utf-8")
    assert Measured.read(4_000, cost=dearer) == replace(counted, writes=999)


@pytest.mark.parametrize(
    ("page", "gone", "named"),
    [
        ("cost", "|  4,000 |", "cost.md: there is no answer of 4,000 tokens and 1 viewer with 'worker s'"),
        ("cost", "ms of a CPU in the worker", "cost.md: there is nothing like"),
        ("bench", "Holdfast: worker, warm", "results.md: there is nothing like"),
    ],
)
def test_a_number_that_is_gone_from_its_page_is_told(tmp_path: Path, page: str, gone: str, named: str) -> None:
    there = {"cost": COST, "bench": BENCH}
    text = there[page].read_text(encoding="utf-8")
    assert gone in text
    there[page] = tmp_path / there[page].name
    there[page].write_text(text.replace(gone, "|  4,001 |"), encoding="utf-8")
    with pytest.raises(NotThere, match=re.escape(named)):
        Measured.read(4_000, **there)


def test_a_limit_is_reached_by_as_many_answers_as_take_all_of_it() -> None:
    known = {each.name for each in fields(Demand)}
    for limit in WORLD.limits.limits:
        assert limit.of in known
        assert re.match(r"https://|\w+\.md#", limit.source)
        live = reached(limit, WORLD)
        if limit.of != "head_writes":
            assert getattr(Demand.of(live, WORLD), limit.of) == pytest.approx(WORLD.most(limit))
    deployed = Deployed.read("worker")
    (workers,) = (limit for limit in WORLD.limits.limits if limit.most == "worker")
    assert reached(workers, WORLD) == deployed.concurrency * deployed.maximum


def test_what_does_not_grow_with_the_answers_is_reached_by_the_first_or_never() -> None:
    (head,) = (limit for limit in WORLD.limits.limits if limit.of == "head_writes")
    assert reached(head, WORLD) == 1
    assert reached(replace(head, most=1_000), WORLD) == math.inf


def test_a_cold_store_is_asked_for_half_as_much_again_every_five_minutes() -> None:
    assert [ramp_minutes(operations, WORLD) for operations in (100, 500, 501, 750, 751, 1_125)] == [0, 0, 5, 5, 10, 10]


def fleet(service: Service = SERVICE) -> Fleet:
    return Fleet(service, RUN, startup_seconds=5)


def test_a_settled_fleet_has_instances_for_the_target_of_concurrency_or_of_cpu() -> None:
    for service, instances in ((SERVICE, 5), (replace(SERVICE, cpu=0.03), 6)):
        there = fleet(service)
        for second in range(200):
            there.tick(second, running=120, waiting=0)  # 120 / (0.6 × 40), and 120 × 0.03 / 0.6
        assert there.ready == there.instances == instances


def test_requests_without_a_place_start_instances_at_once_which_are_ready_when_they_have_started() -> None:
    there = fleet()
    there.tick(0, running=0, waiting=100)
    assert (there.instances, there.ready) == (3, 0)
    there.tick(4, running=0, waiting=100)
    assert (there.instances, there.ready) == (3, 0)
    there.tick(5, running=0, waiting=100)
    assert (there.instances, there.ready, there.places) == (3, 3, 120)


def test_a_fleet_stays_between_its_minimum_and_its_maximum() -> None:
    there = fleet(replace(SERVICE, minimum=2))
    assert there.ready == 2
    for second in range(100):
        there.tick(second, running=480, waiting=1_000)
    assert there.instances == 12
    for second in range(100, 100 + 2 * RUN.idle_seconds):
        there.tick(second, running=0, waiting=0)
    assert there.instances == 2


def test_an_instance_ends_when_it_has_been_idle_for_long_enough() -> None:
    there = fleet()
    for second in range(200):
        there.tick(second, running=200, waiting=0)
    busy = there.instances
    for second in range(200, 200 + RUN.idle_seconds):
        there.tick(second, running=200 if second == 200 else 0, waiting=0)
    assert there.instances == busy
    for second in range(200 + RUN.idle_seconds, 200 + RUN.idle_seconds + RUN.window_seconds):
        there.tick(second, running=0, waiting=0)
    assert there.instances == 0


def played(load: Load, *, times: float = 1, queues: int = 1) -> list[Moment]:
    return list(simulate(load, WORLD, services(WORLD, times=times), queues))


@pytest.mark.parametrize("live", [10, 100, 1_000, 10_000])
def test_a_steady_load_takes_the_instances_of_the_table(live: int) -> None:
    last = played(Load(before=live, after=live), times=100, queues=10)[-1]
    demand = Demand.of(live, WORLD)
    for simulated, on_paper in ((last.workers, demand.workers), (last.apis, demand.apis)):
        assert simulated == pytest.approx(math.ceil(on_paper), abs=1 + 0.01 * on_paper)
    assert last.running == pytest.approx(live, rel=0.01)


def test_every_answer_that_was_asked_for_is_refused_waits_runs_or_has_ended() -> None:
    load = Load(before=50, after=1_000, seconds=600)
    there = played(load)
    asked = sum(load.wanted(second) for second in range(load.seconds)) / WORLD.measured.seconds
    refused, ended = (sum(getattr(moment, name) for moment in there) for name in ("refused", "ended"))
    assert refused > 0
    last = there[-1]
    there_is = refused + ended + last.running + last.waiting
    assert load.before + asked == pytest.approx(there_is, abs=0.01 * load.before)


def test_nothing_runs_beyond_the_places_and_the_dispatches_that_there_are() -> None:
    places = WORLD.deployed["worker"].concurrency * WORLD.deployed["worker"].maximum
    assert max(moment.running for moment in played(Load(before=50, after=1_000))) == places
    one, two = (played(Load(before=1_000, after=9_000), times=100, queues=queues) for queues in (1, 2))
    assert max(moment.running for moment in one) == TASKS.concurrent
    assert max(moment.running for moment in two) > TASKS.concurrent
    assert one[-1].waits > 60
    assert two[-1].waits == 0
    assert set(FUNCTIONS) == set(WORLD.deployed)
