"""What others write to a generation's document while an attempt runs: a stop, a deletion, a viewer's lease.

A listener may fail silently or miss a version, so after some silence the document is read directly.
"""

from __future__ import annotations

import logging
import threading
import time

from lib.cloud.documents import Document, Version, newer
from lib.cloud.listen import Listener
from lib.cloud.store import Store
from lib.domain.errors import Unavailable
from lib.domain.generation import Generation
from lib.engine.buffer import Buffer, Signal
from lib.engine.committer import Commits
from lib.engine.interval import Interval

REREAD_SECONDS = 20.0  # of silence, which there is only without viewers: theirs is a lease that they renew more often

log = logging.getLogger(__name__)


class Others:
    """Listens to a generation's document, and acts on it, until it is closed. Call `reread` at the time `due`.

    The first state heard has what others wrote since the claim.
    """

    def __init__(
        self,
        store: Store,
        listener: Listener,
        generation: Generation,
        buffer: Buffer,
        commits: Commits,
        interval: Interval,
        reread_seconds: float = REREAD_SECONDS,
    ):
        self._store = store
        self._generation = generation
        self._buffer = buffer
        self._commits = commits
        self._interval = interval
        self._reread_seconds = reread_seconds
        self._heard = time.monotonic()
        self._lock = threading.Lock()  # a version may be told while another one is read
        self._version: Version = None
        self._watch = listener.watch(generation.path, self._on_change)

    def close(self) -> None:
        self._watch()

    @property
    def due(self) -> float:
        """When the document is to be read directly, on the monotonic clock."""
        return self._heard + self._reread_seconds

    def reread(self) -> None:
        """Reads the document. If the listener did not tell of what it says, the listener starts anew."""
        try:
            document = self._store.written_by_others(self._generation)
        except Unavailable:
            self._heard = time.monotonic()
            log.warning("the generation could not be read again")
            return
        if self._on_change(document):
            self._watch.restart()

    def _on_change(self, document: Document | None) -> bool:
        """Acts on a version of the document. Returns whether it was news; older versions are ignored."""
        self._heard = time.monotonic()
        if document is None:
            self._buffer.close(Signal.DELETED)
            return True
        with self._lock:
            if not newer(document.version, self._version):
                return False
            self._version = document.version
            if document.fields["stopRequestedAt"] is not None:
                self._buffer.close(Signal.STOPPED)
            self._interval.watched_by(document.fields["watchers"], document.fields.get("every", {}))
            self._commits.hurry()
            return True
