"""What Firestore does and its emulator does not, each switched on by a setting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from local.distribution import Distribution, distribution

MAX_SECONDS = 3600.0
_SHARES = ("share", "done", "reads")


@dataclass(frozen=True)
class Faults:
    """The faults and strictnesses that are switched on.

    `share` is the share of the commits that fail, and `done` that of those that take effect nevertheless. `reads` is
    the share of BatchGetDocuments, RunQuery and RunAggregationQuery that fail as UNAVAILABLE, which Google's clients
    retry (https://cloud.google.com/firestore/docs/understand-error-codes).

    `indexes` is the path of a `firestore.indexes.json`: queries without an index of it are refused, and those that need
    one are refused for its first `build` seconds as well. See `indexes`.

    `current_alone`: a listener of a missing document is told CURRENT and no `document_delete`. Firebase's own SDK then
    makes the deletion up: "Document queries for document that don't exist can produce an empty result set"
    (https://github.com/firebase/firebase-js-sdk/blob/main/packages/firestore/src/remote/watch_change.ts).

    `commit_latency`, `read_latency` and `listen_latency` are added to each commit, read and listened-to change. Google
    publishes no distribution; a commit waits for a majority of replicas
    (https://cloud.google.com/firestore/docs/understand-reads-writes-scale).

    `budget` is how many writes a second a document takes without resistance. See `budget`. `limits`: commits and index
    entries have their largest sizes. See `limits`.
    """

    share: float = 0.0
    done: float = 0.5
    seed: int = 0
    reads: float = 0.0
    indexes: str | None = None
    build: float = 0.0
    current_alone: bool = False
    commit_latency: Distribution | None = None
    read_latency: Distribution | None = None
    listen_latency: Distribution | None = None
    budget: float = 0.0
    limits: bool = False

    def __post_init__(self) -> None:
        for name, most in (*((share, 1.0) for share in _SHARES), ("build", MAX_SECONDS), ("budget", 10_000.0)):
            if type(getattr(self, name)) not in (int, float) or not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is a number from 0 to {most:g}")
        if type(self.seed) is not int:
            raise ValueError("seed is a whole number")
        if type(self.current_alone) is not bool or type(self.limits) is not bool:
            raise ValueError("current_alone and limits are true or false")
        if self.indexes is not None and not (isinstance(self.indexes, str) and Path(self.indexes).is_file()):
            raise ValueError("indexes is the path of a firestore.indexes.json, or null")
        for name in ("commit_latency", "read_latency", "listen_latency"):
            object.__setattr__(self, name, distribution(getattr(self, name)))
