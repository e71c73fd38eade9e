"""Both functions with an additional dialect, like a deployment that has added one."""

import main
from tests.e2e.tiny_dialect.tiny import Tiny

main.DIALECTS = {**main.DIALECTS, Tiny.name: Tiny()}  # type: ignore[attr-defined]
api, worker = main.api, main.worker
