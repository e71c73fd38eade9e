"""What deploy.sh creates: everything at first, and later only what differs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from copy import deepcopy
from dataclasses import fields
from typing import Any

import pytest

from lib.runtime.settings import Settings
from operations.rules import rules
from tests.deploy.cloud import (
    API,
    BUILDER,
    INVOKER,
    KEY,
    NUMBER,
    PROJECT,
    ROOT,
    SETTINGS,
    TOKEN,
    WORKER,
    Cloud,
    Done,
)

RELEASE = f"projects/{PROJECT}/releases/cloud.firestore"
LOCAL = {  # of no use in a deployment, and dangerous there
    "FIRESTORE_EMULATOR_HOST",
    "TASKS_EMULATOR_HOST",
    "FIREBASE_AUTH_EMULATOR_HOST",
    "OIDC_CERTS_URL",
    "APP_CHECK_KEYS_URL",
    "FCM_URL",
}
TOML = """
[one]
base_url = "https://one.example/v1"
models = ["one-*"]
key_env = "ONE_KEY"

[two]
base_url = "https://two.example/v1"
models = ["two-*"]
key_env = "TWO_KEY"

[three]
base_url = "https://three.example/v1"
models = ["*"]
key_env = "THREE_KEY"
"""


def environment(flags: dict[str, str]) -> dict[str, str]:
    """The variables of a function, as gcloud reads the flag: with `^|^` before it, `|` is between them."""
    delimiter, listed = re.fullmatch(r"\^(.)\^(.*)", flags["set-env-vars"], re.DOTALL).groups()  # type: ignore[union-attr]
    return dict(each.split("=", 1) for each in listed.split(delimiter))


def rules_of(state: dict[str, Any], release: str = RELEASE) -> str:
    (file,) = state["rulesets"][state["releases"][release]]["source"]["files"]
    return str(file["content"])


def shares(cloud: Cloud, name: str) -> list[tuple[str, int]]:
    """Where a service's traffic goes: to which revision, and how much."""
    traffic = cloud.state["services"][f"us-central1/holdfast-{name}"]["spec"]["traffic"]
    return [(each.get("tag") or each.get("revisionName", "latest"), each.get("percent", 0)) for each in traffic]


def test_each_account_may_do_what_it_has_to_and_nothing_else(first: tuple[Done, dict[str, Any]]) -> None:
    def may(role: str, *accounts: str) -> dict[str, Any]:
        return {"role": f"roles/{role}", "members": [f"serviceAccount:{account}" for account in accounts]}

    policies = {name: deepcopy(policy) for name, policy in first[1]["policies"].items() if policy}
    condition = policies[f"projects {PROJECT}"][0].pop("condition")
    assert condition["expression"] == f'resource.name == "projects/{PROJECT}/databases/(default)"'
    assert policies == {
        f"projects {PROJECT}": [may("datastore.user", API, WORKER), may("run.builder", BUILDER)],
        "tasks queues us-central1/holdfast": [may("cloudtasks.enqueuer", API, WORKER)],
        f"iam service-accounts {INVOKER}": [may("iam.serviceAccountUser", API, WORKER)],
        "secrets holdfast-upstream-api-key": [may("secretmanager.secretAccessor", WORKER)],
        "run services us-central1/holdfast-worker": [may("run.invoker", INVOKER)],
        "run services us-central1/holdfast-api": [{"role": "roles/run.invoker", "members": ["allUsers"]}],
    }
    assert set(first[1]["accounts"]) == {API, WORKER, INVOKER, BUILDER}


def test_the_worker_is_private_the_api_public_and_each_runs_as_itself(first: tuple[Done, dict[str, Any]]) -> None:
    worker, api = (first[1]["deployed"][f"us-central1/holdfast-{name}"]["flags"] for name in ("worker", "api"))
    assert "no-allow-unauthenticated" in worker
    assert "allow-unauthenticated" not in worker
    assert {"allow-unauthenticated", "no-allow-unauthenticated", "no-invoker-iam-check"}.isdisjoint(api)
    assert (worker["function"], api["function"]) == (["worker"], ["api"])
    assert (worker["service-account"], api["service-account"]) == ([WORKER], [API])
    assert worker["set-secrets"] == ["UPSTREAM_API_KEY=holdfast-upstream-api-key:1"]
    assert "set-secrets" not in api
    for each in (worker, api):
        assert each["source"] == ["."]
        assert each["base-image"] == ["python313"]
        assert each["build-service-account"] == [f"projects/{PROJECT}/serviceAccounts/{BUILDER}"]


