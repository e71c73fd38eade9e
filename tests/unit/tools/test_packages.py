"""The npm packages of the pages and the clients' tests: exact versions, and the same version everywhere."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = [*ROOT.glob("examples/*/package.json"), *ROOT.glob("tests/e2e/*/package.json")]


def test_each_package_has_one_exact_version_everywhere() -> None:
    versions: dict[str, set[str]] = defaultdict(set)
    for manifest in MANIFESTS:
        fields = json.loads(manifest.read_text(encoding="utf-8"))
        for name, version in {**fields["dependencies"], **fields.get("devDependencies", {})}.items():
            versions[name].add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}
    assert all(re.fullmatch(r"(npm:[@/\w-]+@)?[\d.]+", version) for found in versions.values() for version in found)
