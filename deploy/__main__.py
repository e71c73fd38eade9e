"""Answers the questions of deploy.sh: `python3 -m deploy QUESTION ARGUMENT…`, with what they are about on stdin.

An answer is lines on stdout. A refusal is a message on stderr, with the exit status 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from deploy import indexes, policies, resources, rules, settings, upstreams, walk

ANSWERS: dict[str, Callable[..., Iterable[object]]] = {
    "help": settings.described,
    "keys": settings.keys,
    "environment": settings.environment,
    "model": settings.model,
    "digest": settings.digest,
    "vertex": upstreams.vertex,
    "invoked": upstreams.invoked,
    "granted": policies.granted,
    "bound": policies.bound,
    "automatic": policies.automatic,
    "database": resources.database,
    "newest": resources.newest,
    "queue": resources.queue,
    "service": resources.service,
    "attempt": resources.attempt,
    "release": rules.release,
    "rules": rules.compared,
    "ruleset": rules.ruleset,
    "name": rules.name,
    "indexes": indexes.missing,
    "building": indexes.building,
    "unindexed": indexes.removals,
    "walk": walk.deleted,
}


def main() -> int:
    question, *given = sys.argv[1:]
    for line in ANSWERS[question](*given):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
