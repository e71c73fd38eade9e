"""Missing or wrong settings are reported in one clear line, before anything is changed."""

from __future__ import annotations

import pytest

from tests.deploy.cloud import PROJECT, SETTINGS, Cloud, Done


def refused(cloud: Cloud, *arguments: str, **settings: str) -> str:
    """What is said on stderr; and that nothing was changed."""
    before = cloud.state
    done = cloud.run(*arguments, **settings)
    assert done.code == 1
    untouched(cloud, done, before)
    return done.err


def untouched(cloud: Cloud, done: Done, before: object) -> None:
    assert done.changes == []
    assert {method for method, _ in done.asked} <= {"GET"}
    assert cloud.state == before
    assert "Traceback" not in done.err


def test_all_that_must_be_set_is_named_at_once(cloud: Cloud) -> None:
    assert refused(cloud, GOOGLE_CLOUD_PROJECT="", UPSTREAM_BASE_URL="") == (
        "GOOGLE_CLOUD_PROJECT: it must be set: see ./deploy.sh --help\n"
        "UPSTREAM_BASE_URL: it must be set: see ./deploy.sh --help\n"
    )


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HOLDFAST_NAME", "Hold_fast", "HOLDFAST_NAME: it must be 2 to 22 small letters, digits and hyphens"),
        ("HOLDFAST_NAME", "h" * 23, "HOLDFAST_NAME: it must be 2 to 22 small letters"),
        ("API_CONCURRENCY", "1001", "API_CONCURRENCY: it must be a whole number from 1 to 1000, and is '1001'"),
        ("WORKER_MAX_INSTANCES", "0", "WORKER_MAX_INSTANCES: it must be a whole number from 1 to 1000, and is '0'"),
        ("API_MIN_INSTANCES", "some", "API_MIN_INSTANCES: it must be a whole number from 0 to 999, and is 'some'"),
        ("RULES", "merge", "RULES: it must be replace or keep, and is 'merge'"),
        ("UPSTREAMS_FILE", "other.toml", "UPSTREAMS_FILE: it must be upstreams.toml, beside this script"),
        ("UPSTREAMS_FILE", "upstreams.toml", "UPSTREAMS_FILE: upstreams.toml can't be read as TOML"),
        ("UPSTREAM_MODELS", "", "UPSTREAM_MODELS: it must list the models that users may ask for"),
        ("UPSTREAM_BASE_URL", "nowhere", "upstream default: base_url must be an http or https URL"),
        ("LEASE_SECONDS", "long", "LEASE_SECONDS: it must be a number of seconds above 0, and is 'long'"),
        ("DISPATCH_SECONDS", "1500", "DISPATCH_SECONDS: it must be above every upstream's total_seconds"),
        (
            "RESPONSE_SECONDS",
            "3530",
            "RESPONSE_SECONDS: with STATUS_WAIT_SECONDS and SEND_SECONDS it must be below 3600",
        ),
        ("UPSTREAM_MODELS", "a|b", "UPSTREAM_MODELS: it must have no '|' and no line break"),
        ("UPSTREAM_API_KEY", "", "UPSTREAM_API_KEY: it must be set, or UPSTREAM_API_KEY_FILE"),
        ("UPSTREAM_API_KEY_FILE", "/nowhere", "UPSTREAM_API_KEY_FILE: it can't be read."),
        ("UPSTREAM_API_KEY_FILE", "-", "UPSTREAM_API_KEY_FILE: there is no key in it."),
        ("GOOGLE_CLOUD_PROJECT", "demo-2", "GOOGLE_CLOUD_PROJECT: there is no project 'demo-2' for this login"),
        (
            "PYTHON",
            "/nowhere/python3",
            "There is no Python 3.11 or newer at /nowhere/python3: install one, or set PYTHON",
        ),
        ("PYTHON", "false", "There is no Python 3.11 or newer at false"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(cloud: Cloud, variable: str, value: str, said: str) -> None:
    assert said in refused(cloud, **{variable: value})


def test_a_key_of_a_name_that_no_variable_has_is_refused(cloud: Cloud) -> None:
    text = '[one]\nbase_url = "https://one.example/v1"\nmodels = ["*"]\nkey_env = "$(touch pwned)"\n'
    (cloud.root / "upstreams.toml").write_text(text, encoding="utf-8")
    said = refused(cloud, UPSTREAMS_FILE="upstreams.toml")
    assert said.startswith("UPSTREAMS_FILE: key_env must be a name such as OPENAI_API_KEY")


@pytest.mark.parametrize("tool", ["gcloud", "curl"])
def test_a_tool_that_is_not_there_is_named(cloud: Cloud, tool: str) -> None:
    cloud.without(tool)
    assert refused(cloud).startswith(f"There is no {tool}: install it")


def test_who_is_not_logged_in_is_told_how(cloud: Cloud) -> None:
    cloud.change(login="")
    assert refused(cloud) == "Nobody is logged in: run 'gcloud auth login'.\n"


def test_a_database_in_datastore_mode_is_not_touched(cloud: Cloud) -> None:
    cloud.change(
        enabled=["firestore.googleapis.com"],
        databases={"(default)": {"type": "DATASTORE_MODE"}},
    )
    assert refused(cloud).startswith("FIRESTORE_DATABASE: (default) is in Datastore mode: name another")


@pytest.mark.parametrize("argument", ["--dryrun", "--canary", "--canary=0", "--canary=101", "--canary=ten", "undeploy"])
def test_an_argument_that_is_not_known_is_named(cloud: Cloud, argument: str) -> None:
    assert refused(cloud, argument) == f"Unknown argument '{argument}': see ./deploy.sh --help\n"


@pytest.mark.parametrize("line", ["export A=b", "lower=b", "UPSTREAM_BASE_URL https://a.example", "A-B=c"])
def test_a_line_of_the_file_that_is_none_is_named(cloud: Cloud, line: str) -> None:
    (cloud.root / "deploy.env").write_text(f"{line}\n", encoding="utf-8")
    assert refused(cloud) == f"deploy.env: '{line}' is not VARIABLE=value\n"


def test_the_rules_of_another_login_are_not_looked_at(cloud: Cloud) -> None:
    cloud.change(enabled=["firebaserules.googleapis.com"], login="ya29.of-somebody-else")
    before = cloud.state
    done = cloud.run(settings={**SETTINGS, "GOOGLE_CLOUD_PROJECT": PROJECT})
    assert done.code != 0
    assert "401" in done.err
    untouched(cloud, done, before)
