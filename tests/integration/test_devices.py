"""Old devices are counted, and deleted where that is asked for; new ones, and the app's own documents, stay."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.ports import free_port
from local.stack import Stack
from operations import devices
from operations.devices import main
from tests.conftest import database_of

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def project() -> str:
    """One of its own, since the devices of all users are gone through."""
    return f"demo-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def database(stack: Stack, project: str) -> Any:
    return database_of(stack, project)


@pytest.fixture
def run(stack: Stack, project: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command: its exit status, and the lines it printed. It reaches Firestore as the functions do."""
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", stack.functions_firestore_host)

    def run(*argv: str) -> tuple[int, list[str]]:
        status = main([*argv, "--project", project])
        said = capsys.readouterr()
        return status, (said.out + said.err).splitlines()

    return run


def register(database: Any, days: float, user: str = "alice") -> str:
    """Registers a device as an app does, so many days ago, and returns its path."""
    path = f"users/{user}/holdfastDevices/{uuid.uuid4().hex}"
    created = datetime.now(UTC) - timedelta(days=days)
    database.document(path).set({"token": "canary", "platform": "web", "createdAt": created})
    return path


def there(database: Any) -> set[str]:
    return {
        f"users/{each.reference.path.split('users/')[1]}" for each in database.collection_group("holdfastDevices").get()
    }


def test_old_devices_go_and_new_ones_stay(database: Any, run: Run) -> None:
    kept = {register(database, 269), register(database, 1, "bob")}
    undated = f"users/bob/holdfastDevices/{uuid.uuid4().hex}"
    database.document(undated).set({"token": "canary"})
    old = {register(database, 271), register(database, 900, "bob"), register(database, 900, "carol")}
    database.document("users/carol").set({"createdAt": datetime(2001, 1, 1, tzinfo=UTC)})
    before = there(database)
    assert run() == (
        0,
        [
            "       6 devices",
            "       3 of them not registered again for 270 days",
            "Nothing was deleted. To delete them for good: --delete",
        ],
    )
    assert there(database) == before == kept | old | {undated}
    status, lines = run("--delete")
    assert (status, lines[-1]) == (0, "       3 deleted")
    assert there(database) == kept | {undated}
    assert database.document("users/carol").get().exists
    assert run("--delete", "--days", "2")[1][-1] == "       1 deleted"
    assert there(database) == (kept | {undated}) - {next(path for path in kept if "alice" in path)}


def test_more_than_a_page_is_gone_through(database: Any, run: Run) -> None:
    for user in range(3):
        batch = database.batch()
        for n in range(devices.PAGE // 2):
            created = datetime.now(UTC) - timedelta(days=300 if n % 2 else 1)
            fields = {"token": "t", "platform": "ios", "createdAt": created}
            batch.set(database.document(f"users/u{user}/holdfastDevices/{n}"), fields)
        batch.commit()
    status, lines = run("--delete")
    assert status == 0
    assert [int(line.split()[0]) for line in lines] == [450, 225, 225]
    assert len(there(database)) == 225


def test_a_device_that_is_registered_again_meanwhile_stays(
    database: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = register(database, 400)
    found = devices.Registered._take

    def take(self: Any, old: Any) -> None:
        database.document(path).update({"createdAt": datetime.now(UTC)})
        found(self, old)

    monkeypatch.setattr(devices.Registered, "_take", take)
    assert run("--delete")[1][1:] == ["       1 of them not registered again for 270 days", "       0 deleted"]
    assert there(database) == {path}


def test_it_prints_no_token_and_no_user(database: Any, run: Run) -> None:
    register(database, 400)
    assert not {word for line in run("--delete")[1] for word in ("canary", "alice") if word in line}


@pytest.mark.parametrize("days", ["0", "-1", "soon", "36501"])
def test_a_number_of_days_that_is_none_is_refused(run: Run, days: str) -> None:
    with pytest.raises(SystemExit):
        run("--days", days)


def test_a_firestore_that_is_away_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    status, lines = run()
    assert status == 1
    assert lines[0].startswith("Firestore can't be reached")