def test_the_worker_is_there_and_lets_the_queue_in_before_the_api_is_deployed(
    first: tuple[Done, dict[str, Any]],
) -> None:
    ends = [each for each in first[0].changes if each.startswith("run ")]
    assert ends == [
        "run deploy holdfast-worker",
        "run services add-iam-policy-binding holdfast-worker",
        "run deploy holdfast-api",
        "run services add-iam-policy-binding holdfast-api",
    ]
    assert first[0].changes[0].startswith("services enable ")


def test_both_functions_know_the_worker_s_url_before_it_is_there(first: tuple[Done, dict[str, Any]]) -> None:
    for name in ("worker", "api"):
        flags = {
            flag: values[-1] for flag, values in first[1]["deployed"][f"us-central1/holdfast-{name}"]["flags"].items()
        }
        settings = Settings.from_env(environment(flags))
        assert settings.worker_url == f"https://holdfast-worker-{NUMBER}.us-central1.run.app"
        assert settings.invoker == INVOKER
        assert settings.queue_path == f"projects/{PROJECT}/locations/us-central1/queues/holdfast"
        assert settings.max_event_bytes == 8 << 20
        assert settings.catalog["default"].base_url == "https://api.example/v1"


def test_the_database_has_the_indexes_the_expiry_and_the_rules_of_the_files(
    first: tuple[Done, dict[str, Any]],
) -> None:
    wanted = json.loads((ROOT / "firestore.indexes.json").read_text(encoding="utf-8"))
    database = first[1]["databases"]["(default)"]
    assert (database["type"], database["location"], database["protected"]) == ("FIRESTORE_NATIVE", "us-central1", True)
    assert list(database["composites"].values()) == [
        {"collection": each["collectionGroup"], "scope": each["queryScope"], "fields": each["fields"]}
        for each in wanted["indexes"]
    ]
    exempt = database["fields"]
    for each in wanted["fieldOverrides"]:
        name, inherited = f"{each['collectionGroup']}.{each['fieldPath']}", f"{each['collectionGroup']}.*"
        assert exempt.get(name, exempt.get(inherited)) == [index["order"] for index in each["indexes"]], name
    assert set(exempt) <= {f"{each['collectionGroup']}.{each['fieldPath']}" for each in wanted["fieldOverrides"]}
    kept_for_a_time = ("Generations", "Request", "Journal", "Turns", "Titles", "Usage")
    assert set(database["expiring"]) == {f"holdfast{name}.expireAt" for name in kept_for_a_time}
    assert rules_of(first[1]) == (ROOT / "firestore.rules").read_text(encoding="utf-8")


def test_the_key_and_the_token_are_on_no_command_line_in_no_output_and_in_no_environment(
    first: tuple[Done, dict[str, Any]],
) -> None:
    done, state = first
    assert state["secrets"]["holdfast-upstream-api-key"]["versions"] == [{"value": KEY, "state": "ENABLED"}]
    for secret in (KEY, TOKEN):
        assert secret not in done.out + done.err
        assert not any(secret in word for call in done.calls for word in call)
        assert not any(secret in value for environ in done.environs for value in environ.values())


def test_it_ends_with_the_url(first: tuple[Done, dict[str, Any]]) -> None:
    url = f"https://holdfast-api-{NUMBER}.us-central1.run.app"
    assert f"The API is at {url}\n" in first[0].out
    assert f"curl -N {url}/v1/chat/completions" in first[0].out
    assert f"httpsCallableFromURL(getFunctions(), '{url}')" in first[0].out


def test_a_dry_run_prints_what_a_real_run_does_and_does_nothing(
    first: tuple[Done, dict[str, Any]], cloud: Cloud
) -> None:
    for tool in ("gcloud", "curl"):
        cloud.without(tool)
    before = cloud.state
    done = cloud.run("--dry-run")
    assert (done.code, done.err) == (0, "")
    assert cloud.state == before
    assert KEY not in done.out
    # The mark of what is deployed holds the project's number.
    told = re.sub("--labels=holdfast=[0-9a-f]{40}", "MARK", done.out.replace("PROJECT_NUMBER", NUMBER))
    real = re.sub("--labels=holdfast=[0-9a-f]{40}", "MARK", first[0].out)
    commands = [line for line in told.splitlines() if line.startswith(("gcloud ", "curl "))]
    assert commands[-2].startswith("gcloud run deploy holdfast-api")
    made = [line for line in real.splitlines() if line.startswith(("gcloud ", "curl --silent"))]
    assert [line.replace("rulesets/RULESET", "rulesets/1") for line in commands] == made


