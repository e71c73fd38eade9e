"""Two regions: each is a run of deploy.sh, what they share is made once, and destroying one leaves the other whole."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from lib.runtime.settings import Settings
from tests.deploy.cloud import AWAY, HOME, INVOKER, KEY, NUMBER, PROJECT, Cloud
from tests.deploy.test_deploying import environment
from tests.deploy.test_destroying import COMMIT, asked

SHARED = ("accounts", "databases", "secrets", "releases", "rulesets")
OF_AWAY = [
    "tasks queues create holdfast",
    *["tasks queues add-iam-policy-binding holdfast"] * 2,
    "run deploy holdfast-worker",
    "run services add-iam-policy-binding holdfast-worker",
    "run deploy holdfast-api",
    "run services add-iam-policy-binding holdfast-api",
]
NO_GLOBAL = {"policy": {"allowedValues": ["in:us-locations"]}, "no_global": True}
KMS = "projects/keys/locations/{}/keyRings/ring/cryptoKeys/holdfast"
SECRET = "holdfast-upstream-api-key"


@pytest.fixture(scope="session")
def both(make_cloud: Callable[[str], Cloud]) -> dict[str, Any]:
    """What is there when one has been deployed after the other, without the key the second time."""
    cloud = make_cloud("both")
    for settings in ({"FIRESTORE_LOCATION": "nam7"}, {"REGION": AWAY, "UPSTREAM_API_KEY": ""}):
        done = cloud.run(**settings)
        assert done.code == 0, done.err
        assert "while that region is away" not in done.out
    return cloud.state


@pytest.fixture
def pair(both: dict[str, Any], cloud: Cloud) -> Cloud:
    cloud.state = deepcopy(both)
    return cloud


def of(region: str, state: dict[str, Any]) -> dict[str, Any]:
    """Everything in the project that is of a region."""
    kinds = {kind: state[kind] for kind in ("services", "deployed", "queues")}
    return {
        **{
            kind: {name: each for name, each in all_.items() if name.startswith(region)} for kind, all_ in kinds.items()
        },
        "policies": {name: each for name, each in state["policies"].items() if f" {region}/" in name},
    }


def shared(state: dict[str, Any]) -> dict[str, Any]:
    """Everything in the project that is of no region, and of Holdfast."""
    policies = {name: each for name, each in state["policies"].items() if "/" not in name}
    return {**{kind: state[kind] for kind in SHARED}, "policies": policies}


def test_the_second_run_makes_what_is_of_its_region_and_nothing_that_is_shared(cloud: Cloud) -> None:
    assert cloud.run(FIRESTORE_LOCATION="nam7").code == 0
    before = cloud.state
    done = cloud.run(REGION=AWAY, UPSTREAM_API_KEY="")
    assert done.code == 0, done.err
    assert done.changes == OF_AWAY
    assert shared(cloud.state) == shared(before)
    assert of(HOME, cloud.state) == of(HOME, before)
    assert cloud.state["databases"]["(default)"]["location"] == "nam7"
    assert f"The API is at https://holdfast-api-{NUMBER}.{AWAY}.run.app\n" in done.out


@pytest.mark.parametrize("region", [HOME, AWAY])
def test_each_region_has_its_own_url_and_queue_and_only_those(pair: Cloud, region: str) -> None:
    for name in ("worker", "api"):
        settings = Settings.from_env(environment(pair.deployed(name, region)))
        assert settings.worker_url == f"https://holdfast-worker-{NUMBER}.{region}.run.app"
        assert settings.queue_path == f"projects/{PROJECT}/locations/{region}/queues/holdfast"
    (invokes,) = pair.state["policies"][f"run services {region}/holdfast-worker"]
    assert invokes == {"role": "roles/run.invoker", "members": [f"serviceAccount:{INVOKER}"]}


@pytest.mark.parametrize("region", [HOME, AWAY])
def test_neither_run_has_anything_to_change_when_it_is_repeated(pair: Cloud, region: str) -> None:
    before = pair.state
    done = pair.run(REGION=region)
    assert (done.code, done.changes) == (0, []), done.err
    assert pair.state == before


def test_a_new_key_reaches_each_region_with_its_next_run(pair: Cloud) -> None:
    added = f"secrets versions add {SECRET}"
    assert pair.run(UPSTREAM_API_KEY="sk-new").changes == [added, "run deploy holdfast-worker"]
    assert pair.deployed("worker", AWAY)["set-secrets"].endswith(":1")
    assert pair.run(REGION=AWAY, UPSTREAM_API_KEY="").changes == ["run deploy holdfast-worker"]
    assert pair.deployed("worker", AWAY)["set-secrets"].endswith(":2")


@pytest.mark.parametrize(("region", "other"), [(HOME, AWAY), (AWAY, HOME)])
def test_destroying_one_region_leaves_the_other_whole_and_the_last_takes_all(
    pair: Cloud, region: str, other: str
) -> None:
    state = pair.state
    theirs = f"app@{PROJECT}.iam.gserviceaccount.com"
    state["accounts"][theirs] = ""
    state["secrets"]["theirs"] = {"labels": {"app": "theirs"}, "versions": []}
    state["policies"][f"projects {PROJECT}"].append(
        {"role": "roles/datastore.user", "members": [f"serviceAccount:{theirs}"]}
    )
    pair.state = state
    done = pair.run("destroy", "--yes", REGION=region)
    assert done.code == 0, done.err
    assert done.changes == [
        "run services delete holdfast-api",
        "run services delete holdfast-worker",
        "tasks queues delete holdfast",
    ]
    assert f"Not removed, because holdfast is in {other} too" in done.out
    assert not any(of(region, pair.state).values())
    assert (of(other, pair.state), shared(pair.state)) == (of(other, state), shared(state))
    again = pair.run("destroy", "--yes", REGION=region)
    assert (again.code, again.changes) == (0, []), again.err
    rerun = pair.run(REGION=other)
    assert (rerun.code, rerun.changes) == (0, []), rerun.err

    assert pair.run("destroy", "--yes", REGION=other).code == 0
    state = pair.state
    assert (list(state["accounts"]), list(state["secrets"])) == ([theirs], ["theirs"])
    assert not any(of(other, state).values())
    (kept,) = [each for each in state["policies"].values() if each]
    assert [each["members"] for each in kept] == [[f"serviceAccount:{theirs}"]]


def test_the_data_is_not_deleted_while_another_region_needs_it(pair: Cloud) -> None:
    before = pair.state
    done = pair.run("destroy", "--yes", "--delete-data", REGION=AWAY)
    assert (done.code, done.changes, pair.state) == (1, [], before)
    assert done.err.startswith(f"--delete-data: holdfast is in {HOME} too, and needs that data. Nothing was removed")
    code, screen = asked(pair, "yes", "yes")
    assert code == 0, screen
    assert f"what holdfast has in {HOME}, but not what it shares with {AWAY}, from {PROJECT}? (yes/no)" in screen
    assert screen.count("(yes/no)") == 1
    assert COMMIT not in screen
    assert pair.run("destroy", "--yes", "--delete-data", REGION=AWAY).code == 0
    assert pair.state["databases"]["(default)"]["expiring"] == []


@pytest.mark.parametrize("left", ["api", "worker"])
def test_one_service_that_is_left_is_a_region_that_is(pair: Cloud, left: str) -> None:
    state = pair.state
    gone = ({"api", "worker"} - {left}).pop()
    del state["services"][f"{AWAY}/holdfast-{gone}"], state["deployed"][f"{AWAY}/holdfast-{gone}"]
    pair.state = state
    assert pair.run("destroy", "--yes").code == 0
    assert shared(pair.state) == shared(state)


def test_an_app_s_services_whose_names_only_begin_alike_are_no_region_of_holdfast(live: Cloud) -> None:
    state = live.state
    for name in ("holdfast", "holdfast-api-2", "holdfast-web", "my-holdfast-api", "holdfast-staging-worker"):
        service = deepcopy(state["services"][f"{HOME}/holdfast-api"])
        service["metadata"] |= {"name": name, "labels": {"cloud.googleapis.com/location": AWAY}}
        state["services"][f"{AWAY}/{name}"] = service
    live.state = state
    done = live.run("destroy", "--yes")
    assert done.code == 0, done.err
    assert (live.state["accounts"], live.state["secrets"]) == ({}, {})
    assert len(live.state["services"]) == 5


def test_while_a_region_does_not_answer_nothing_is_removed(pair: Cloud) -> None:
    pair.change(silent=[AWAY])
    before = pair.state
    done = pair.run("destroy", "--yes")
    assert (done.code, done.changes, pair.state) == (1, [], before)
    assert "Not every region answers, so holdfast may be where it can't be seen. Nothing was removed" in done.err
    pair.change(faults={"run services list": 1}, silent=[])
    done = pair.run("destroy", "--yes")
    assert (done.code, done.changes) == (1, [])


def test_a_queue_that_another_region_s_services_use_stays(pair: Cloud) -> None:
    """Cloud Tasks is in fewer regions than Cloud Run, so two of the latter may share one of the former."""
    settings = {"REGION": "europe-west9", "TASKS_LOCATION": AWAY}
    state = pair.state
    service = deepcopy(state["services"][f"{AWAY}/holdfast-api"])
    service["metadata"]["labels"]["cloud.googleapis.com/location"] = "europe-west9"
    state["services"]["europe-west9/holdfast-api"] = service
    state["deployed"]["europe-west9/holdfast-api"] = state["deployed"][f"{AWAY}/holdfast-api"]
    pair.state = state
    done = pair.run("destroy", "--yes", **settings)
    assert (done.code, done.changes) == (0, ["run services delete holdfast-api"]), done.err
    assert f"The queue stays, because holdfast uses it elsewhere: {AWAY}" in done.out
    assert of(AWAY, pair.state) == of(AWAY, state)


@pytest.mark.parametrize("key", ["", KMS], ids=["no global secrets", "keys of one's own"])
def test_a_secret_that_is_kept_in_the_first_region_alone_has_a_second_in_the_second(cloud: Cloud, key: str) -> None:
    """Its locations can't be changed, and the second region must not lose its key with the first."""
    cloud.change(**({} if key else NO_GLOBAL))
    home, away = ({"REGION": region, "KMS_KEY": key.format(region)} for region in (HOME, AWAY))
    assert cloud.run(**home).code == 0
    before = cloud.state
    unset = cloud.run(**{**away, "UPSTREAM_API_KEY": ""})
    assert (unset.code, unset.changes) == (1, [])
    assert f"as it is not stored yet for {AWAY} ({SECRET} is not kept there)" in unset.err
    done = cloud.run(**away)
    assert done.code == 0, done.err
    assert [each for each in done.changes if each.startswith("secrets")] == [
        f"secrets create {SECRET}-{AWAY}",
        f"secrets versions add {SECRET}-{AWAY}",
        f"secrets add-iam-policy-binding {SECRET}-{AWAY}",
    ]
    assert cloud.deployed("worker", AWAY)["set-secrets"] == f"UPSTREAM_API_KEY={SECRET}-{AWAY}:1"
    assert (of(HOME, cloud.state), cloud.state["secrets"][SECRET]) == (of(HOME, before), before["secrets"][SECRET])
    made = cloud.state["secrets"][f"{SECRET}-{AWAY}"]
    assert made["versions"] == [{"value": KEY, "state": "ENABLED"}]
    assert [each["location"] for each in made["replication"]["userManaged"]["replicas"]] == [AWAY]
    for region in (home, away):
        again = cloud.run(**{**region, "UPSTREAM_API_KEY": ""})
        assert (again.code, again.changes) == (0, []), again.err
    assert cloud.run("destroy", "--yes").code == 0
    assert set(cloud.state["secrets"]) == {SECRET, f"{SECRET}-{AWAY}"}
    assert cloud.run("destroy", "--yes", REGION=AWAY).code == 0
    assert cloud.state["secrets"] == {}


