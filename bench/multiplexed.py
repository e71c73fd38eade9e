"""Both functions with as many documents a listen stream as they have when deployed.

Against an emulator they take one, for the emulator may corrupt a stream that has more. What is measured here is that
many viewers fit into few streams, which such a stream shows all the same: it is opened again.
"""

import main
from lib.cloud.listen import TARGETS_PER_STREAM

main.TARGETS_PER_EMULATOR_STREAM = TARGETS_PER_STREAM  # type: ignore[attr-defined]
api, worker = main.api, main.worker