def test_a_dry_run_needs_no_variable_and_says_what_stands_in(cloud: Cloud) -> None:
    done = cloud.run("--dry-run", settings={})
    assert (done.code, done.err) == (0, "")
    for name in ("GOOGLE_CLOUD_PROJECT", "UPSTREAM_BASE_URL", "UPSTREAM_MODELS", "UPSTREAM_API_KEY"):
        assert f"# {name} is not set: " in done.out


def test_a_second_run_changes_nothing(live: Cloud) -> None:
    before = live.state
    done = live.run()
    assert done.code == 0, done.err
    assert done.changes == []
    assert {method for method, _ in done.asked} == {"GET"}
    assert live.state == before


def test_a_second_run_does_not_need_the_key(live: Cloud) -> None:
    done = live.run(UPSTREAM_API_KEY="")
    assert (done.code, done.changes) == (0, []), done.err


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"API_MAX_INSTANCES": "7"}, ["run deploy holdfast-api"]),
        (
            {"WORKER_CONCURRENCY": "50"},
            ["tasks queues update holdfast", "run deploy holdfast-worker"],
        ),
        ({"RETENTION_DAYS": "30"}, ["run deploy holdfast-worker", "run deploy holdfast-api"]),
        (
            {"UPSTREAM_API_KEY": "sk-another"},
            ["secrets versions add holdfast-upstream-api-key", "run deploy holdfast-worker"],
        ),
    ],
    ids=["api's size", "worker's size", "both functions' setting", "key"],
)
def test_a_changed_setting_changes_what_it_is_of_and_nothing_else(
    live: Cloud, changed: dict[str, str], expected: list[str]
) -> None:
    done = live.run(**changed)
    assert done.code == 0, done.err
    assert done.changes == expected


def test_changed_code_is_deployed(live: Cloud) -> None:
    marks = {live.deployed("api")["labels"]}
    for name in ("main.py", "requirements.txt", "lib/new.py"):
        with (live.root / name).open("a", encoding="utf-8") as file:
            file.write("\n")
        done = live.run("--dry-run")
        marks.add(*re.findall("holdfast-api .*(--labels=holdfast=[0-9a-f]{40})", done.out))
    assert len(marks) == 4
    assert live.run().changes == ["run deploy holdfast-worker", "run deploy holdfast-api"]


