"""Documents against the real emulator: written values can be read, and a commit's conditions hold."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest

from lib.cloud.documents import (
    Change,
    Create,
    Delete,
    Document,
    Exists,
    Patch,
    Put,
    Refused,
    Stale,
    Target,
)
from lib.cloud.listen import listening_loop
from lib.domain.errors import Unreachable

PATIENCE = 30.0

# What is written, and what is then read where that differs.
SAME = ...
VALUES = {
    "none": (None, SAME),
    "true": (True, SAME),
    "false": (False, SAME),
    "zero": (0, SAME),
    "smallest integer": (-(2**63), SAME),
    "largest integer": (2**63 - 1, SAME),
    "one above": (2**63, str(2**63)),
    "huge integer": (-(10**40), str(-(10**40))),
    "float": (0.1, SAME),
    "whole float": (1e300, SAME),
    "infinity": (float("inf"), SAME),
    "no text": ("", SAME),
    "odd text": ("é\u2028\0\r\n🦊", SAME),
    "no bytes": (b"", SAME),
    "bytes": (bytes(range(256)), SAME),
    "moment": (datetime(2024, 2, 29, 23, 59, 59, 123457, UTC), SAME),
    "moment before 1970": (datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), SAME),
    "empty map": ({}, SAME),
    "map": ({"a": {"b": {"c": [1, {"d": None}]}}}, SAME),
    "dotted and quoted keys": ({"a.b": 1, "`": 2, "\\": 3, " ": 4, "1": 5, "ключ": 6}, SAME),
    "empty key": ({"": 1}, {"_": 1}),
    "reserved key": ({"__name__": {"____": 1}}, {"name": {"_": 1}}),
    "empty list": ([], SAME),
    "list": ([1, None, "a", b"b", 0.5, {"c": [2]}], SAME),
    "list in a list": ([[1, [2]], []], ["[1,[2]]", "[]"]),
    "huge integer in a list": ([2**70], [str(2**70)]),
}

ODD_NAMES = ["with space", "hy-phen", "1st", "ключ", "a'b", "back`tick", "back\\slash", "*", "[0]", "~"]


def expected(name):
    written, read = VALUES[name]
    return written if read is SAME else read


def changes_of(documents, path, until) -> list[Change]:
    """What a listener to one document hears, until that is enough."""

    async def listen() -> list[Change]:
        async def targets():
            yield Target(1, path)
            await asyncio.Event().wait()

        heard: list[Change] = []
        async with asyncio.timeout(PATIENCE), aclosing(documents.listen(targets())) as changes:
            async for change in changes:
                heard.append(change)
                if until(change):
                    break
        return heard

    return asyncio.run_coroutine_threadsafe(listen(), listening_loop()).result(2 * PATIENCE)


def first_change(documents, path) -> Document | None:
    return changes_of(documents, path, lambda change: change.targets)[-1].document


def test_a_created_document_is_there_and_cannot_be_created_twice(documents, uid):
    path = f"users/{uid}"
    (version,) = documents.commit(Create(path, {"n": 1}))
    assert documents.get(path) == [Document(path, {"n": 1}, version)]

    with pytest.raises(Exists):
        documents.commit(Create(path, {"n": 2}))
    assert documents.get(path) == [Document(path, {"n": 1}, version)]


def test_a_commit_does_all_its_writes_or_none(documents, uid):
    there, other = f"users/{uid}/things/there", f"users/{uid}/things/other"
    documents.commit(Create(there, {"n": 1}))

    with pytest.raises(Exists):
        documents.commit(Put(other, {"n": 1}), Create(there, {"n": 2}))
    with pytest.raises(Stale):
        documents.commit(Delete(there), Patch(other, {"n": 2}))

    assert [found and found.fields for found in documents.get(there, other)] == [{"n": 1}, None]


def test_a_put_replaces_the_whole_document(documents, uid):
    path = f"users/{uid}"
    documents.commit(Put(path, {"a": 1, "b": {"c": 2}}))
    documents.commit(Put(path, {"b": {"d": 3}}))
    assert documents.get(path)[0].fields == {"b": {"d": 3}}


def test_a_put_over_a_version_wants_exactly_that_version(documents, uid):
    path = f"users/{uid}"
    (first,) = documents.commit(Put(path, {"n": 1}))
    (second,) = documents.commit(Put(path, {"n": 2}, first))
    assert documents.get(path)[0] == Document(path, {"n": 2}, second)

    with pytest.raises(Stale):
        documents.commit(Put(path, {"n": 3}, first))
    assert documents.get(path)[0] == Document(path, {"n": 2}, second)


def test_a_put_over_a_version_of_a_document_that_is_gone_is_stale(documents, uid):
    path = f"users/{uid}"
    (version,) = documents.commit(Put(path, {"n": 1}))
    documents.commit(Delete(path))

    with pytest.raises(Stale):
        documents.commit(Put(path, {"n": 2}, version))
    assert documents.get(path) == [None]


def test_a_commit_gives_the_version_of_each_document_in_the_order_of_its_writes(documents, uid):
    paths = [f"users/{uid}/things/{n}" for n in range(3)]
    documents.commit(*[Put(path, {"n": 0}) for path in paths])
    versions = documents.commit(Put(paths[2], {"n": 1}), Patch(paths[0], {"n": 1}))
    third, first = documents.get(paths[2], paths[0])
    assert versions == [third.version, first.version]


def test_a_patch_changes_only_what_it_names(documents, uid):
    path = f"users/{uid}"
    documents.commit(Create(path, {"a": 1, "b": {"c": 2, "d": {"e": 3, "f": 4}}, "g": [5], "h": 6}))
    documents.commit(Patch(path, {"a": 10, "b.d.e": 30, "b.new.x": 7}, remove=["h", "b.c", "not.there"]))
    assert documents.get(path)[0].fields == {
        "a": 10,
        "b": {"d": {"e": 30, "f": 4}, "new": {"x": 7}},
        "g": [5],
    }


def test_a_patch_replaces_a_map_that_it_names_whole(documents, uid):
    path = f"users/{uid}"
    documents.commit(Create(path, {"a": {"b": 1, "c": 2}}))
    documents.commit(Patch(path, {"a": {"d": 3}}))
    assert documents.get(path)[0].fields == {"a": {"d": 3}}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_patch_takes_odd_field_names(documents, uid, name):
    path = f"users/{uid}"
    documents.commit(Create(path, {"map": {"kept": 1, name: "old"}, name: "old"}))

    documents.commit(Patch(path, {f"map.{name}": "new", name: "new"}))
    assert documents.get(path)[0].fields == {"map": {"kept": 1, name: "new"}, name: "new"}

    documents.commit(Patch(path, {}, remove=[f"map.{name}", name]))
    assert documents.get(path)[0].fields == {"map": {"kept": 1}}


def test_a_patch_of_a_document_that_is_not_there_is_stale_and_creates_nothing(documents, uid):
    path = f"users/{uid}"
    with pytest.raises(Stale):
        documents.commit(Patch(path, {"a": 1}))
    with pytest.raises(Stale):
        documents.commit(Patch(path, {}, remove=["a"]))
    assert documents.get(path) == [None]


def test_deleting_what_is_not_there_is_no_error(documents, uid):
    documents.commit(Delete(f"users/{uid}"))
    assert documents.get(f"users/{uid}") == [None]


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_read_as_it_was_written(documents, uid, name):
    path = f"users/{uid}/things/thing"
    documents.commit(Create(path, {"value": VALUES[name][0]}))

    (read,) = documents.get(path)
    (queried,) = documents.query(f"users/{uid}/things")
    assert read.fields["value"] == expected(name)
    assert queried == read
    assert first_change(documents, path) == read


@pytest.mark.parametrize("name", VALUES)
def test_a_patched_value_is_read_as_it_was_written(documents, uid, name):
    path = f"users/{uid}"
    documents.commit(Create(path, {"value": "before", "map": {"value": "before"}}))
    documents.commit(Patch(path, {"value": VALUES[name][0], "map.value": VALUES[name][0]}))
    assert documents.get(path)[0].fields == {"value": expected(name), "map": {"value": expected(name)}}


def test_a_huge_integer_in_a_list_in_a_list_is_kept(documents, uid):
    documents.commit(Create(f"users/{uid}", {"value": [[2**70]]}))
    (kept,) = documents.get(f"users/{uid}")[0].fields["value"]
    assert str(2**70) in kept


@pytest.mark.parametrize("value", [{"__a__": 1, "a": 2}, {"a": [1], "__a__": [2]}, {"": "x", "_": "y"}])
def test_names_that_can_not_be_kept_as_they_are_take_no_other_names_place(documents, uid, value):
    documents.commit(Create(f"users/{uid}", {"value": value}))
    kept = documents.get(f"users/{uid}")[0].fields["value"]
    assert sorted(kept.values()) == sorted(value.values())
    for name in ("a", "_"):
        assert name not in value or kept[name] == value[name]


@pytest.fixture
def things(documents, uid):
    """A collection of documents that tie in one field, written in no order."""
    collection = f"users/{uid}/things"
    rows = {"d": (1, 4), "a": (2, 1), "e": (2, 5), "c": (1, 3), "b": (2, 2)}
    documents.commit(
        *[Create(f"{collection}/{name}", {"rank": rank, "n": n, "pad": "x"}) for name, (rank, n) in rows.items()]
    )
    return collection


def names(found) -> str:
    return "".join(document.path[-1] for document in found)


def test_a_query_orders_by_its_field_and_then_by_name(documents, things):
    assert names(documents.query(things, order="rank")) == "cdabe"
    assert names(documents.query(things, order="rank", descending=True)) == "ebadc"


@pytest.mark.parametrize("descending", [False, True])
def test_a_query_continues_after_any_document(documents, things, descending):
    everything = documents.query(things, order="rank", descending=descending)
    for place, last in enumerate(everything):
        assert documents.query(things, order="rank", descending=descending, after=last) == everything[place + 1 :]


def test_pages_of_a_query_join_to_the_whole(documents, things):
    pages, last = [], None
    for _ in range(4):
        pages.append(documents.query(things, order="rank", after=last, limit=2))
        last = pages[-1][-1] if pages[-1] else last
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert [found for page in pages for found in page] == documents.query(things, order="rank")


def test_a_query_filters_by_all_its_conditions(connect, stack, things):
    documents = connect(stack.firestore_host)  # without the indexes that these queries would need
    assert names(documents.query(things, where=[("rank", "==", 2), ("n", ">", 1)], order="n")) == "be"
    assert names(documents.query(things, where=[("n", "in", [1, 4, 9])], order="n")) == "ad"
    assert documents.query(things, where=[("n", ">", 100)]) == []


def test_a_query_reads_only_the_fields_it_selects(documents, things):
    found = documents.query(things, order="n", select=["n", "absent"], limit=2)
    assert [document.fields for document in found] == [{"n": 1}, {"n": 2}]


def test_a_query_that_selects_nothing_reads_names_alone(documents, things):
    found = documents.query(things, select=(), limit=200)
    assert names(found) == "abcde"
    assert all(document.fields == {} for document in found)


def test_a_count_is_of_what_matches_and_goes_up_to_its_limit(documents, things):
    asked = [
        documents.counting(things, limit=100),
        documents.counting(things, limit=3),
        documents.counting(things, where=[("rank", "==", 2)], limit=100),
        documents.counting(things, where=[("rank", "==", 9)], limit=100),
    ]
    assert [counted() for counted in asked] == [5, 3, 3, 0]


def test_documents_are_given_in_the_order_asked_for_with_none_where_there_is_none(documents, things):
    asked = "xbaycbz"
    found = documents.get(*[f"{things}/{name}" for name in asked])
    assert [document and document.path[-1] for document in found] == [None, "b", "a", None, "c", "b", None]


def test_a_listener_to_a_document_that_is_not_there_is_told_so(documents, uid):
    assert first_change(documents, f"users/{uid}") is None


def raised(outcome: Any) -> Any:
    """What came of a write in a batch, as a commit would say it."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def test_each_write_of_a_batch_is_done_or_fails_by_itself(documents, uid):
    here, there = f"users/{uid}", f"users/{uid}-2"
    (version,) = documents.commit(Create(here, {"n": 0}))
    outcomes = documents.batch(
        [
            Put(here, {"n": 1}, version),
            Create(there, {"n": 1}),
            Patch(f"users/{uid}-3", {"n": 1}),
            Put(f"users/{uid}-4", {"blob": bytes(1_200_000)}),
            Put(f"users/{uid}-5", {"n": 5}),
        ]
    )
    assert [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)] == [Stale, Refused]
    assert documents.get(here, there, f"users/{uid}-5") == [
        Document(here, {"n": 1}, outcomes[0]),
        Document(there, {"n": 1}, outcomes[1]),
        Document(f"users/{uid}-5", {"n": 5}, outcomes[4]),
    ]
    outcomes = documents.batch([Put(here, {"n": 2}, version), Create(there, {"n": 2})])
    assert [type(outcome) for outcome in outcomes] == [Stale, Exists]
    assert documents.get(here, there)[0].fields == documents.get(here, there)[1].fields == {"n": 1}


