"""The npm packages of the page, the client package and the tests: exact versions, and the same ones everywhere."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = [ROOT / "examples" / "web" / "package.json", *ROOT.glob("tests/e2e/*/package.json")]
PACKAGE = ROOT / "clients" / "js" / "package.json"


def manifest_of(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_each_package_has_one_exact_version_everywhere() -> None:
    versions: dict[str, set[str]] = defaultdict(set)
    for manifest in (*MANIFESTS, PACKAGE):
        fields = manifest_of(manifest)
        for name, version in {**fields.get("dependencies", {}), **fields.get("devDependencies", {})}.items():
            versions[name].add(version)
    ours = versions.pop(manifest_of(PACKAGE)["name"])
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}
    assert all(re.fullmatch(r"(npm:[@/\w-]+@)?[\d.]+", version) for found in versions.values() for version in found)
    assert {Path(file).name for file in ours} == {f"holdfast-client-{manifest_of(PACKAGE)['version']}.tgz"}
