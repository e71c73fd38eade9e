"""The two function targets, `api` and `worker`, and their wiring. No logic belongs here.

Nothing is constructed before the first request: the server imports this module before it forks, and gRPC does not work
across a fork. Only the worker imports the modules that call the upstream.
"""

from __future__ import annotations

import gc

gc.disable()  # until an app is built: objects made by imports stay, and collecting takes a tenth of the import time

import os

# With this the thread that waits for a call does its I/O itself, and is not woken by a thread of gRPC's: that saves a
# tenth of a start's CPU. gRPC reads it when it is imported, and a version that lacks it only logs that.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")

import logging
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import functions_framework
from flask import Flask, Request
from gunicorn.config import Keepalive

from lib.cloud.documents import Documents
from lib.cloud.listen import TARGETS_PER_EMULATOR_STREAM, TARGETS_PER_STREAM, Listener
from lib.cloud.store import Store
from lib.dialects import DIALECTS
from lib.domain.errors import ConfigurationError, HoldfastError
from lib.runtime.allocator import limit_arenas
from lib.runtime.health import ROUTES, Readiness
from lib.runtime.logs import Logs
from lib.runtime.settings import Settings
from lib.runtime.shutdown import Shutdown
from lib.runtime.telemetry import Telemetry

limit_arenas()
# gunicorn closes a connection after two idle seconds unless told otherwise, and can't be told in another way here.
# Clients and front ends keep one for longer, and a POST that meets its end is lost: the AI SDK retries just then.
Keepalive.default = 75

_logs = Logs.for_function(os.environ)
_shutdown = Shutdown.in_forks(os.environ)
_building = threading.Lock()
_apps: dict[str, Flask] = {}


@functions_framework.http  # type: ignore[untyped-decorator]
def api(request: Request) -> Any:
    """The public function, which clients call."""
    return _serve("api", _api, request)


@functions_framework.http  # type: ignore[untyped-decorator]
def worker(request: Request) -> Any:
    """The private function, which Cloud Tasks calls."""
    return _serve("worker", _worker, request)


Build = Callable[[Settings, Store, Listener, Telemetry], Flask]


def _serve(name: str, build: Build, request: Request) -> Any:
    app = _apps.get(name)
    if app is None:
        try:
            with _building:
                app = _apps.get(name) or _apps.setdefault(name, _built(name, build))
        except ConfigurationError as error:
            logging.getLogger(__name__).error("the settings are wrong", extra={"settings": str(error)})
            return HoldfastError("The service is not set up; its log says why.", code="not_configured").body(), 500
        finally:
            if not gc.isenabled():
                gc.freeze()  # a full collection would stop every stream while it looks through what stays anyway
                gc.enable()
    with app.request_context(request.environ):
        return app.full_dispatch_request()


def _built(name: str, build: Build) -> Flask:
    settings = Settings.from_env(os.environ)
    _logs.set_project(settings.project)
    telemetry = Telemetry.from_settings(settings, name)
    documents = Documents(settings.project, settings.database, settings.firestore_emulator)
    per_stream = TARGETS_PER_EMULATOR_STREAM if settings.firestore_emulator else TARGETS_PER_STREAM
    app = build(settings, Store(documents, settings.retention), Listener(documents, per_stream), telemetry)
    telemetry.instrument(app, excluded=ROUTES)
    _shutdown.add_callback(telemetry.close)  # after the callbacks whose spans it sends
    return app


def _api(settings: Settings, store: Store, listener: Listener, telemetry: Telemetry) -> Flask:
    from lib.cloud.task_queue import TaskQueue
    from lib.cloud.tokens import AppTokens, UserTokens, identify
    from lib.journal.outbox import Outbox
    from lib.serving.generations import Generations
    from lib.serving.healing import Healer
    from lib.serving.tail import Tails
    from lib.wires.api import create_api
    from lib.wires.connection import departure

    clock = partial(datetime.now, UTC)
    queue = TaskQueue(settings, telemetry)
    healer = Healer(store, queue, DIALECTS, clock, Outbox(store, queue, settings.channels))
    tails = Tails(store, listener, viewer=uuid.uuid4().hex, clock=clock, heal=healer.heal, departure=departure)
    _shutdown.add_callback(tails.close)
    generations = Generations(settings, store, queue, tails, healer, DIALECTS, clock)
    apps = AppTokens(settings.project, settings.app_check_keys_url) if settings.app_check == "enforced" else None
    users = UserTokens(settings.project, emulated=settings.auth_emulator is not None)
    app = create_api(settings, generations, partial(identify, users=users, apps=apps), DIALECTS)
    Readiness({"Firestore": partial(store.generation, "ready"), "Cloud Tasks": queue.check}).serve(app)
    return app


def _worker(settings: Settings, store: Store, listener: Listener, telemetry: Telemetry) -> Flask:
    from lib.cloud.task_queue import TaskQueue
    from lib.cloud.tokens import QueueTokens
    from lib.delivery.channels import senders
    from lib.delivery.deliveries import Deliveries
    from lib.engine.worker import create_worker

    queue = TaskQueue(settings, telemetry)
    trusting = settings.worker_tokens == "platform"
    tokens = QueueTokens(settings.worker_url, settings.invoker, settings.oidc_certs_url, platform=trusting)
    app = create_worker(settings, store, listener, queue, tokens, os.environ, _shutdown, telemetry, dialects=DIALECTS)
    Deliveries(store, senders(settings, store, os.environ), partial(datetime.now, UTC)).serve(app, tokens)
    Readiness({"Firestore": partial(store.generation, "ready")}).serve(app)
    return app
