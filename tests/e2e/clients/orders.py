"""Has one of Python's popular clients carry out orders: a line of JSON each, answered by lines of JSON.

A client is a module beside this one with two async generators: `stream` gives the pieces of an answer as they come and
then its usage, and `loop` gives what a tool loop ends with. The packages are not those of the tests, but those of
requirements-clients.txt.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from typing import Any

LINES, sys.stdout = sys.stdout, sys.stderr  # some clients print


def say(**what: Any) -> None:
    print(json.dumps(what), file=LINES, flush=True)


async def main() -> None:
    client = import_module(sys.argv[1])
    while line := await asyncio.to_thread(sys.stdin.readline):
        order: dict[str, Any] = json.loads(line)
        try:
            async for said in getattr(client, order["do"])(order):
                say(said=said)
            say(done=True)
        except Exception as error:
            say(failed=f"{type(error).__name__}: {error}"[:2000])


if __name__ == "__main__":
    asyncio.run(main())
