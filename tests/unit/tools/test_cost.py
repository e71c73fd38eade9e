"""Counts are priced as in the table, and errors in the table are reported."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.cloud.firestore_v1.types import firestore as rpc

from cost import size
from cost.answers import Asked, Count, Counted, Plan
from cost.meter import Tally, reads_of
from cost.prices import TABLE, BadTable, Prices
from cost.table import tables

PRICES = Prices.read()
COUNTED = Counted(
    asked=Asked(tokens=100, viewers=1),
    writes=100_000,
    reads=200_000,
    deletes=300_000,
    task_operations=2_000_000,
    worker_requests=1_000_000,
    worker_seconds=40.0,
    api_requests=3_000_000,
    api_seconds=60.0,
    sent_bytes=3 << 30,
    expiring_bytes=30 << 30,
    lasting_bytes=1 << 30,
)


def test_every_number_has_its_price() -> None:
    costs = PRICES.of(COUNTED, days=7)
    assert costs.writes == pytest.approx(PRICES.firestore.writes_per_100k)
    assert costs.reads == pytest.approx(2 * PRICES.firestore.reads_per_100k)
    assert costs.deletes == pytest.approx(3 * PRICES.firestore.deletes_per_100k)
    assert costs.storage == pytest.approx((7 + 1) * PRICES.firestore.gib_month)
    assert costs.tasks == pytest.approx(2 * PRICES.tasks.operations_per_million)
    assert costs.network == pytest.approx(3 * PRICES.network.gib_sent)


def test_an_instance_is_shared_by_those_it_serves_at_a_time() -> None:
    alone = replace(PRICES, worker=replace(PRICES.worker, vcpu=2, gib=4, together=1))
    run = PRICES.run
    asked_for = run.requests_per_million
    assert alone.of(COUNTED, 7).worker == pytest.approx(40 * (2 * run.vcpu_second + 4 * run.gib_second) + asked_for)
    shared = replace(alone, worker=replace(alone.worker, together=40))
    assert shared.of(COUNTED, 7).worker - asked_for == pytest.approx((alone.of(COUNTED, 7).worker - asked_for) / 40)


def test_the_total_is_all_of_it() -> None:
    costs = PRICES.of(COUNTED, days=7)
    parts = (costs.writes, costs.reads, costs.deletes, costs.storage, costs.tasks, costs.worker, costs.api)
    assert costs.total == pytest.approx(sum(parts) + costs.network)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("reads_per_100k = 0.03", "", "firestore.reads_per_100k: it must be a number, 0 or above"),
        ("reads_per_100k = 0.03", "reads_per_100k = '3 cents'", "firestore.reads_per_100k"),
        ("reads_per_100k = 0.03", "reads_per_100k = -1", "firestore.reads_per_100k"),
        ("reads_per_100k = 0.03", "reads_per_100k = 0.03\nreeds = 1", "firestore.reeds: it is not known"),
        ("[tasks]", "[task]", "[tasks]: there must be such a table"),
        ("together = ", "together = 0 #", "api.together: it must be a number, above 0"),
        ('date = "', 'date = "on ', 'date: it must be the day the prices are of, such as "2026-11-22"'),
        ('region = "us-central1"', "", "region: it must be there, in quotes"),
        ("[firestore]", "[firestore", "can't be read as TOML"),
    ],
)
def test_a_bad_price_table_is_told_by_the_field(tmp_path: Path, before: str, after: str, named: str) -> None:
    table = TABLE.read_text(encoding="utf-8")
    assert before in table
    bad = tmp_path / "prices.toml"
    bad.write_text(table.replace(before, after), encoding="utf-8")
    with pytest.raises(BadTable) as caught:
        Prices.read(bad)
    assert named in str(caught.value)


def test_a_document_s_size_is_the_one_in_firestore_s_own_example() -> None:
    # https://firebase.google.com/docs/firestore/storage-size
    fields = {"type": "Personal", "done": False, "priority": 1, "description": "Learn Cloud Firestore"}
    assert size.of_document("users/jeff/tasks/my_task_id", fields) == 147


def test_every_type_that_is_written_has_a_size() -> None:
    empty = size.of_document("a/b", {})
    fields: dict[str, Any] = {
        "t": "é",
        "b": b"\0\1",
        "f": 1.5,
        "n": None,
        "d": datetime.now(UTC),
        "m": {"a": 1},
        "l": ["x", True],
    }
    names = 2 * len(fields)
    assert size.of_document("a/b", fields) - empty == names + 3 + 2 + 8 + 1 + 8 + (2 + 8) + (2 + 1)
    with pytest.raises(TypeError, match="Path"):
        size.of_document("a/b", {"p": Path()})


def test_what_names_a_user_or_a_generation_of_his_is_his() -> None:
    tally = Tally()
    tally.know("alice")
    tally.know("bob")
    generation = b"documents/holdfastGenerations/" + b"a" * 32
    tally.add("writes", 1, b"users/bob/messages/1")
    tally.add("writes", 1, generation)  # nobody knows yet whose it is
    tally.add("writes", 1, generation, generation + b" of alice")
    tally.add("writes", 2, generation)
    assert {user: dict(counted) for user, counted in tally.counted.items()} == {
        "bob": {"writes": 1},
        None: {"writes": 1},
        "alice": {"writes": 3},
    }


def test_a_call_without_a_known_price_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match=r"Firestore/Write: it is not known here what this call costs"):
        reads_of("/google.firestore.v1.Firestore/Write")


def test_a_listener_s_document_is_a_read_and_its_other_words_are_none() -> None:
    count = reads_of("/google.firestore.v1.Firestore/Listen")
    assert count is not None
    said = [{"document_change": {}}, {"target_change": {}}, {"document_delete": {}}, {"filter": {}}]
    assert [count(rpc.ListenResponse.serialize(rpc.ListenResponse(each))) for each in said] == [1, 0, 0, 0]


def test_a_plan_has_every_length_with_every_number_of_viewers() -> None:
    plan = Plan.of((100, 1_000), (0, 3), rate=50, together=1_000)
    assert {(asked.tokens, asked.viewers) for asked in plan.answers if asked.apart} == {
        (100, 0),
        (100, 3),
        (1_000, 0),
        (1_000, 3),
    }
    assert [asked for asked in plan.answers if not asked.apart] == [Asked(tokens=1_000, viewers=3, apart=False)]


def test_the_tables_are_markdown_with_a_row_for_each_answer() -> None:
    three = replace(COUNTED, asked=Asked(tokens=100, viewers=3), reads=COUNTED.reads + 400_000)
    together = replace(COUNTED, asked=Asked(tokens=100, viewers=3, apart=False), reads=COUNTED.reads + 100_000)
    answers = (COUNTED, three, together)
    prices = replace(PRICES, firestore=replace(PRICES.firestore, reads_per_100k=0.001))
    said = tables(Count(rate=50.0, answers=answers, worker_cpu=0.01, api_cpu=0.002), prices, 7)
    counted, priced = (block.splitlines() for block in said.split("\n\n")[1:4:2])
    assert len(counted) == len(priced) == 2 + len(answers)
    assert len({line.count("|") for line in counted}) == len({line.count("|") for line in priced}) == 1
    assert [cell.strip() for cell in counted[2].split("|")[1:-1]] == [
        *("100", "1", "100,000", "200,000", "300,000", "2,000,000"),
        *("40.0", "60.0", "31,457,280.0", "1,048,576.0", "3,145,728.0"),
    ]
    assert "3 on one instance" in counted[4]
    # 0.004 dollars for two more viewers, and 0.001, a thousand times.
    assert "One more viewer of 100 tokens costs 2.000 where" in said
    assert "and 0.500 where somebody does." in said
    assert said.endswith("10 ms of a CPU in the worker, and 2 ms in the api.")
