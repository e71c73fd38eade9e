"""Strict mode: what Google Cloud does, and emulators do not, each switched on by its name.

`make run STRICT=1` and the tests take all of it, and `STRICT=reads,latency` these alone. A strict stack has a proxy
before Firestore and a front end before each function, whatever is switched on. What they imitate is cited in
`local.firestore_proxy.faults`, `local.tasks_emulator.faults` and `local.front_end.limits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

INDEXES = Path(__file__).resolve().parent.parent / "firestore.indexes.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Strict:
    """The faults of Firestore's proxy and of Cloud Tasks' emulator, the limits of front ends, and settings.

    `worker_front` are limits of the worker's front end alone.
    """

    firestore: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Any] = field(default_factory=dict)
    front: Mapping[str, Any] = field(default_factory=dict)
    worker_front: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """All strictnesses of these names together."""
        chosen = [STRICTNESSES[name] for name in names]
        return cls(
            firestore={name: value for each in chosen for name, value in each.firestore.items()},
            tasks={name: value for each in chosen for name, value in each.tasks.items()},
            front={name: value for each in chosen for name, value in each.front.items()},
            worker_front={name: value for each in chosen for name, value in each.worker_front.items()},
            settings={name: value for each in chosen for name, value in each.settings.items()},
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str], default: str = "0") -> Self | None:
        """What HOLDFAST_STRICT says: 0 (not strict), 1 (all of it), or names. Errors: `ValueError`, with the remedy."""
        match environ.get("HOLDFAST_STRICT", "").strip() or default:
            case "0":
                return None
            case "1":
                return cls.of(STRICTNESSES)
            case given:
                names = [name.strip() for name in given.split(",")]
                if unknown := [name for name in names if name not in STRICTNESSES]:
                    raise ValueError(
                        f"STRICT must be 0, 1, or some of {','.join(STRICTNESSES)}, and has '{unknown[0]}'."
                    )
                return cls.of(names)


# The waits are short, so that tests and `make run` stay quick; their long tails are what matters.
STRICTNESSES: Mapping[str, Strict] = {
    "indexes": Strict(firestore={"indexes": str(INDEXES), "build": 0.5}),
    "sizes": Strict(firestore={"limits": True}),
    "missing": Strict(firestore={"current_alone": True}),
    "reads": Strict(firestore={"reads": 0.005}),
    "latency": Strict(
        firestore={
            "commit_latency": {"p50": 0.015, "p99": 0.1},
            "read_latency": {"p50": 0.008, "p99": 0.06},
            "listen_latency": {"p50": 0.008, "p99": 0.06},
        }
    ),
    "budget": Strict(firestore={"budget": 1.0}),
    "throttle": Strict(tasks={"throttle": 10.0}),
    "ramp": Strict(tasks={"ramp": 20.0}),
    "delay": Strict(tasks={"delay": {"p50": 0.005, "p99": 0.5}}),
    "idle": Strict(front={"idle_seconds": 60.0}),
    "signatures": Strict(worker_front={"strip": True}, settings={"WORKER_TOKENS": "platform"}),
}
