"""One delivery of a task over HTTP: its headers, and its outcome."""

from __future__ import annotations

import re
import time

import urllib3
from google.api_core.exceptions import from_http_status
from google.cloud import tasks_v2 as v2
from grpc import StatusCode

from local.tasks_emulator.entry import Entry, Outcome
from local.tasks_emulator.issuer import Issuer

REPLACED_HEADERS = re.compile(
    r"(connection|host|content-length|user-agent)$|x-(google|appengine|cloudtasks)-", re.IGNORECASE
)


def headers_of(entry: Entry, issuer: Issuer) -> urllib3.HTTPHeaderDict:
    """A delivery's headers (https://cloud.google.com/tasks/docs/creating-http-target-tasks#handler).

    TaskRetryCount counts every attempt before this one. TaskExecutionCount counts the responses: "This number does
    not include failures due to 5XX error codes". TaskPreviousResponse and TaskRetryReason are on retries only; the
    page lists no reasons, so these are the emulator's own.
    """
    task, http = entry.task, entry.task.http_request
    queue, _, name = task.name.rpartition("/tasks/")
    headers = urllib3.HTTPHeaderDict({k: v for k, v in http.headers.items() if not REPLACED_HEADERS.match(k)})
    headers["User-Agent"] = "Google-Cloud-Tasks"
    headers["X-CloudTasks-QueueName"] = queue.rpartition("/")[2]
    headers["X-CloudTasks-TaskName"] = name
    headers["X-CloudTasks-TaskRetryCount"] = str(task.dispatch_count - 1)
    headers["X-CloudTasks-TaskExecutionCount"] = str(entry.executions)
    headers["X-CloudTasks-TaskETA"] = f"{task.schedule_time.timestamp():.6f}"
    if entry.last:
        headers["X-CloudTasks-TaskRetryReason"] = entry.last.reason
    # A reused connection that the worker closes at the same moment would count as a failed attempt.
    headers["Connection"] = "close"
    if entry.last and entry.last.status:
        headers["X-CloudTasks-TaskPreviousResponse"] = str(entry.last.status)
    if "oidc_token" in http:
        token = issuer.token(http.oidc_token.service_account_email, http.oidc_token.audience or http.url)
        headers["Authorization"] = f"Bearer {token}"
    return headers


def deliver(http: v2.HttpRequest, headers: urllib3.HTTPHeaderDict, deadline: float) -> Outcome:
    """Sends the request on a connection of its own, and reads the whole response, for `deadline` seconds at the most.

    A pool would give the connection to another delivery although the worker was asked to close it.
    """
    end = time.monotonic() + deadline
    try:
        with (
            urllib3.PoolManager(num_pools=1, retries=False) as connections,
            connections.request(
                http.http_method.name,
                http.url,
                body=http.body or None,
                headers=headers,
                timeout=urllib3.Timeout(total=deadline),
                redirect=False,
                preload_content=False,
            ) as response,
        ):
            while response.read1(65536, decode_content=False):
                if time.monotonic() > end:  # a time-out limits a single read; a slow body takes many
                    raise urllib3.exceptions.TimeoutError
    except urllib3.exceptions.TimeoutError:
        return Outcome(0, StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    except (urllib3.exceptions.HTTPError, OSError, ValueError):
        return Outcome(0, StatusCode.UNAVAILABLE, "UNAVAILABLE")
    retry_after = response.headers.get("Retry-After", "") if response.status in (429, 503) else ""
    code = from_http_status(response.status, "").grpc_status_code or StatusCode.UNKNOWN
    reason = f"HTTP status code {response.status}"
    return Outcome(response.status, code, reason, int(retry_after) if retry_after.isdecimal() else 0)
