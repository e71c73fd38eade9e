"""Answers the questions of deploy.sh: `python3 -m deploy QUESTION ARGUMENT…`, with what they are about on stdin.

An answer is lines on stdout. A refusal is a message on stderr, with the exit status 1. Only the module that has the
answer is imported: deploy.sh asks thirty times, and most answers need nothing of the settings.
"""

from __future__ import annotations

import sys
from importlib import import_module

ANSWERS = {
    "help": "settings.described",
    "keys": "settings.keys",
    "environment": "settings.environment",
    "model": "settings.model",
    "digest": "settings.digest",
    "vertex": "upstreams.vertex",
    "invoked": "upstreams.invoked",
    "granted": "policies.granted",
    "bound": "policies.bound",
    "automatic": "policies.automatic",
    "database": "resources.database",
    "names": "resources.names",
    "kept_elsewhere": "resources.kept_elsewhere",
    "newest": "resources.newest",
    "queue": "resources.queue",
    "service": "resources.service",
    "regions": "resources.regions",
    "locations": "resources.locations",
    "attempt": "resources.attempt",
    "release": "rules.release",
    "rules": "rules.compared",
    "ruleset": "rules.ruleset",
    "name": "rules.name",
    "indexes": "indexes.missing",
    "building": "indexes.building",
    "unindexed": "indexes.removals",
    "walk": "walk.deleted",
}


def main() -> int:
    question, *given = sys.argv[1:]
    module, _, answer = ANSWERS[question].partition(".")
    for line in getattr(import_module(f"deploy.{module}"), answer)(*given):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
