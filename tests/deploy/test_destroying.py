"""deploy.sh destroy: asks, removes what deploy.sh made and nothing else, and the data only after a second yes."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
from contextlib import suppress

import pytest

from tests.deploy.cloud import PROJECT, SECONDS, SETTINGS, Cloud

THEIRS = f"app@{PROJECT}.iam.gserviceaccount.com"
THEIR_GRANT = {"role": "roles/datastore.user", "members": [f"serviceAccount:{THEIRS}"]}
COMMIT = "documents:commit"


@pytest.fixture
def shared(live: Cloud) -> Cloud:
    """A project with Holdfast, and with an app beside it."""
    state = live.state
    state["accounts"][THEIRS] = ""
    state["secrets"]["theirs"] = {"labels": {"app": "theirs"}, "versions": []}
    state["queues"]["us-central1/theirs"] = state["queues"]["us-central1/holdfast"]
    state["services"]["us-central1/theirs"] = {
        **state["services"]["us-central1/holdfast-api"],
        "metadata": {"name": "theirs", "labels": {}},
    }
    state["policies"][f"projects {PROJECT}"].append(THEIR_GRANT)
    live.state = state
    return live


def test_all_queues_go_and_none_that_only_begins_alike(shared: Cloud) -> None:
    state = shared.state
    for name in ("holdfast-shard-1", "holdfast-shard-12", "holdfast-shard-x", "my-holdfast-shard-1", "holdfast-2"):
        state["queues"][f"us-central1/{name}"] = state["queues"]["us-central1/holdfast"]
    shared.state = state
    done = shared.run("destroy", "--yes", TASKS_QUEUES="2")
    assert done.code == 0, done.err
    left = ("theirs", "holdfast-shard-x", "my-holdfast-shard-1", "holdfast-2")
    assert set(shared.state["queues"]) == {f"us-central1/{name}" for name in left}
    assert [each for each in done.changes if "queues" in each] == [
        f"tasks queues delete {each}" for each in ("holdfast", "holdfast-shard-1", "holdfast-shard-12")
    ]


def removed(cloud: Cloud) -> bool:
    """Whether all is gone but what is the app's and the database."""
    state = cloud.state
    kept = {name: policy for name, policy in state["policies"].items() if policy}
    return (
        [list(state[name]) for name in ("accounts", "secrets", "queues", "services")]
        == [[THEIRS], ["theirs"], *[["us-central1/theirs"]] * 2]
        and kept == {f"projects {PROJECT}": [THEIR_GRANT]}
        and list(state["databases"]) == ["(default)"]
    )


