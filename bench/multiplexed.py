"""Both functions, with as many documents per listen stream as when deployed.

With an emulator they use one, because the emulator may corrupt a stream with more. For measuring that many viewers fit
into few streams this does not matter: a corrupted stream is reopened.
"""

import main
from lib.cloud.listen import TARGETS_PER_STREAM

main.TARGETS_PER_EMULATOR_STREAM = TARGETS_PER_STREAM  # type: ignore[attr-defined]
api, worker = main.api, main.worker
