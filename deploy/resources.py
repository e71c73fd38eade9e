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
    """A database's type and edition, if it is there."""
    for each in read():
        if each["name"].endswith(f"/databases/{name}"):
            yield f"{each['type']} {each.get('databaseEdition', 'STANDARD')}"


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


def attempt() -> Iterator[str]:
    """What a task's last delivery came to, such as `PERMISSION_DENIED(7): HTTP status code 403`, if there was one.

    https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks#Attempt
    """
    status = dict(read()).get("lastAttempt", {}).get("responseStatus")
    if status:
        yield status.get("message") or f"code {status.get('code')}"