def asked(cloud: Cloud, *answers: str) -> tuple[int, str]:
    """Runs it at a terminal where somebody answers, and then says no: the exit code, and what was on the screen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        cloud.command("destroy"), env=cloud.environ(SETTINGS), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    screen, answered = "", 0
    with os.fdopen(ours, "r+b", buffering=0) as terminal, suppress(OSError):  # it ends with EIO
        while select.select([terminal], [], [], SECONDS)[0] and (read := terminal.read(4096)):
            screen += read.decode()
            if screen.count("(yes/no)") > answered:
                answer = answers[answered] if answered < len(answers) else "no"
                terminal.write(f"{answer}\n".encode())
                answered += 1
    try:
        return process.wait(SECONDS), screen
    finally:
        process.kill()


def test_without_a_terminal_it_has_to_be_told(shared: Cloud) -> None:
    before = shared.state
    done = shared.run("destroy", stdin="yes\nyes\n")
    assert (done.code, done.err) == (1, "There is no terminal to ask on: say ./deploy.sh destroy --yes\n")
    assert (done.changes, shared.state) == ([], before)


@pytest.mark.parametrize("answer", ["no", "", "y", "yes please"])
def test_anything_but_yes_removes_nothing(shared: Cloud, answer: str) -> None:
    before = shared.state
    code, screen = asked(shared, answer)
    assert code == 1
    assert "Nothing was removed." in screen
    assert shared.state == before


def test_one_yes_removes_what_was_made_and_no_data(shared: Cloud) -> None:
    before = shared.state["databases"]
    code, screen = asked(shared, "yes", "no")
    assert code == 0, screen
    assert removed(shared)
    assert shared.state["databases"] == before
    assert "Not deleted: all generations, requests and journals" in screen


def test_a_second_yes_deletes_the_data_that_is_holdfast_s_own(shared: Cloud) -> None:
    state = shared.state
    index = {"collection": "posts", "scope": "COLLECTION", "fields": [{"fieldPath": "a", "order": "ASCENDING"}]}
    state["databases"]["(default)"]["composites"]["theirs"] = index
    shared.state = state
    code, screen = asked(shared, "yes", "yes")
    assert code == 0, screen
    assert removed(shared)
    database = shared.state["databases"]["(default)"]
    assert "from holdfastGenerations" in screen
    assert database["expiring"] == []
    assert list(database["composites"]) == ["theirs"]
    assert {name.partition(".")[0] for name in database["fields"]} == {"holdfastParts", "holdfastDevices"}


def test_what_tells_of_ends_goes_too(shared: Cloud) -> None:
    settings = {"WEBHOOK_URL": "https://hooks.example/", "WEBHOOK_SECRETS": "whsec_x", "PUSH": "on"}
    assert shared.run(**settings).code == 0
    assert shared.run("destroy", "--yes").code == 0
    assert removed(shared)


def test_the_yes_that_is_an_option_is_not_the_second(shared: Cloud) -> None:
    done = shared.run("destroy", "--yes")
    assert done.code == 0, done.err
    assert removed(shared)
    assert not any("documents" in path for _, path in done.asked)
    again = shared.run("destroy", "--yes")
    assert (again.code, again.changes) == (0, [])


def test_both_can_be_options_and_all_of_it_can_be_made_again(shared: Cloud) -> None:
    done = shared.run("destroy", "--yes", "--delete-data")
    assert done.code == 0, done.err
    assert removed(shared)
    assert any(path.endswith("documents:runQuery") for _, path in done.asked)
    done = shared.run()
    assert done.code == 0, done.err
    assert shared.run().changes == []


def test_a_grant_goes_whatever_its_condition_was(shared: Cloud) -> None:
    state = shared.state
    for each in state["policies"][f"projects {PROJECT}"]:
        each.pop("condition", None)
    shared.state = state
    done = shared.run("destroy", "--yes")
    assert done.code == 0, done.err
    assert removed(shared)


def test_where_the_data_can_not_be_deleted_it_says_so_and_keeps_the_indexes(shared: Cloud) -> None:
    before = shared.state["databases"]
    shared.change(login="ya29.of-somebody-else")
    done = shared.run("destroy", "--yes", "--delete-data")
    assert done.code == 1
    assert "Request had invalid authentication credentials." in done.err
    assert "Run this again: it continues where it was interrupted." in done.err
    assert "ya29" not in done.out + done.err
    assert shared.state["databases"] == before


def test_a_dry_run_prints_all_of_it_and_needs_nobody(shared: Cloud) -> None:
    real = shared.run("destroy", "--yes", "--delete-data")
    assert real.code == 0, real.err
    for tool in ("gcloud", "curl"):
        shared.without(tool)
    before = shared.state
    done = shared.run("destroy", "--dry-run", settings={"GOOGLE_CLOUD_PROJECT": PROJECT})
    assert (done.code, done.err) == (0, "")
    assert shared.state == before
    told, made = (
        [line for line in each.out.splitlines() if line.startswith(("gcloud ", "curl "))] for each in (done, real)
    )
    for when, what in (
        ("Where the ends of answers are told of", "queues delete holdfast-deliveries "),
        ("Where an upstream is Vertex AI", "--role=roles/aiplatform.user "),
        ("Where devices are notified", "--role=roles/firebasecloudmessaging.admin "),
    ):
        (line,) = [line for line in told if what in line]
        assert done.out.index(f"# {when}:") < done.out.index(line)
        told.remove(line)  # which is not so here
    assert [re.sub("delete (INDEX|CICAgJ[0-9]+)", "delete", line) for line in told] == [
        re.sub("delete CICAgJ[0-9]+", "delete", line) for line in made
    ]
    second = done.out.index("# After a second yes, or with --delete-data:")
    assert done.out.index("gcloud iam service-accounts delete") < second < done.out.index(COMMIT)


@pytest.mark.parametrize("command", [(), ("destroy",)])
def test_a_dry_run_names_no_collection_that_an_app_may_have(cloud: Cloud, command: tuple[str, ...]) -> None:
    done = cloud.run(*command, "--dry-run")
    assert (done.code, done.err) == (0, "")
    named = re.findall(r"--collection-(?:group|ids)[= ](\S+)", done.out)
    assert len(named) > 5
    assert all(name.startswith("holdfast") for each in named for name in each.split(","))
    assert "bulk-delete" not in done.out
