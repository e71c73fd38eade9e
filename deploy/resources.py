"""Resources of a project, as gcloud prints them with --format=json."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any


def read() -> Any:
    """What is on stdin: a dry run finds nothing there."""
    return json.loads(sys.stdin.read().strip() or "[]")


def database(name: str) -> Iterator[str]:
    """A database's type, edition and location, if it is there."""
    for each in read():
        if each["name"].endswith(f"/databases/{name}"):
            yield f"{each['type']} {each.get('databaseEdition', 'STANDARD')} {each['locationId']}"


def names() -> Iterator[str]:
    """The resources' own names, without where they are."""
    for each in read():
        yield each["name"].rpartition("/")[2]


def kept_elsewhere(region: str) -> Iterator[str]:
    """The secrets whose payload is in chosen regions, and this is none of them.

    https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets#Replication
    """
    for each in read():
        replicas = each.get("replication", {}).get("userManaged", {}).get("replicas", [])
        if replicas and region not in [replica["location"] for replica in replicas]:
            yield each["name"].rpartition("/")[2]


def newest() -> Iterator[int | str]:
    """The newest of a secret's versions that can be read."""
    versions = [int(each["name"].rpartition("/")[2]) for each in read() if each["state"] == "ENABLED"]
    yield max(versions, default="")


def queue(name: str, *flags: str) -> Iterator[str]:
    """`same` where the queue has what the flags say, `update` where it differs."""
    for each in read():
        if each["name"].endswith(f"/queues/{name}"):
            there = {**each.get("rateLimits", {}), **each.get("retryConfig", {})}
            yield "same" if all(_is_so(there, flag) for flag in flags) else "update"


def _is_so(there: dict[str, Any], flag: str) -> bool:
    words, _, value = flag.removeprefix("--").partition("=")
    first, *rest = words.split("-")
    return _seconds(there.get(first + "".join(map(str.title, rest)), "-1")) == _seconds(value)


def _seconds(value: object) -> float:
    return float(str(value).rstrip("s"))


def service(name: str) -> Iterator[str]:
    """A service's mark (or `unready`), whether its latest revision has all the traffic, and its canary's share."""
    for each in read():
        if each["metadata"]["name"] == name:
            conditions = {one["type"]: one["status"] for one in each.get("status", {}).get("conditions", [])}
            traffic = each["spec"].get("traffic", [])
            latest = any(one.get("latestRevision") and one.get("percent") == 100 for one in traffic)
            shares = [one.get("percent", 0) for one in traffic if one.get("tag") == "canary"]
            mark = each["metadata"].get("labels", {}).get("holdfast", "unmarked")
            ready = mark if conditions.get("Ready") == "True" else "unready"
            yield f"{ready} {'latest' if latest else 'split'} {shares[0] if shares else 'none'}"


def regions(name: str, region: str) -> Iterator[str]:
    """The other regions that have a service of this deployment."""
    yield from sorted({where for where, _ in _elsewhere(name, region)})


def locations(name: str, region: str) -> Iterator[str]:
    """Where the queues of the deployment's services in other regions are."""
    yield from sorted({location for _, location in _elsewhere(name, region)})


def _elsewhere(name: str, region: str) -> Iterator[tuple[str, str]]:
    for each in read():
        if each["metadata"]["name"] not in (f"{name}-api", f"{name}-worker"):
            continue
        where = each["metadata"]["labels"]["cloud.googleapis.com/location"]
        if where != region:
            variables = [
                one for container in each["spec"]["template"]["spec"]["containers"] for one in container.get("env", [])
            ]
            set_to = {one["name"]: one.get("value", "") for one in variables}
            yield where, set_to.get("TASKS_LOCATION") or where


def attempt() -> Iterator[str]:
    """What a task's last delivery came to, such as `PERMISSION_DENIED(7): HTTP status code 403`, if there was one.

    https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks#Attempt
    """
    status = dict(read()).get("lastAttempt", {}).get("responseStatus")
    if status:
        yield status.get("message") or f"code {status.get('code')}"
