"""The Firestore proxy's pure parts: the write budget of a document, the largest sizes, and what a listener is told."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud.firestore_v1.types import firestore as rpc

from local.firestore_proxy.budget import ABORTED, MOST_ABORTED, SLOWEST, WINDOW, Budget
from local.firestore_proxy.indexes import Indexes
from local.firestore_proxy.limits import MAX_COMMIT_BYTES, entries, too_much
from local.firestore_proxy.listening import Targets, later

LISTEN, LISTENED, COMMIT = rpc.ListenRequest.pb(), rpc.ListenResponse.pb(), rpc.CommitRequest.pb()
PATH = "projects/demo/databases/(default)/documents/posts/1"


def written(budget: Budget, rate: float, seconds: float, allowed: float = 1.0) -> float:
    """The multiple after a document was written at a rate for some time."""
    return [budget.write(PATH, allowed, number / rate) for number in range(round(rate * seconds))][-1]


def test_a_document_that_is_written_within_its_budget_meets_no_resistance() -> None:
    budget = Budget(random.Random(7))
    assert written(budget, rate=0.9, seconds=120) < 1
    assert budget.wait([0.9, 0.5]) == 0
    assert not any(budget.aborts(0.9) for _ in range(1000))


def test_a_burst_is_free_and_what_goes_on_is_not() -> None:
    assert written(Budget(random.Random(7)), rate=100, seconds=0.05) < 1
    assert written(Budget(random.Random(7)), rate=10, seconds=60) == pytest.approx(10, rel=0.1)
    assert written(Budget(random.Random(7)), rate=10, seconds=60, allowed=5) == pytest.approx(2, rel=0.1)


def test_a_document_s_budget_comes_back() -> None:
    budget = Budget(random.Random(7))
    written(budget, rate=10, seconds=60)
    assert budget.write(PATH, 1.0, 60 + 10 * WINDOW) < 1


def test_each_document_has_a_budget_of_its_own() -> None:
    budget = Budget(random.Random(7))
    written(budget, rate=10, seconds=60)
    assert budget.write(f"{PATH}0", 1.0, 60) < 1


def test_latency_and_aborts_rise_with_the_multiple_and_have_a_bound() -> None:
    budget = Budget(random.Random(7))
    waits = {multiple: sum(budget.wait([0.1, multiple]) for _ in range(2000)) / 2000 for multiple in (2.0, 10.0, 50.0)}
    assert 0 < waits[2] < waits[10] < waits[50]
    assert waits[10] == pytest.approx(0.018, rel=0.2)
    assert budget.wait([1e9]) == SLOWEST
    aborts = {multiple: sum(budget.aborts(multiple) for _ in range(20_000)) / 20_000 for multiple in (101.0, 1e9)}
    assert aborts[101.0] == pytest.approx(100 * ABORTED, rel=0.3)
    assert aborts[1e9] == pytest.approx(MOST_ABORTED, rel=0.1)


@pytest.fixture
def indexes(tmp_path: Path) -> Indexes:
    path = tmp_path / "firestore.indexes.json"
    order = {"order": "ASCENDING"}
    given = {
        "indexes": [
            {
                "collectionGroup": "posts",
                "queryScope": "COLLECTION",
                "fields": [{"fieldPath": "a", **order}, {"fieldPath": "b", **order}],
            }
        ],
        "fieldOverrides": [
            {"collectionGroup": "posts", "fieldPath": "text", "indexes": []},
            {"collectionGroup": "posts", "fieldPath": "list.long", "indexes": []},
        ],
    }
    path.write_text(json.dumps(given))
    return Indexes.read(path)


def commit(**arrays: int) -> Any:
    """A commit of a document with arrays of these lengths."""
    request = COMMIT()
    document = request.writes.add().update
    document.name = PATH
    for name, length in arrays.items():
        for number in range(length):
            document.fields[name].array_value.values.add().integer_value = number
    return request


def test_index_entries_are_those_of_fields_arrays_maps_and_composite_indexes(indexes: Indexes) -> None:
    document = commit(list=3).writes[0].update
    document.fields["text"].string_value = "exempted"
    assert entries(document, indexes) == 3
    document.fields["a"].string_value = "both directions"
    assert entries(document, indexes) == 5
    document.fields["b"].map_value.fields["x"].string_value = "a field of a map"
    assert entries(document, indexes) == 7
    document.fields["b"].string_value = "and the composite index"
    assert entries(document, indexes) == 8


def test_a_commit_with_too_many_index_entries_is_refused(indexes: Indexes) -> None:
    assert too_much(b"", commit(list=40_000).writes, indexes) is None
    assert too_much(b"", commit(list=40_001).writes, indexes) == f"Too many index entries for document {PATH}."
    assert too_much(b"", commit(text=40_001).writes, indexes) is None


def test_a_commit_that_is_too_large_is_refused() -> None:
    assert too_much(b"x" * MAX_COMMIT_BYTES, (), None) is None
    assert too_much(b"x" * (MAX_COMMIT_BYTES + 1), (), None) == "Transaction too big. Decrease transaction size."


def told(kind: str, target: int = 2, path: str = PATH) -> bytes:
    answer = LISTENED()
    match kind:
        case "change":
            answer.document_change.document.name = path
            answer.document_change.target_ids.append(target)
        case "delete":
            answer.document_delete.document = path
            answer.document_delete.removed_target_ids.append(target)
        case _:
            answer.target_change.target_change_type = rpc.TargetChange.TargetChangeType[kind]
            answer.target_change.target_ids.append(target)
    return answer.SerializeToString()


def test_a_listener_is_not_told_that_a_document_is_missing_that_it_never_saw() -> None:
    targets = Targets()
    kinds = ["ADD", "delete", "CURRENT", "change", "delete", "delete"]
    assert [targets.passes(told(kind)) for kind in kinds] == [True, False, True, True, True, False]


def test_what_one_target_was_told_is_no_news_of_another() -> None:
    targets = Targets()
    assert targets.passes(told("change", target=2))
    assert not targets.passes(told("delete", target=4))
    assert not targets.passes(told("delete", target=2, path=f"{PATH}0"))
    assert targets.passes(told("delete", target=2))


def test_a_listener_that_resumes_is_told_of_a_deletion_since() -> None:
    targets = Targets()
    request = LISTEN()
    request.add_target.target_id, request.add_target.resume_token = 2, b"token"
    asked = [request.SerializeToString()]
    assert list(targets.asked(iter(asked))) == asked
    assert targets.passes(told("delete"))


def test_a_corrupt_message_passes_as_it_is() -> None:
    assert Targets().passes(b"\xff\xff")


def test_what_comes_later_comes_in_its_order() -> None:
    waits = iter([0.05, 0.0, 0.02])
    assert list(later(iter([b"1", b"2", b"3"]), lambda: next(waits))) == [b"1", b"2", b"3"]


def test_an_error_of_what_comes_later_is_raised() -> None:
    def breaking() -> Iterator[bytes]:
        yield b"1"
        raise ConnectionError("broke")

    came = later(breaking(), lambda: 0.0)
    assert next(came) == b"1"
    with pytest.raises(ConnectionError, match="broke"):
        next(came)
