"""Both functions with one dialect more, as a deployment would have that had added one."""

import main
from tests.e2e.tiny_dialect.tiny import Tiny

main.DIALECTS = {**main.DIALECTS, Tiny.name: Tiny()}  # type: ignore[attr-defined]
api, worker = main.api, main.worker
