"""The emulator as a command: `python -m local.tasks_emulator --port P`."""

from __future__ import annotations

import argparse
import signal
import sys

from local.json_option import fields_of
from local.tasks_emulator.faults import Faults
from local.tasks_emulator.service import TasksEmulator


def main() -> int:
    parser = argparse.ArgumentParser(prog="tasks_emulator", description="Cloud Tasks on one machine.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8086, help="gRPC; 0 takes a free one")
    parser.add_argument("--http-port", type=int, default=0, help="keys and faults; 0 takes a free one")
    parser.add_argument("--min-dispatch-deadline", type=float, default=15.0, metavar="SECONDS")
    parser.add_argument(
        "--faults", type=fields_of(Faults), metavar="JSON", help='faults from the start, such as {"ramp": 20}'
    )
    # Blocked before any thread starts, so that every thread inherits it and sigwait below is what gets the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    emulator = TasksEmulator(**vars(parser.parse_args()))
    try:
        emulator.start()
    except OSError as error:
        print(f"tasks_emulator: {error.strerror}", file=sys.stderr)
        return 1
    print(f"ready grpc={emulator.target} http={emulator.url}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    emulator.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
