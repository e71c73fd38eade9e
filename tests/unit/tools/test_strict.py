"""Strict mode: each strictness can be switched on alone, and the parts take what it says."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from local.firestore_proxy.faults import Faults as FirestoreFaults
from local.front_end.limits import Limits
from local.strict import STRICTNESSES, Strict
from local.tasks_emulator.faults import Faults as TasksFaults

PRIVATE = {"invoker": "i@p.iam.gserviceaccount.com", "audience": "https://w.example/", "certs_url": "http://c.example"}


@pytest.mark.parametrize("name", STRICTNESSES)
def test_each_strictness_changes_something_and_is_taken_by_its_part(name: str) -> None:
    alone = Strict.of([name])
    changed = (
        FirestoreFaults(**alone.firestore),
        TasksFaults(**alone.tasks),
        Limits(**alone.front),
        Limits(**PRIVATE, **alone.worker_front),
    )
    assert changed != (FirestoreFaults(), TasksFaults(), Limits(), Limits(**PRIVATE))


def test_strictnesses_add_up_and_none_hides_another() -> None:
    every = Strict.of(STRICTNESSES)
    for name, each in STRICTNESSES.items():
        for part, fields in asdict(each).items():
            assert fields.items() <= getattr(every, part).items(), name


@pytest.mark.parametrize(
    ("given", "names"),
    [("1", tuple(STRICTNESSES)), ("reads, latency", ("reads", "latency")), ("budget", ("budget",))],
)
def test_the_environment_says_which(given: str, names: tuple[str, ...]) -> None:
    assert Strict.from_env({"HOLDFAST_STRICT": given}) == Strict.of(names)


def test_nothing_is_strict_unless_it_is_asked_for_or_the_default() -> None:
    assert Strict.from_env({}) is None
    assert Strict.from_env({"HOLDFAST_STRICT": ""}, default="1") == Strict.of(STRICTNESSES)
    assert Strict.from_env({"HOLDFAST_STRICT": "0"}, default="1") is None


def test_a_strictness_that_is_misspelt_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"STRICT must be 0, 1, or some of indexes,.*and has 'raeds'"):
        Strict.from_env({"HOLDFAST_STRICT": "budget,raeds"})
