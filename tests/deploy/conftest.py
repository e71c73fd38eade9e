"""A cloud for each test, and one that deploy.sh has deployed to, to go on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.cloud import Cloud, Done, clouds


@pytest.fixture(scope="session")
def make_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Cloud]]:
    with clouds(tmp_path_factory.mktemp("clouds")) as make:
        yield make


@pytest.fixture
def cloud(make_cloud: Callable[[str], Cloud], tmp_path: Path) -> Cloud:
    """An empty project."""
    return make_cloud(tmp_path.name)


@pytest.fixture(scope="session")
def first(make_cloud: Callable[[str], Cloud]) -> tuple[Done, dict[str, Any]]:
    """A first deployment, and what it made."""
    cloud = make_cloud("first")
    done = cloud.run()
    assert done.code == 0, done.err
    return done, cloud.state


@pytest.fixture
def live(first: tuple[Done, dict[str, Any]], cloud: Cloud) -> Cloud:
    """A project with Holdfast in it."""
    cloud.state = deepcopy(first[1])
    return cloud
