"""Upstreams that are called with tokens of the worker's account: what it is given for them, and what is only said."""

from __future__ import annotations

import pytest

from tests.deploy.cloud import PROJECT, WORKER, Cloud

SETTINGS = {
    "GOOGLE_CLOUD_PROJECT": PROJECT,
    "UPSTREAM_AUTH": "google",
    "UPSTREAM_SPEAKS": "gemini",
    "UPSTREAM_MODELS": "gemini-*",
}
NATIVE = "https://us-central1-aiplatform.googleapis.com/v1/projects/{}/locations/us-central1/publishers/google"
COMPATIBLE = "https://aiplatform.googleapis.com/v1/projects/{}/locations/global/endpoints/openapi"
ENABLE = f"gcloud services enable aiplatform.googleapis.com --project={PROJECT} --quiet"
GRANT = (
    f"gcloud projects add-iam-policy-binding {PROJECT} --condition=None --member=serviceAccount:{WORKER} "
    f"--role=roles/aiplatform.user --project={PROJECT} --quiet"
)


def users(cloud: Cloud) -> list[str]:
    """Who may use Vertex AI in the project."""
    policy = cloud.state["policies"][f"projects {PROJECT}"]
    return [member for each in policy if each["role"] == "roles/aiplatform.user" for member in each["members"]]


@pytest.mark.parametrize("url", [NATIVE, COMPATIBLE], ids=["native", "OpenAI-compatible"])
def test_for_vertex_ai_the_worker_gets_a_role_and_the_project_the_api_and_there_is_no_key(
    cloud: Cloud, url: str
) -> None:
    settings = {**SETTINGS, "UPSTREAM_BASE_URL": url.format(PROJECT)}
    done = cloud.run(settings=settings)
    assert done.code == 0, done.err
    assert users(cloud) == [f"serviceAccount:{WORKER}"]
    assert "aiplatform.googleapis.com" in cloud.state["enabled"]
    assert cloud.state["secrets"] == {}
    assert "clear-secrets" in cloud.deployed("worker")
    assert {ENABLE, GRANT} <= set(done.out.splitlines())
    again = cloud.run(settings=settings)
    assert (again.code, again.changes) == (0, []), again.err


def test_a_dry_run_shows_both(cloud: Cloud) -> None:
    done = cloud.run("--dry-run", settings={**SETTINGS, "UPSTREAM_BASE_URL": NATIVE.format(PROJECT)})
    lines = done.out.splitlines()
    assert {ENABLE, GRANT} <= set(lines), done.err
    worker = next(place for place, line in enumerate(lines) if line.startswith("gcloud run deploy holdfast-worker"))
    assert lines.index(ENABLE) < lines.index(GRANT) < worker


def test_where_google_cloud_is_slow_to_know_the_api_the_grant_waits(cloud: Cloud) -> None:
    cloud.change(lag=2)
    done = cloud.run(settings={**SETTINGS, "UPSTREAM_BASE_URL": NATIVE.format(PROJECT)})
    assert done.code == 0, done.err
    assert users(cloud) == [f"serviceAccount:{WORKER}"]


@pytest.mark.parametrize(
    ("auth", "url"),
    [
        ("bearer", NATIVE.format(PROJECT)),
        ("google", "https://generativelanguage.googleapis.com/v1beta"),
        ("google", NATIVE.format(PROJECT).replace("googleapis.com", "googleapis.com.example")),
        ("google", NATIVE.format(PROJECT).replace("us-central1-", "not")),
    ],
    ids=["a key", "another API", "another host", "a host that ends alike"],
)
def test_no_other_upstream_gets_the_role(cloud: Cloud, auth: str, url: str) -> None:
    settings = {**SETTINGS, "UPSTREAM_AUTH": auth, "UPSTREAM_BASE_URL": url, "UPSTREAM_API_KEY": "sk"}
    done = cloud.run("--dry-run", settings=settings)
    assert (done.code, done.err) == (0, "")
    assert "gcloud run deploy holdfast-worker" in done.out
    assert "aiplatform.user" not in done.out
    assert "enable aiplatform" not in done.out


def test_of_vertex_ai_in_another_project_the_commands_are_said_and_nothing_is_done(cloud: Cloud) -> None:
    done = cloud.run(settings={**SETTINGS, "UPSTREAM_BASE_URL": COMPATIBLE.format("theirs")})
    assert done.code == 0, done.err
    assert users(cloud) == []
    assert "aiplatform.googleapis.com" not in cloud.state["enabled"]
    assert not any("theirs" in word for call in done.calls for word in call if not word.startswith("--set-env-vars"))
    assert "gcloud services enable aiplatform.googleapis.com --project=theirs\n" in done.out
    assert f"projects add-iam-policy-binding theirs --member=serviceAccount:{WORKER} --role=roles/aiplatform.user" in (
        done.out
    )


TOML = """
[one]
base_url = "https://ollama-123456789.europe-west1.run.app/v1"
models = ["one"]
auth = "google_id_token"

[two]
base_url = "https://vllm-abcdefg-ew.a.run.app/v1"
models = ["two", "three"]
auth = "google_id_token"

[vertex]
base_url = "{vertex}"
models = ["*"]
auth = "google"
"""


def test_for_private_services_the_grant_is_said_once_each_and_the_vertex_beside_them_is_done(cloud: Cloud) -> None:
    (cloud.root / "upstreams.toml").write_text(TOML.format(vertex=NATIVE.format(PROJECT)), encoding="utf-8")
    done = cloud.run(settings={"GOOGLE_CLOUD_PROJECT": PROJECT, "UPSTREAMS_FILE": "upstreams.toml"})
    assert done.code == 0, done.err
    said = [line for line in done.out.splitlines() if f"{WORKER} --role=roles/run.invoker" in line]
    add = "gcloud run services add-iam-policy-binding"
    assert said == [
        f"{add} ollama --region=europe-west1 --member=serviceAccount:{WORKER} --role=roles/run.invoker",
        f"{add} SERVICE --region=REGION --member=serviceAccount:{WORKER} --role=roles/run.invoker",
    ]
    assert "The upstream vllm-abcdefg-ew.a.run.app gets an ID token" in done.out
    assert users(cloud) == [f"serviceAccount:{WORKER}"]


def test_destroy_takes_the_role_away(cloud: Cloud) -> None:
    settings = {**SETTINGS, "UPSTREAM_BASE_URL": NATIVE.format(PROJECT)}
    assert cloud.run(settings=settings).code == 0
    done = cloud.run("destroy", "--yes", settings=settings)
    assert done.code == 0, done.err
    assert cloud.state["policies"][f"projects {PROJECT}"] == []
