"""The metrics, the dashboard and the alerts: they are consistent, and the real gcloud accepts them.

That each metric is fed by lines which the functions really write is checked where those run: e2e/test_observability.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lib.runtime.logs import FIELDS

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "monitoring"
METRICS = {path.stem: path for path in sorted((MONITORING / "metrics").glob("*.json"))}
ALERTS = {path.stem: path for path in sorted((MONITORING / "alerts").glob("*.json"))}
DASHBOARD = MONITORING / "dashboard.json"
# The platform's own, by "Google Cloud metrics".
PLATFORM = {
    "cloudtasks.googleapis.com/queue/depth",
    "cloudtasks.googleapis.com/queue/task_attempt_count",
    "run.googleapis.com/container/instance_count",
    "run.googleapis.com/request_count",
}
_FILTERED = re.compile(r'metric\.type="([^"]+)"')
_QUERIED = re.compile(r"(\w+:\w+)\{")
_LOGGED = "logging.googleapis.com/user/"


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for each in node.values() if isinstance(node, dict) else node:
            yield from strings(each)


def named(path: Path) -> set[str]:
    """The metrics a file names: the platform's by type, those of the log by name."""
    found = set()
    for text in strings(read(path)):
        found |= set(_FILTERED.findall(text))
        # PromQL's name of a type has a colon for the first slash; a distribution has three, by suffix.
        for query in _QUERIED.findall(text):
            name = query.removeprefix("logging_googleapis_com:user_")
            found.add(_LOGGED + (name if name in METRICS else re.sub(r"_(bucket|count|sum)$", "", name)))
    return found


USED = {path: named(path) for path in (DASHBOARD, *ALERTS.values())}


def test_every_metric_that_is_shown_or_alerted_on_is_one_of_the_log_s_or_of_the_platform_s() -> None:
    for path, names in USED.items():
        assert names, path
        assert names <= PLATFORM | {_LOGGED + name for name in METRICS}, path


def test_every_metric_is_shown_or_alerted_on() -> None:
    assert set().union(*USED.values()) == PLATFORM | {_LOGGED + name for name in METRICS}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_named_after_its_file_and_takes_its_values_and_labels_from_fields_there_are(name: str) -> None:
    metric = read(METRICS[name])
    descriptor = metric["metricDescriptor"]
    assert metric["name"] == name
    assert {label["key"] for label in descriptor.get("labels", [])} == set(metric.get("labelExtractors", {}))
    assert (descriptor["valueType"] == "DISTRIBUTION") == ("valueExtractor" in metric) == ("bucketOptions" in metric)
    fields = re.findall(r"jsonPayload\.(\w+)", json.dumps(metric))
    assert set(fields) <= {*FIELDS, "message", "logger"}


def test_the_document_has_every_metric_and_every_alert_and_no_other() -> None:
    document = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    metrics, _, alerts = document.partition("## Metrics\n")[2].partition("## Traces\n")[0].partition("| alert |")
    assert set(re.findall(r"^\| `(\w+)` \|", metrics, re.MULTILINE)) == set(METRICS)
    assert set(re.findall(r"^\| ([a-z-]+) \|", alerts, re.MULTILINE)) == set(ALERTS)


def test_labels_in_queries_are_labels_of_their_metrics() -> None:
    for tile in read(DASHBOARD)["mosaicLayout"]["tiles"]:
        for data in tile["widget"]["xyChart"]["dataSets"]:
            series = data["timeSeriesQuery"].get("timeSeriesFilter")
            found = _FILTERED.search(series["filter"]) if series else None
            if found is None or not found[1].startswith(_LOGGED):
                continue
            descriptor = read(METRICS[found[1].removeprefix(_LOGGED)])["metricDescriptor"]
            labels = [label["key"] for label in descriptor.get("labels", [])]
            for field in series["aggregation"].get("groupByFields", []):
                assert field.removeprefix("metric.label.") in labels, tile["widget"]["title"]


# What the real gcloud makes of the files

GCLOUD = shutil.which("gcloud")
with_gcloud = pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed, so its own reading is not checked")


class Google(ThreadingHTTPServer):
    """Takes whatever gcloud sends, and keeps it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        google = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                google.sent.append((self.path.partition("?")[0], json.loads(body)))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=[0.1], daemon=True).start()


@pytest.fixture
def google() -> Iterator[Google]:
    google = Google()
    yield google
    google.shutdown()
    google.server_close()


def gcloud(google: Google, folder: Path, *command: str | Path) -> None:
    """Runs the real gcloud, with a token of nobody's, against a server on this machine."""
    token = folder / "token"
    token.write_text("nobody's")
    url = f"http://127.0.0.1:{google.server_address[1]}/"
    environ = {
        **os.environ,
        "CLOUDSDK_CONFIG": str(folder),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_PROJECT": "demo-holdfast",
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_LOGGING": url,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING": url,
    }
    done = subprocess.run(
        [str(GCLOUD), *map(str, command)], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@with_gcloud
def test_gcloud_sends_the_dashboard_as_it_is(google: Google, tmp_path: Path) -> None:
    gcloud(google, tmp_path, "monitoring", "dashboards", "create", f"--config-from-file={DASHBOARD}")
    assert google.sent == [("/v1/projects/demo-holdfast/dashboards", read(DASHBOARD))]


@with_gcloud
def test_gcloud_sends_a_metric_and_an_alert_as_they_are(google: Google, tmp_path: Path) -> None:
    metric, alert = METRICS["holdfast_ttft"], ALERTS["answers-fail"]
    gcloud(google, tmp_path, "logging", "metrics", "create", metric.stem, f"--config-from-file={metric}")
    gcloud(google, tmp_path, "alpha", "monitoring", "policies", "create", f"--policy-from-file={alert}")
    assert google.sent == [
        ("/v2/projects/demo-holdfast/metrics", read(metric)),
        ("/v3/projects/demo-holdfast/alertPolicies", read(alert)),
    ]


KNOWN = """
import json, sys
root, *files = sys.argv[1:]
sys.path[:0] = [root + "/lib/third_party", root + "/lib"]
from apitools.base.py import encoding
from googlecloudsdk.generated_clients.apis.logging.v2.logging_v2_messages import LogMetric
from googlecloudsdk.generated_clients.apis.monitoring.v1.monitoring_v1_messages import Dashboard
from googlecloudsdk.generated_clients.apis.monitoring.v3.monitoring_v3_messages import AlertPolicy
kinds = {"metrics": LogMetric, "alerts": AlertPolicy, "monitoring": Dashboard}
for file in files:
    text = open(file).read()
    message = encoding.JsonToMessage(kinds[file.split("/")[-2]], text)
    for where, names in encoding.UnrecognizedFieldIter(message):
        print(file, [each.field for each in where], names)
    if json.loads(encoding.MessageToJson(message)) != json.loads(text):
        print(file, "reads differently")
"""


def unknown(*paths: Path) -> str:
    """What of the files is not in the definitions of the APIs that gcloud comes with."""
    assert GCLOUD is not None
    root = Path(GCLOUD).resolve().parents[1]
    done = subprocess.run(
        ["python3", "-c", KNOWN, root, *paths], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@with_gcloud
def test_every_field_of_every_file_is_one_that_the_apis_know(tmp_path: Path) -> None:
    assert unknown(DASHBOARD, *METRICS.values(), *ALERTS.values()) == ""
    wrong = tmp_path / "metrics" / "wrong.json"
    wrong.parent.mkdir()
    wrong.write_text(json.dumps({**read(METRICS["holdfast_ttft"]), "valueExtracter": ""}))
    assert "valueExtracter" in unknown(wrong)
