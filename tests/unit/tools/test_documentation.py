"""The documentation is correct: settings, links, commands, and what it says about the lock file."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from lib.runtime.settings import Settings
from operations import generated, settings_table

ROOT = Path(__file__).resolve().parents[3]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FUNCTIONS = {
    "api": ("lib.wires.api", "lib.serving.generations", "lib.serving.tail", "lib.cloud.task_queue"),
    "worker": ("lib.engine.worker", "lib.delivery.channels", "lib.delivery.deliveries"),
}


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text(page), flags=re.M | re.S)


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text(page), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_the_settings_table_is_the_settings() -> None:
    assert generated.part(settings_table.PAGE, "settings") == settings_table.table(), "run 'make docs'"


def loaded(*modules: str) -> set[Path]:
    """The files in lib/ that are loaded where these modules are."""
    code = f"import sys, {', '.join(modules)}; print(*(m.__file__ for n, m in sys.modules.items() if n[:4] == 'lib.'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return {Path(file) for file in done.stdout.split()}


def test_the_settings_say_which_function_goes_by_them() -> None:
    main = text(ROOT / "main.py")
    apart = {name: main.partition(f"def _{name}(")[2].partition("\ndef ")[0] for name in FUNCTIONS}
    both = main.partition("def _built(")[2].partition("\ndef ")[0]
    own = (ROOT / "lib" / "runtime" / "settings.py").read_text(encoding="utf-8")
    behind = {
        name: set(re.findall(r"self\.(\w+)", body))
        for name, body in re.findall(r"    def (\w+)\(self[^)]*\)[^\n]*\n(.*?)\n\n", own, re.S)
    }
    readers: dict[str, set[str]] = {}
    for function, modules in FUNCTIONS.items():
        sources = [text(file) for file in loaded(*modules) if file.name != "settings.py"]
        for name in re.findall(r"settings\.(\w+)", "\n".join([*sources, apart[function], both])):
            for setting in behind.get(name, {name}):
                readers.setdefault(setting, set()).add(function)
    there = {each.name: set(each.metadata["target"].split(", ")) for each in fields(Settings) if each.metadata}
    assert there == {name: readers.get(name, set()) for name in there}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        assert not anchor or anchor in headings(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_ours_that_a_page_gives_is_there(page: Path) -> None:
    blocks_and_words = re.findall(r"^```sh\n(.*?)^```|`([^`\n]*)`", text(page), re.M | re.S)
    code = "\n".join(block or word for block, word in blocks_and_words)
    targets = re.findall(r"^(\w+):", text(ROOT / "Makefile"), re.M)
    assert set(re.findall(r"\bmake (?:-s )?([a-z]+)", code)) <= set(targets)
    for module in re.findall(r"-m ((?:operations|cost|chaos|local)[\w.]*)", code):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists() or (ROOT / module / "__main__.py").exists(), module


def test_every_command_of_the_makefile_does_something() -> None:
    makefile = text(ROOT / "Makefile")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.M)
    assert phony.split() == [name for name in phony.split() if re.search(rf"^{name}:[^\n]*\n\t", makefile, re.M)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_every_test_that_a_page_names_is_there(page: Path) -> None:
    """`a/b.py`, `a/b.py::test_that`, and `::test_that` in the file named before it. `NAME` in a path is anything."""
    file = None
    for path, name in re.findall(r"`((?:[a-z_]+/)+\w+\.py)?(?:::(test_\w+))?`", text(page)):
        file = ROOT / path if path else file
        if file is not None and "NAME" not in file.name and (path or name):
            assert file.exists(), path
            assert not name or f"def {name}(" in text(file), name


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-java.txt"])
def test_every_package_has_one_version_and_its_hashes(name: str) -> None:
    lines = [line for line in text(ROOT / name).replace("\\\n", "").splitlines() if line.strip()[:1] not in ("", "#")]
    assert lines
    for line in lines:
        assert re.match(r"[a-z0-9-]+(\[[a-z0-9,-]+\])?==[^ ]+ .*--hash=sha256:[0-9a-f]{64}", line), line


def page_with(folder: Path, *lines: str) -> Path:
    page = folder / "page.md"
    page.write_text("\n".join(lines), encoding="utf-8")
    return page


def test_only_what_is_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = page_with(tmp_path, "before", "<!-- t: made -->", "", "old", "<!-- end of t -->", "after")
    generated.put(page, "t", "new\nlines")
    assert text(page) == "before\n<!-- t: made -->\nnew\nlines\n<!-- end of t -->\nafter"
    assert generated.part(page, "t") == "new\nlines"


@pytest.mark.parametrize(
    "lines",
    [
        ["nothing"],
        ["<!-- t: made -->", "open"],
        ["<!-- end of t -->", "<!-- t: made -->"],
        ["<!-- t: a -->", "<!-- end of t -->", "<!-- t: b -->", "<!-- end of t -->"],
    ],
)
def test_a_page_without_the_two_marks_is_left_alone_and_named(tmp_path: Path, lines: list[str]) -> None:
    page = page_with(tmp_path, *lines)
    with pytest.raises(generated.NoSuchPart, match=r"page\.md: it must have one line <!-- t: … -->"):
        generated.put(page, "t", "new")
    assert text(page) == "\n".join(lines)
