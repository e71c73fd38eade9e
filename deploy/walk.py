"""Deletes Holdfast's own data by walking its generations, through Firestore's REST API and curl.

Bulk deletion would go by a collection's name, wherever in the database it lies. This goes from each document of
`holdfastGenerations` to what was written for it: the parts of its request, the journal of its message, and the claim of
its chat's title. The message stays, with the parts of its text: they are the app's users'. The generation is deleted
last, so that an interrupted run can be repeated. After all generations go the orders of chats' turns in
`holdfastTurns`, and the accounts in `holdfastUsage`. https://cloud.google.com/firestore/docs/reference/rest
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from lib.domain.collections import GENERATIONS, JOURNAL, REQUEST, TITLES, TURNS, USAGE

PAGE = 100  # generations
LISTED = 300  # documents of one collection
COMMIT = 400  # deletions in a commit
SECONDS = 120  # for one request


class Refused(Exception):
    """What Firestore or curl answered to a request."""


class Firestore:
    """The documents of one database, below `root`, as the owner of `token`."""

    def __init__(self, root: str, token: str):
        self._root = root
        self._token = token
        self._name = root.partition("/v1/")[2]

    def query(self, collection: str, limit: int, everywhere: bool = False, field: str = "__name__") -> list[Any]:
        """Documents of a collection, with one field of each."""
        query = {
            "from": [{"collectionId": collection, "allDescendants": everywhere}],
            "select": {"fields": [{"fieldPath": field}]},
            "limit": limit,
        }
        answers = self._call(["documents:runQuery"], {"structuredQuery": query})[0]
        return [each["document"] for each in answers if "document" in each]

    def lists(self, collections: Sequence[str]) -> list[tuple[list[str], bool]]:
        """The names of documents in each collection, at most `LISTED`, and whether those are all."""
        paths = [f"documents/{quote(each)}?pageSize={LISTED}&mask.fieldPaths=expireAt" for each in collections]
        return [
            ([each["name"] for each in page.get("documents", [])], "nextPageToken" not in page)
            for page in self._call(paths)
        ]

    def delete(self, names: Sequence[str]) -> None:
        for at in range(0, len(names), COMMIT):
            writes = [{"delete": name} for name in names[at : at + COMMIT]]
            self._call(["documents:commit"], {"writes": writes})

    def relative(self, name: str) -> str:
        return name.removeprefix(f"{self._name}/documents/")

    def named(self, path: str) -> str:
        return f"{self._name}/documents/{path}"

    def _call(self, paths: Iterable[str], body: object = None) -> list[Any]:
        """The answers, in order. The token goes to curl on stdin, so that it is on no command line."""
        lines = [f'header = "Authorization: Bearer {self._token}"']
        lines += [f'url = "{self._root}/{path}"' for path in paths]
        if body is not None:
            lines += ['header = "Content-Type: application/json"', f"data-binary = {json.dumps(json.dumps(body))}"]
        command = ["curl", "--silent", "--show-error", "--fail-with-body", "--globoff", "--config", "-"]
        command += ["--max-time", str(SECONDS)]
        done = subprocess.run(command, input="\n".join(lines), capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise Refused(f"{done.stderr.strip()}\n{done.stdout.strip()}")
        return list(_values(done.stdout))


def deleted(root: str) -> Iterator[str]:
    """Deletes it all, with the token on stdin. Returns the collections where something is left, comma-separated.

    That is what belongs to generations which have expired already: a collection that keeps its TTL loses it by itself.
    """
    firestore = Firestore(root, sys.stdin.read().strip())
    try:
        while page := firestore.query(GENERATIONS, PAGE, field="messagePath"):
            _delete(firestore, page)
        for collection in (TURNS, USAGE):
            while page := firestore.query(collection, LISTED):
                firestore.delete([each["name"] for each in page])
        yield ",".join(each for each in (JOURNAL, REQUEST, TITLES) if firestore.query(each, 1, everywhere=True))
    except Refused as refused:
        sys.exit(f"{refused}\nNot all data was deleted. Run this again: it continues where it was interrupted.")


def _delete(firestore: Firestore, generations: Sequence[Any]) -> None:
    """Deletes what lies below each generation and its message, and those generations below which nothing is left."""
    below: list[str] = []
    for each in generations:
        below.append(f"{firestore.relative(each['name'])}/{REQUEST}")
        message = each["fields"]["messagePath"]["stringValue"]
        below += [f"{message}/{JOURNAL}", f"{message.rsplit('/', 2)[0]}/{TITLES}"]
    found = firestore.lists(below)
    names = []
    for at, each in enumerate(generations):
        (requests, all_requests), (journal, all_journal), (claims, _) = found[3 * at : 3 * at + 3]
        head = firestore.named(f"{below[3 * at + 1]}/head")
        names += sorted(journal, key=lambda name: name != head)  # the head first, so that no worker writes more
        names += requests + claims
        if all_requests and all_journal:
            names.append(each["name"])
    firestore.delete(names)


def _values(text: str) -> Iterator[Any]:
    """The JSON values that follow one another."""
    decoder, at = json.JSONDecoder(), 0
    text = text.strip()
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        yield value
        while at < len(text) and text[at].isspace():
            at += 1
