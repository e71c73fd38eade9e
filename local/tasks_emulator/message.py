"""Messages of the v2 API: defaults, views, pages, and the refusal of a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from google.cloud import tasks_v2 as v2
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode

T = TypeVar("T")


class Refusal(Exception):
    """A call that fails with a gRPC status and changes nothing."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid(message: str) -> Refusal:
    return Refusal(StatusCode.INVALID_ARGUMENT, message)


def is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and len(url) <= 2083
    except ValueError:
        return False


def filled(given: Any, defaults: Any) -> Any:
    """A copy of a proto-plus message whose unset fields have their defaults. (MergeFrom would mix up two durations.)"""
    whole = type(given)(given)
    target, source = type(given).pb(whole), type(given).pb(defaults)
    known = {field.name for field, _ in target.ListFields()}
    unset = FieldMask(paths=[field.name for field, _ in source.ListFields() if field.name not in known])
    unset.MergeMessage(source, target)
    return whole


def view_of(task: v2.Task, view: v2.Task.View) -> v2.Task:
    """A copy for the caller. The body is included only in the FULL view."""
    shown = v2.Task(task)
    shown.view = v2.Task.View(view or v2.Task.View.BASIC)
    if shown.view != v2.Task.View.FULL:
        shown.http_request.body = b""
    return shown


def page(items: Sequence[T], size: int, token: str, most: int) -> tuple[Sequence[T], str]:
    start = int(token or 0)
    end = start + min(size or most, most)
    return items[start:end], str(end) if end < len(items) else ""