def test_a_batch_of_more_than_one_call_can_take_is_done_in_several(documents, uid):
    writes = [Put(f"users/{uid}-{n}", {"blob": bytes(900_000)}) for n in range(9)]
    versions = documents.batch(writes)
    found = documents.get(*[write.path for write in writes], select=["__name__"])
    assert [each.version for each in found if each] == versions
    assert documents.batch([]) == []


def test_where_nothing_answers_every_call_is_unreachable(connect, nobody):
    documents = connect(nobody)
    try:
        for call in (
            lambda: documents.get("a/b"),
            lambda: documents.query("a"),
            lambda: documents.counting("a", limit=1)(),
            lambda: documents.commit(Put("a/b", {})),
            lambda: documents.batch([Put("a/b", {})])[0],
            lambda: changes_of(documents, "a/b", lambda _: True),
        ):
            with pytest.raises(Unreachable):
                raised(call())
    finally:
        documents.close()


def test_a_commit_that_can_never_succeed_is_not_taken_for_one_to_try_again(documents, uid):
    with pytest.raises(Refused):
        documents.commit(Create(f"users/{uid}", {"blob": bytes(1_200_000)}))
    assert documents.get(f"users/{uid}") == [None]


def test_the_fields_that_are_selected_are_read_and_no_others(documents, uid):
    documents.commit(Create(f"users/{uid}", {"short": 1, "long": "x" * 1000}), Create(f"users/{uid}-2", {"long": "y"}))
    found = documents.get(f"users/{uid}-2", f"users/{uid}", f"users/{uid}-3", select=["short"])
    assert [each and each.fields for each in found] == [{}, {"short": 1}, None]


def test_a_document_that_is_gone_is_still_listed_while_something_lies_below_it(documents, uid):
    there, gone, empty = (f"users/{uid}/chats/{name}" for name in ("there", "gone", "empty"))
    documents.commit(*(Create(path, {}) for path in (there, gone, empty, f"{gone}/messages/1")))
    documents.commit(Delete(gone), Delete(empty))
    assert list(documents.paths(f"users/{uid}/chats")) == [gone, there]
    assert list(documents.paths(f"users/{uid}/none")) == []
