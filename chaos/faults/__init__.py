"""The faults of the service's parts, of its upstreams and of its users, and what is promised nevertheless."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.fault import Fault
from chaos.faults.connections import ApiKilled, ViewersLeave
from chaos.faults.firestore import CommitsFail, CommitsRefused, FirestoreFrozen, FirestoreRestarted, ReadsFail
from chaos.faults.neighbours import UserHogs
from chaos.faults.queue import QueueUnreachable, TasksLate, TasksTwice
from chaos.faults.upstream import StoppedWhileMute, UpstreamFaults
from chaos.faults.worker import (
    WorkerDiesWithForty,
    WorkerEnds,
    WorkerFrozen,
    WorkerKilled,
    WorkerKilledInBackground,
    WorkerRaises,
)

FAULTS: Sequence[type[Fault]] = (
    WorkerKilled,
    WorkerKilledInBackground,
    WorkerEnds,
    WorkerFrozen,
    ApiKilled,
    FirestoreFrozen,
    FirestoreRestarted,
    CommitsFail,
    CommitsRefused,
    ReadsFail,
    TasksTwice,
    TasksLate,
    QueueUnreachable,
    UpstreamFaults,
    StoppedWhileMute,
    WorkerRaises,
    ViewersLeave,
    WorkerDiesWithForty,
    UserHogs,
)