def test_a_secret_that_is_kept_in_both_regions_is_shared(live: Cloud) -> None:
    state = live.state
    replicas = [{"location": each} for each in (HOME, AWAY)]
    state["secrets"][SECRET]["replication"] = {"userManaged": {"replicas": replicas}}
    live.state = state
    done = live.run(REGION=AWAY, UPSTREAM_API_KEY="")
    assert (done.code, done.changes) == (0, OF_AWAY), done.err


def test_a_database_of_the_first_region_alone_is_named_in_the_second(live: Cloud) -> None:
    assert "while that region is away" not in live.run().out
    done = live.run(REGION=AWAY)
    assert done.code == 0, done.err
    assert f"The database (default) is in {HOME} alone, and not in {AWAY}: while that region is away" in done.out


def test_the_quota_is_of_a_region(live: Cloud) -> None:
    """Each region has one of its own: the first region's instances do not count in the second."""
    assert live.run(REGION=AWAY, API_MAX_INSTANCES="8", WORKER_MAX_INSTANCES="12").code == 0
    done = live.run(REGION=AWAY, API_MAX_INSTANCES="9")
    assert done.code == 1
    assert f"That is a quota: {AWAY} has too little CPU" in done.err


def test_a_dry_run_for_another_region_names_it_and_no_other(cloud: Cloud) -> None:
    done = cloud.run("--dry-run", REGION=AWAY, settings={})
    assert done.code == 0, done.err
    assert HOME not in done.out
    assert cloud.run("destroy", "--dry-run").out.index("# Where no other region has these services:") > 0