def test_what_is_missing_is_put_back_and_that_alone(live: Cloud) -> None:
    state = live.state
    state["policies"]["tasks queues us-central1/holdfast"] = []
    database = state["databases"]["(default)"]
    gone = next(iter(database["composites"]))
    del database["composites"][gone], database["fields"]["holdfastJournal.first"]
    database["fields"]["holdfastParts.text"] = ["ASCENDING"]
    database["expiring"].remove("holdfastRequest.expireAt")
    state["queues"]["us-central1/holdfast"]["retryConfig"]["maxBackoff"] = "3600s"
    state["services"]["us-central1/holdfast-api"]["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    live.state = state
    done = live.run()
    assert done.code == 0, done.err
    assert done.changes == [
        "firestore indexes composite create",
        "firestore fields ttls update expireAt",
        "firestore indexes fields update first",
        "firestore indexes fields update text",
        "tasks queues update holdfast",
        *["tasks queues add-iam-policy-binding holdfast"] * 2,
        "run deploy holdfast-api",
    ]
    assert live.run().changes == []


def test_what_was_changed_by_hand_is_undone_by_force(live: Cloud) -> None:
    assert live.run("--force").changes == ["run deploy holdfast-worker", "run deploy holdfast-api"]


def test_an_app_s_own_database_and_bindings_stay_as_they_are(first: tuple[Done, dict[str, Any]], cloud: Cloud) -> None:
    state = cloud.state
    apps = {"type": "FIRESTORE_NATIVE", "location": "nam5", "protected": False}
    vector = {"fieldPath": "embedding", "vectorConfig": {"dimension": 768, "flat": {}}}
    index = {
        "collection": "posts",
        "scope": "COLLECTION_GROUP",
        "fields": [{"fieldPath": "a", "order": "ASCENDING"}, vector],
    }
    state["databases"]["(default)"] = {
        **apps,
        "composites": {"theirs": index},
        "fields": {"posts.body": []},
        "expiring": ["posts.gone"],
    }
    state["enabled"] += ["firestore.googleapis.com", "firebaserules.googleapis.com"]
    state["accounts"][f"app@{PROJECT}.iam.gserviceaccount.com"] = ""
    conditional = {
        "role": "roles/datastore.user",
        "members": [f"serviceAccount:{API}"],
        "condition": {"title": "until tomorrow", "expression": 'request.time < timestamp("2030-01-01T00:00:00Z")'},
    }
    state["policies"][f"projects {PROJECT}"] = [conditional]
    cloud.state = state
    done = cloud.run()
    assert done.code == 0, done.err
    assert not any(each.startswith("firestore databases") for each in done.changes)
    database = cloud.state["databases"]["(default)"]
    assert database["composites"].pop("theirs") == index
    assert database["fields"].pop("posts.body") == []
    assert database["expiring"].pop(0) == "posts.gone"
    made = first[1]["databases"]["(default)"]
    assert [database[name] for name in ("fields", "expiring")] == [made[name] for name in ("fields", "expiring")]
    # What holds under another condition does not count as granted.
    assert cloud.state["policies"][f"projects {PROJECT}"][0] == conditional
    assert cloud.state["policies"][f"projects {PROJECT}"][1]["members"][0] == f"serviceAccount:{API}"


def with_rules(cloud: Cloud, content: str, name: str = "firestore.rules") -> None:
    """The rules that are released already."""
    ruleset = f"projects/{PROJECT}/rulesets/there"
    cloud.change(
        enabled=[*cloud.state["enabled"], "firebaserules.googleapis.com"],
        releases={RELEASE: ruleset},
        rulesets={ruleset: {"source": {"files": [{"name": name, "content": content}]}}},
    )


def test_an_app_s_own_rules_are_never_replaced_without_a_word(cloud: Cloud) -> None:
    with_rules(cloud, "the app's")
    before = cloud.state
    done = cloud.run()
    assert done.code == 1
    assert done.err.startswith("RULES: the database (default) has rules of its own. Say replace, or merge")
    assert (done.changes, cloud.state) == ([], before)


@pytest.mark.parametrize(
    ("content", "name", "said", "replaced"),
    [
        ("the app's", "firestore.rules", "keep", False),
        ("the app's", "firestore.rules", "replace", True),
        ("an earlier version of ours", "holdfast.rules", "", True),
        (None, "firestore.rules", "", False),
    ],
    ids=["kept", "replaced", "ours", "the same"],
)
def test_rules_are_released_where_they_differ_and_may_be_replaced(
    live: Cloud, content: str | None, name: str, said: str, replaced: bool
) -> None:
    ours = (ROOT / "firestore.rules").read_text(encoding="utf-8")
    with_rules(live, ours if content is None else content, name)
    done = live.run(RULES=said)
    assert (done.code, done.changes) == (0, []), done.err
    assert [method for method, _ in done.asked if method != "GET"] == (["POST", "PATCH"] if replaced else [])
    assert rules_of(live.state) == (ours if replaced or content is None else content)


def test_the_rules_are_those_for_where_messages_lie(live: Cloud) -> None:
    done = live.run(MESSAGE_PATH="conversations/{chat}/turns/{message}", CHAT_MEMBERS="members")
    assert done.code == 0, done.err
    assert rules_of(live.state) == rules("conversations/{chat}/turns/{message}", "members")
    flags = {flag: values[-1] for flag, values in live.state["deployed"]["us-central1/holdfast-api"]["flags"].items()}
    settings = Settings.from_env(environment(flags))
    assert (settings.message_path, settings.chat_members) == ("conversations/{chat}/turns/{message}", "members")


def test_another_database_has_rules_indexes_and_expiry_of_its_own(live: Cloud) -> None:
    done = live.run(FIRESTORE_DATABASE="holdfast")
    assert done.code == 0, done.err
    assert rules_of(live.state, f"{RELEASE}/holdfast") == rules_of(live.state)
    databases = live.state["databases"]
    for name in ("fields", "expiring"):
        assert databases["holdfast"][name] == databases["(default)"][name]
    assert environment(live.deployed("api"))["FIRESTORE_DATABASE"] == "holdfast"


def test_a_run_that_broke_off_is_continued(live: Cloud) -> None:
    live.change(services={}, faults={"run deploy holdfast-api": 1})
    broken = live.run()
    assert broken.code != 0
    assert "The API is at" not in broken.out
    done = live.run()
    assert (done.code, done.changes) == (0, ["run deploy holdfast-api"]), done.err


@pytest.mark.parametrize("command", ["secrets list", "tasks queues list", "run services list"])
def test_what_can_not_be_looked_at_is_not_taken_for_missing(live: Cloud, command: str) -> None:
    live.change(faults={command: 99})
    done = live.run()
    assert done.code != 0
    assert "UNAVAILABLE: told to fail" in done.err
    assert done.changes == []


def test_values_with_commas_arrive_whole(cloud: Cloud) -> None:
    done = cloud.run(
        "--dry-run", UPSTREAM_MODELS="gpt-*,o3", CORS_ORIGINS="https://a.example,https://b.example", TASKS_QUEUE="q-1"
    )
    assert done.code == 0, done.err
    for line in re.findall("'--set-env-vars=(.*?)'", done.out):
        settings = Settings.from_env(environment({"set-env-vars": line}))
        assert settings.cors_origins == ("https://a.example", "https://b.example")
        assert settings.catalog["default"].models == ("gpt-*", "o3")
        assert settings.queue == "q-1"


def test_every_setting_reaches_both_functions_but_those_of_local_use(cloud: Cloud) -> None:
    """So a setting that is new in lib/runtime/settings.py can be deployed at once."""
    given = {
        **{each.metadata["variable"]: str(each.metadata["default"]) for each in fields(Settings) if each.metadata},
        "CORS_ORIGINS": "*",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://traces.example",
        "RETENTION_DAYS": "7",
        "FIRESTORE_DATABASE": "other",
        "MESSAGE_PATH": "conversations/{chat}/turns/{message}",
        "CHAT_MEMBERS": "members",
        "WEBHOOK_URL": "https://hooks.example/answers?key=1",
        "PUSH": "on",
        "PUSH_BODY": "{words}",
        "MAX_EVENT_BYTES": "2000000",
        "UPSTREAM_MODELS": "m",
        "UPSTREAM_CONTINUE": "prefill",
        "UPSTREAM_PREFILL_STYLE": "vllm",
        "UPSTREAM_SPEAKS": "chat_completions,responses",
        "UPSTREAM_BACKGROUND": "on",
        "UPSTREAM_ACCOUNT_IDS": "on",
        "UPSTREAM_USAGE": "as_asked",
        "UPSTREAM_AUTH": "x-api-key",
        "UPSTREAM_HEADERS": "X-Team=a&X-Other=b",
        "UPSTREAM_QUERY": "api-version=1",
        "UPSTREAM_PRICES": "m=2.5/10&*=1/2",
        "BUDGET_USER_DAY_TOKENS": "100000",
        "BUDGET_SERVICE_DAY_COST": "20.50",
        **dict.fromkeys(LOCAL, "http://127.0.0.1:1"),
        **SETTINGS,
        "WORKER_URL": "https://another.example",
        "TASKS_INVOKER": "another",
    }
    for name in ("FLUSH_SECONDS", "MAX_REQUEST_BYTES"):
        given[name] = "3"
    done = cloud.run("--dry-run", settings=given)
    assert done.code == 0, done.err
    known = {each.metadata["variable"] for each in fields(Settings) if each.metadata}
    upstream = set(re.findall("UPSTREAM[A-Z_]+", (ROOT / "lib/runtime/catalog.py").read_text(encoding="utf-8")))
    there = re.findall("'--set-env-vars=(.*?)'", done.out)
    assert len(there) == 2
    for line in there:
        deployed = environment({"set-env-vars": line})
        assert set(deployed) == (known - LOCAL) | (upstream - {"UPSTREAM_API_KEY", "UPSTREAMS_FILE", "UPSTREAM_"}) | {
            "THREADS"
        }
        own = {"WORKER_URL", "TASKS_INVOKER", "THREADS"}
        assert {name: deployed[name] for name in set(deployed) - own} == {
            name: given[name] for name in set(deployed) - own
        }
        assert "another" not in deployed["WORKER_URL"] + deployed["TASKS_INVOKER"]


def test_several_upstreams_have_a_key_each_and_the_worker_alone_reads_them(cloud: Cloud) -> None:
    (cloud.root / "upstreams.toml").write_text(TOML, encoding="utf-8")
    (cloud.folder / "two").write_text("sk-two\n", encoding="utf-8")
    settings = {
        "GOOGLE_CLOUD_PROJECT": PROJECT,
        "UPSTREAMS_FILE": "upstreams.toml",
        "ONE_KEY_FILE": "-",
        "TWO_KEY_FILE": "two",  # from where it is run
        "THREE_KEY": "sk-three",
    }
    done = cloud.run(settings=settings, stdin="sk-one\n")
    assert done.code == 0, done.err
    kept = {name: each["versions"][-1]["value"] for name, each in cloud.state["secrets"].items()}
    assert kept == {f"holdfast-{name}-key": f"sk-{name}" for name in ("one", "two", "three")}
    assert cloud.deployed("worker")["set-secrets"].split(",") == [
        f"{name}_KEY=holdfast-{name.lower()}-key:1" for name in ("ONE", "THREE", "TWO")
    ]
    assert not any("sk-" in value for environ in done.environs for value in environ.values())
    assert environment(cloud.deployed("api"))["UPSTREAMS_FILE"] == "upstreams.toml"
    assert "set-secrets" not in cloud.deployed("api")
    assert '"model": "MODEL"' in done.out
    (cloud.root / "upstreams.toml").write_text(TOML.replace("one-*", "one-2"), encoding="utf-8")
    again = cloud.run(settings={name: settings[name] for name in ("GOOGLE_CLOUD_PROJECT", "UPSTREAMS_FILE")})
    assert again.changes == ["run deploy holdfast-worker", "run deploy holdfast-api"], again.err
    assert '"model": "one-2"' in again.out


def test_an_upstream_without_a_key_has_no_secret(cloud: Cloud) -> None:
    done = cloud.run("--dry-run", UPSTREAM_API_KEY="none")
    assert "gcloud secrets" not in done.out
    assert "--clear-secrets" in next(line for line in done.out.splitlines() if "deploy holdfast-worker" in line)


SHARDS = ["holdfast-shard-1", "holdfast-shard-2"]


def test_more_queues_are_made_and_may_be_filled_before_the_functions_know_of_them(live: Cloud) -> None:
    done = live.run(TASKS_QUEUES="3")
    assert done.code == 0, done.err
    made = [f"tasks queues create {each}" for each in SHARDS]
    bound = [f"tasks queues add-iam-policy-binding {each}" for each in SHARDS]
    assert done.changes == [
        "tasks queues update holdfast",
        *made,
        *bound,
        *bound,
        "run deploy holdfast-worker",
        "run deploy holdfast-api",
    ]
    first, *others = (live.state["queues"][f"us-central1/{each}"] for each in ("holdfast", *SHARDS))
    assert [first, first] == others
    for each in ("holdfast", *SHARDS):
        (binding,) = live.state["policies"][f"tasks queues us-central1/{each}"]
        assert (binding["role"], len(binding["members"])) == ("roles/cloudtasks.enqueuer", 2)
    for name in ("worker", "api"):
        flags = {
            flag: values[-1] for flag, values in live.state["deployed"][f"us-central1/holdfast-{name}"]["flags"].items()
        }
        settings = Settings.from_env(environment(flags))
        assert {settings.queue_path_of(str(n)).rpartition("/")[2] for n in range(100)} == {"holdfast", *SHARDS}
    assert live.run(TASKS_QUEUES="3").changes == []


def test_fewer_queues_leave_the_others_to_what_is_in_them(live: Cloud) -> None:
    assert live.run(TASKS_QUEUES="3").code == 0
    assert live.run().code == 0
    assert set(live.state["queues"]) == {f"us-central1/{each}" for each in ("holdfast", *SHARDS)}


@pytest.mark.parametrize("value", ["0", "101", "three"])
def test_a_number_of_queues_that_can_not_be_is_told_before_anything_is_done(live: Cloud, value: str) -> None:
    done = live.run(TASKS_QUEUES=value)
    assert (done.code, done.changes) == (1, [])
    assert "TASKS_QUEUES: it must be a whole number from 1 to 100" in done.err


WEBHOOK = {"WEBHOOK_URL": "https://hooks.example/answers", "WEBHOOK_SECRETS": "whsec_canary whsec_old"}


def test_a_webhook_brings_a_queue_of_its_own_and_a_secret_that_the_worker_alone_reads(live: Cloud) -> None:
    done = live.run(**WEBHOOK)
    assert done.code == 0, done.err
    assert done.changes == [
        "tasks queues create holdfast-deliveries",
        "secrets create holdfast-webhook-secrets",
        "secrets versions add holdfast-webhook-secrets",
        "tasks queues add-iam-policy-binding holdfast-deliveries",
        "tasks queues add-iam-policy-binding holdfast-deliveries",
        "secrets add-iam-policy-binding holdfast-webhook-secrets",
        "run deploy holdfast-worker",
        "run deploy holdfast-api",
    ]
    (binding,) = live.state["policies"]["tasks queues us-central1/holdfast-deliveries"]
    assert (binding["role"], len(binding["members"])) == ("roles/cloudtasks.enqueuer", 2)
    (binding,) = live.state["policies"]["secrets holdfast-webhook-secrets"]
    assert binding["members"] == [f"serviceAccount:{WORKER}"]
    assert "WEBHOOK_SECRETS=holdfast-webhook-secrets:1" in live.deployed("worker")["set-secrets"].split(",")
    assert "set-secrets" not in live.deployed("api")
    for name in ("worker", "api"):
        assert environment(live.deployed(name))["WEBHOOK_URL"] == WEBHOOK["WEBHOOK_URL"]
    told = [*done.out.splitlines(), *(" ".join(call) for call in done.calls), *map(str, done.environs)]
    assert not any("canary" in line for line in told)
    assert live.run(WEBHOOK_URL=WEBHOOK["WEBHOOK_URL"]).changes == []


def test_a_webhook_without_a_secret_is_refused_before_anything_is_changed(live: Cloud) -> None:
    done = live.run(WEBHOOK_URL=WEBHOOK["WEBHOOK_URL"])
    assert (done.code, done.changes) == (1, [])
    assert "WEBHOOK_SECRETS: it must be set" in done.err


def test_a_rotated_secret_is_a_new_version_and_a_new_revision_of_the_worker(live: Cloud) -> None:
    live.run(**WEBHOOK)
    done = live.run(**{**WEBHOOK, "WEBHOOK_SECRETS": "whsec_new whsec_canary"})
    assert done.changes == ["secrets versions add holdfast-webhook-secrets", "run deploy holdfast-worker"]


def test_push_brings_its_api_its_queue_and_the_right_to_send(live: Cloud) -> None:
    done = live.run(PUSH="on")
    assert done.code == 0, done.err
    assert done.changes == [
        "services enable fcm.googleapis.com",
        "tasks queues create holdfast-deliveries",
        "tasks queues add-iam-policy-binding holdfast-deliveries",
        "tasks queues add-iam-policy-binding holdfast-deliveries",
        f"projects add-iam-policy-binding {PROJECT}",
        "run deploy holdfast-worker",
        "run deploy holdfast-api",
    ]
    sends = [
        binding
        for binding in live.state["policies"][f"projects {PROJECT}"]
        if binding["role"] == "roles/firebasecloudmessaging.admin"
    ]
    assert [binding["members"] for binding in sends] == [[f"serviceAccount:{WORKER}"]]


def test_new_revisions_can_have_a_share_of_the_traffic_before_they_have_it_all(live: Cloud) -> None:
    old = live.state["deployed"]["us-central1/holdfast-api"]["revision"]
    changed = {"FLUSH_SECONDS": "0.2"}
    done = live.run("--canary=10", **changed)
    assert done.changes == [
        "run deploy holdfast-worker",
        "run services update-traffic holdfast-worker",
        "run deploy holdfast-api",
        "run services update-traffic holdfast-api",
    ], done.err
    assert shares(live, "api") == [(old, 90), ("canary", 10)]
    assert live.run("--canary=10", **changed).changes == []
    moved = [f"run services update-traffic holdfast-{name}" for name in ("worker", "api")]
    assert live.run("--canary=50", **changed).changes == moved
    assert shares(live, "worker")[1] == ("canary", 50)
    assert live.run("--canary=100", **changed).changes == moved
    assert shares(live, "api") == shares(live, "worker") == [("latest", 100)]


def test_a_share_of_what_did_not_change_is_no_change(live: Cloud) -> None:
    assert live.run("--canary=10").changes == []


def test_what_was_rolled_back_by_hand_goes_forward_with_the_next_run(live: Cloud) -> None:
    state = live.state
    state["services"]["us-central1/holdfast-api"]["spec"]["traffic"] = [
        {"revisionName": "holdfast-api-00001-abc", "percent": 100}
    ]
    live.state = state
    assert live.run(MAX_ATTEMPTS="2").changes == [
        "run deploy holdfast-worker",
        "run deploy holdfast-api",
        "run services update-traffic holdfast-api",
    ]
    assert shares(live, "api") == [("latest", 100)]


def test_the_first_deployment_gets_all_the_traffic_whatever_its_share(live: Cloud) -> None:
    live.change(services={})
    done = live.run("--canary=10")
    assert done.code == 0, done.err
    assert shares(live, "api") == shares(live, "worker") == [("latest", 100)]


@pytest.mark.parametrize(
    ("service", "ingress", "said"),
    [
        ("worker", "all", "should be private: it answers 404, not 403."),
        ("api", "internal", "should be public: it answers 404, not 401."),
    ],
)
def test_a_worker_that_is_public_and_an_api_that_is_not_are_no_success(
    live: Cloud, service: str, ingress: str, said: str
) -> None:
    state = live.state
    everybody = {"role": "roles/run.invoker", "members": ["allUsers", f"serviceAccount:{INVOKER}"]}
    state["policies"][f"run services us-central1/holdfast-{service}"] = [everybody]
    state["deployed"][f"us-central1/holdfast-{service}"]["flags"]["ingress"] = [ingress]
    live.state = state
    done = live.run()
    assert done.code == 1
    assert said in done.err
    assert "The API is at" not in done.out


def test_variables_may_be_in_a_file_and_the_environment_wins(cloud: Cloud) -> None:
    lines = ["# ours", "", f"GOOGLE_CLOUD_PROJECT={PROJECT}", "UPSTREAM_BASE_URL=https://a.example/b=c", "REGION=x"]
    (cloud.root / "deploy.env").write_text("\n".join(lines), encoding="utf-8")
    settings = {"REGION": "europe-west1", "UPSTREAM_API_KEY": "none", "UPSTREAM_MODELS": "*"}
    done = cloud.run("--dry-run", settings=settings)
    assert done.code == 0, done.err
    assert f"--project={PROJECT}" in done.out
    assert "|UPSTREAM_BASE_URL=https://a.example/b=c|" in done.out
    assert "--region=europe-west1" in done.out


def test_two_can_be_in_one_project(live: Cloud) -> None:
    live.change(quota=40)
    done = live.run(HOLDFAST_NAME="staging", FIRESTORE_DATABASE="staging")
    assert done.code == 0, done.err
    bound = {
        each["condition"]["expression"]: each["members"]
        for each in live.state["policies"][f"projects {PROJECT}"]
        if each["role"] == "roles/datastore.user"
    }
    assert bound == {
        f'resource.name == "projects/{PROJECT}/databases/{database}"': [
            f"serviceAccount:{name}-{account}@{PROJECT}.iam.gserviceaccount.com" for account in ("api", "worker")
        ]
        for name, database in (("holdfast", "(default)"), ("staging", "staging"))
    }
    assert set(live.state["services"]) == {
        f"us-central1/{name}-{each}" for name in ("holdfast", "staging") for each in ("api", "worker")
    }
    assert set(live.state["queues"]) == {"us-central1/holdfast", "us-central1/staging"}
    assert not any(" holdfast" in each for each in done.changes)


def test_the_settings_can_be_read_by_a_python_without_packages() -> None:
    """deploy.sh checks them on a machine that has nothing installed."""
    code = "import lib.runtime.catalog, lib.runtime.settings"
    subprocess.run([sys.executable, "-ISc", f"import sys; sys.path.append('.'); {code}"], cwd=ROOT, check=True)


def test_help_explains_every_variable(cloud: Cloud) -> None:
    done = cloud.run("--help", settings={})
    assert done.code == 0, done.err
    source = (ROOT / "deploy.sh").read_text(encoding="utf-8")
    used = set(re.findall(r"(?:needed|unless_set) ([A-Z_]+)", source)) | {"RULES", "UPSTREAM_API_KEY", "UPSTREAMS_FILE"}
    settable = {each.metadata["variable"] for each in fields(Settings) if each.metadata} - LOCAL
    for name in used | settable - {"WORKER_URL", "TASKS_INVOKER"}:
        assert re.search(rf"\b{name}\b", done.out), name
    for option in re.findall(r"^        (--[a-z-]+)\)", source, re.MULTILINE):
        assert option in done.out
    assert not any(name in done.out for name in LOCAL)
