"""In a new project, where nothing is known at once: waits for what is, and names a remedy for what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.deploy.cloud import API, INVOKER, PROJECT, WORKER, Cloud, Done
from tests.deploy.test_deploying import RELEASE, rules_of, with_rules
from tests.deploy.test_refusing import refused

APIS = [
    f"{name}.googleapis.com"
    for name in (
        "artifactregistry",
        "cloudbuild",
        "cloudresourcemanager",
        "cloudtasks",
        "firebaserules",
        "firestore",
        "iam",
        "run",
        "secretmanager",
        "serviceusage",
        "storage",
    )
]
PATIENCE = 420  # seconds


def waits(done: Done) -> list[str]:
    return [line for line in done.out.splitlines() if line.startswith("Waiting")]


def slept(cloud: Cloud) -> int:
    return sum(map(int, cloud.lines("slept")))


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """A project without how it came to be so."""
    return {name: value for name, value in state.items() if name not in ("young", "lag", "building", "released")}


def test_a_project_where_everything_lags_is_deployed_in_one_run(
    first: tuple[Done, dict[str, Any]], cloud: Cloud
) -> None:
    cloud.change(lag=2, building=2)
    done = cloud.run()
    assert done.code == 0, done.err
    state = cloud.state
    asked_for = [key for key, left in state["young"].items() if left == 0]
    assert len(asked_for) > 20
    for kind in ("api ", "account ", "database ", "index ", "secrets ", "run services ", "tasks queues "):
        assert any(key.startswith(kind) for key in asked_for), kind
    assert plain(state) == plain(first[1])
    assert "The API is at" in done.out
    # What is waited for is said, once for each command.
    assert waits(done)[0].startswith("Waiting, for some minutes at most, until Google Cloud knows what was just made")
    assert waits(done)[0].endswith("(the APIs): gcloud run regions list")
    assert "Waiting for the indexes, for some minutes at most: Firestore builds them." in waits(done)
    assert "That did not pass" not in done.err


def test_what_passes_is_waited_for_only_after_something_was_made(live: Cloud) -> None:
    live.change(young={"api run.googleapis.com": 1})
    done = live.run()
    assert done.code == 1
    assert "has not been used in project" in done.err
    assert live.lines("slept") == []


def test_what_does_not_pass_is_waited_for_some_minutes_and_no_longer(cloud: Cloud) -> None:
    cloud.change(young={"api run.googleapis.com": 999})
    done = cloud.run()
    assert done.code == 1
    assert PATIENCE <= slept(cloud) < PATIENCE + 60
    assert len(waits(done)) == 1
    said = done.err.splitlines()
    assert said[-1] == "That did not pass in 7 minutes. Earlier steps are complete: run this again."
    assert sum("has not been used" in line for line in said) == 1
    assert [each.partition(" ")[0] for each in done.changes] == ["services"]


@pytest.mark.parametrize("step", ["iam service-accounts create", "secrets create", "run deploy holdfast-worker"])
def test_nothing_else_is_tried_again(cloud: Cloud, step: str) -> None:
    cloud.change(faults={step: 1})
    done = cloud.run()
    assert done.code == 1
    assert "UNAVAILABLE: told to fail" in done.err
    assert cloud.lines("slept") == []


# Rules


def test_a_database_without_a_release_gets_one_and_one_with_a_release_has_it_changed(
    first: tuple[Done, dict[str, Any]], cloud: Cloud
) -> None:
    methods = [(method, path.rpartition("/")[2]) for method, path in first[0].asked if method != "GET"]
    assert methods == [("POST", "rulesets"), ("PATCH", "cloud.firestore"), ("POST", "releases")]
    cloud.change(released=True)
    done = cloud.run()
    assert done.code == 0, done.err
    methods = [(method, path.rpartition("/")[2]) for method, path in done.asked if method != "GET"]
    assert methods == [("POST", "rulesets"), ("PATCH", "cloud.firestore")]
    assert rules_of(cloud.state) == rules_of(first[1])


NOBODYS = [
    "rules_version = '2'; service cloud.firestore { match /databases/{database}/documents { "
    "match /{document=**} { allow read, write: if false; } } }",
    "service cloud.firestore {\n  match /databases/{db}/documents {\n    // Nothing yet.\n  }\n}\n",
    'rules_version = "2";\n/* locked */\nservice cloud.firestore{match /databases/{database}/documents{\n'
    "match /{path=**} {allow read, write: if false;}}}",
]
SOMEBODYS = [
    NOBODYS[0].replace("false", "true"),
    NOBODYS[0].replace("match /{document=**}", "match /public/{document}"),
    NOBODYS[0] + NOBODYS[0],
    "",
]


@pytest.mark.parametrize("content", NOBODYS)
def test_rules_that_deny_everything_are_nobody_s(live: Cloud, content: str) -> None:
    with_rules(live, content)
    done = live.run()
    assert done.code == 0, done.err
    assert content not in rules_of(live.state)


@pytest.mark.parametrize("content", SOMEBODYS)
def test_rules_that_allow_or_deny_anything_else_are_somebody_s(cloud: Cloud, content: str) -> None:
    with_rules(cloud, content)
    assert refused(cloud).startswith("RULES: the database (default) has rules of its own.")


def test_an_app_s_rules_are_seen_even_where_their_api_was_not_enabled(cloud: Cloud) -> None:
    with_rules(cloud, NOBODYS[0].replace("false", "request.auth != null"))
    cloud.change(enabled=["serviceusage.googleapis.com"])
    done = cloud.run()
    assert done.code == 1
    assert "RULES: the database (default) has rules of its own." in done.err
    assert "request.auth" in rules_of(cloud.state, RELEASE)


def test_what_the_rules_service_says_is_said(live: Cloud) -> None:
    with_rules(live, "an earlier version of ours", "holdfast.rules")
    (live.root / "firestore.rules").write_text("not valid", encoding="utf-8")
    done = live.run()
    assert done.code == 1
    assert "Line 1: missing 'service'" in done.err
    assert "400" in done.err


# Places


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"REGION": "mars-east1"}, "REGION: Cloud Run is not in 'mars-east1'. It is in: us-central1 europe-west1"),
        ({"REGION": "europe-west9"}, "TASKS_LOCATION: Cloud Tasks is not in 'europe-west9'. It is in: us-central1"),
        ({"FIRESTORE_LOCATION": "eur5"}, "FIRESTORE_LOCATION: Firestore is not in 'eur5'. It is in: us-central1"),
    ],
)
def test_a_region_that_lacks_a_product_is_refused_before_anything_is_made(
    cloud: Cloud, settings: dict[str, str], said: str
) -> None:
    cloud.change(enabled=APIS)
    assert refused(cloud, **settings).startswith(said)
    cloud.change(enabled=["serviceusage.googleapis.com"])
    done = cloud.run(**settings)
    assert done.err.startswith(said)
    assert [each.partition(" ")[0] for each in done.changes] == ["services"]  # to list that takes the APIs


def test_each_product_may_be_where_it_is(cloud: Cloud) -> None:
    done = cloud.run("--dry-run", REGION="europe-west9", TASKS_LOCATION="europe-west1", FIRESTORE_LOCATION="eur3")
    assert done.code == 0, done.err
    assert "--location=eur3" in done.out
    assert "gcloud tasks queues create holdfast --location=europe-west1" in done.out


def test_where_the_database_is_there_its_location_is_not_asked_for(live: Cloud) -> None:
    assert live.run(FIRESTORE_LOCATION="eur5").code == 0


def test_a_database_of_another_edition_is_not_touched(cloud: Cloud) -> None:
    cloud.change(
        enabled=["firestore.googleapis.com"],
        databases={"(default)": {"type": "FIRESTORE_NATIVE", "edition": "ENTERPRISE"}},
    )
    said = refused(cloud)
    assert said.startswith("FIRESTORE_DATABASE: (default) is of the edition ENTERPRISE")
    assert "name another, and it will be created" in said


@pytest.mark.parametrize(
    ("policy", "replication"),
    [
        ({"allValues": "ALLOW"}, "automatic"),
        ({"allowedValues": ["in:eu-locations", "global"]}, "automatic"),
        ({"deniedValues": ["in:asia-locations"]}, "automatic"),
        ({}, "automatic"),
        ({"allowedValues": ["in:us-locations"]}, "user-managed"),
        ({"deniedValues": ["in:global-locations"]}, "user-managed"),
        ({"allValues": "DENY"}, "user-managed"),
    ],
)
def test_a_secret_is_kept_in_the_region_alone_where_a_policy_wants_that(
    cloud: Cloud, policy: dict[str, Any], replication: str
) -> None:
    cloud.change(policy=policy, no_global=replication != "automatic")
    done = cloud.run()
    assert done.code == 0, done.err
    (secret,) = cloud.state["secrets"].values()
    kept = {
        "automatic": {"automatic": {}},
        "user-managed": {"userManaged": {"replicas": [{"location": "us-central1"}]}},
    }
    assert secret["replication"] == kept[replication]


def test_a_policy_that_may_not_be_read_shows_when_the_secret_is_made(cloud: Cloud) -> None:
    cloud.change(policy=None, no_global=True)
    done = cloud.run()
    assert done.code == 1
    assert "gcp.resourceLocations refuses this secret" in done.err
    assert "roles/orgpolicy.policyViewer" in done.err
    assert cloud.lines("slept") == []


# Quotas


def test_both_functions_together_fit_into_a_new_project(first: tuple[Done, dict[str, Any]]) -> None:
    most = [int(each["flags"]["max-instances"][-1]) for each in first[1]["deployed"].values()]
    assert sum(most) <= 20


def test_a_quota_is_told_as_one(cloud: Cloud) -> None:
    done = cloud.run(WORKER_MAX_INSTANCES="25")
    assert done.code == 1
    assert "CpuAllocPerProjectRegion" in done.err
    assert "That is a quota" in done.err
    assert "API_MAX_INSTANCES (8) or WORKER_MAX_INSTANCES (25)" in done.err
    assert "https://console.cloud.google.com/iam-admin/quotas" in done.err
    assert cloud.lines("slept") == []


# Indexes


def test_indexes_that_take_long_are_named_in_the_end(cloud: Cloud) -> None:
    cloud.change(building=999)
    done = cloud.run()
    assert done.code == 0, done.err
    assert "Still being built" in done.out
    assert "holdfastGenerations (owner, createdAt): CREATING" in done.out
    assert "The API is at" in done.out
    assert slept(cloud) < 2 * 300


def test_an_app_s_indexes_are_not_waited_for(live: Cloud) -> None:
    state = live.state
    index = {"collection": "posts", "scope": "COLLECTION", "fields": [{"fieldPath": "a", "order": "ASCENDING"}]}
    state["databases"]["(default)"]["composites"]["theirs"] = index
    live.state = {**state, "young": {"index theirs": 999}}
    done = live.run()
    assert (done.code, waits(done)) == (0, [])
    assert "Still being built" not in done.out


# The test task


def sent(done: Done) -> dict[str, str]:
    (call,) = [call for call in done.calls if call[:2] == ["tasks", "create-http-task"]]
    return dict(word[2:].partition("=")[::2] for word in call if word.startswith("--"))


def test_each_run_ends_with_a_task_that_the_worker_accepts(live: Cloud) -> None:
    done = live.run()
    assert done.code == 0, done.err
    flags = sent(done)
    assert flags["url"] == flags["oidc-token-audience"]
    assert flags["oidc-service-account-email"] == INVOKER
    assert json.loads(flags["body-content"]) == {"check": True}
    assert live.state["tasks"] == {}


@pytest.mark.parametrize(
    ("changed", "said", "remedy"),
    [
        ({"worker": 401}, "UNAUTHENTICATED(16): HTTP status code 401", "its log says why"),
        ({"worker": 401}, "UNAUTHENTICATED(16): HTTP status code 401", "set WORKER_TOKENS=platform"),
        ({"worker": 500}, "HTTP status code 500", "See the log of holdfast-worker."),
        ({"worker": 503}, "HTTP status code 503", "No instance was available"),
        ({"paused": True}, "has delivered no task in 7 minutes", "Is it paused?"),
    ],
)
def test_a_task_that_is_not_accepted_is_no_success_and_is_taken_back(
    live: Cloud, changed: dict[str, Any], said: str, remedy: str
) -> None:
    live.change(**changed)
    done = live.run()
    assert done.code == 1
    assert said in done.err
    assert remedy in done.err
    assert "The API is at" not in done.out
    assert live.state["tasks"] == {}
    assert slept(live) < PATIENCE + 60


def test_a_worker_that_was_given_another_audience_by_hand_is_found(live: Cloud) -> None:
    state = live.state
    flags = state["deployed"]["us-central1/holdfast-worker"]["flags"]
    flags["set-env-vars"] = [flags["set-env-vars"][-1].replace("WORKER_URL=https://", "WORKER_URL=https://another-")]
    live.state = state
    done = live.run()
    assert done.code == 1
    assert "run ./deploy.sh --force" in done.err
    assert live.run("--force").code == 0


def test_a_grant_that_a_policy_takes_back_is_found(live: Cloud) -> None:
    live.change(young={f"run services us-central1/holdfast-worker roles/run.invoker serviceAccount:{INVOKER}": 999})
    done = live.run()
    assert done.code == 1
    assert "PERMISSION_DENIED(7): HTTP status code 403" in done.err
    assert "it must have roles/run.invoker on holdfast-worker" in done.err


def test_whoever_may_not_send_a_task_is_told_what_it_takes(live: Cloud) -> None:
    live.change(faults={"tasks create-http-task": 1})
    done = live.run()
    assert done.code == 1
    for role in ("cloudtasks.enqueuer", "cloudtasks.taskDeleter", "iam.serviceAccountUser"):
        assert f"roles/{role}" in done.err


# Grants


def test_a_grant_on_all_databases_becomes_one_on_the_one(live: Cloud) -> None:
    state = live.state
    members = [f"serviceAccount:{account}" for account in (API, WORKER)]
    limited, *others = state["policies"][f"projects {PROJECT}"]
    state["policies"][f"projects {PROJECT}"] = [{"role": "roles/datastore.user", "members": members}, *others]
    live.state = state
    done = live.run()
    assert done.code == 0, done.err
    assert limited in live.state["policies"][f"projects {PROJECT}"]
    bound = [each for each in live.state["policies"][f"projects {PROJECT}"] if each["role"] == "roles/datastore.user"]
    assert bound == [limited]
    assert live.run().changes == []
