"""The security rules for messages at another path."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from lib.domain.message_path import MESSAGE_PATH
from operations.rules import main, rules, rules_for

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = (ROOT / "firestore.rules").read_text(encoding="utf-8")
PEOPLE = "people/{uid}/talks/{chat}/turns/{message}"
SHARED = "conversations/{chat}/turns/{message}"
DEVICES = "users/{uid}/holdfastDevices/{device}"


def matches(text: str) -> list[str]:
    return re.findall(r"^    match /(.*) {$", text, re.M)


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 0
    return capsys.readouterr().out


def test_the_shipped_rules_are_those_of_the_default_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys) == rules() == rules_for({}) == rules_for({"MESSAGE_PATH": " "}) == SHIPPED
    assert f"    match /{MESSAGE_PATH} {{\n" in SHIPPED


def test_of_another_path_below_a_user_the_match_alone_differs(capsys: pytest.CaptureFixture[str]) -> None:
    made = printed(capsys, "--message-path", PEOPLE)
    assert made == SHIPPED.replace(f"match /{MESSAGE_PATH} {{", f"match /{PEOPLE} {{")
    assert matches(made) == ["users/{uid}/messages/{message}", PEOPLE, DEVICES, "holdfastGenerations/{generation}"]


def test_of_shared_chats_the_members_read_and_messages_of_no_chat_stay_their_owner_s() -> None:
    made = rules_for({"MESSAGE_PATH": SHARED, "CHAT_MEMBERS": "people"})
    assert matches(made) == ["users/{uid}/messages/{message}", SHARED, DEVICES, "holdfastGenerations/{generation}"]
    own, _, rest = made.partition("match /users/{uid}/messages/{message} {")[2].partition(f"match /{SHARED} {{")
    chats, _, devices = rest.partition(f"match /{DEVICES}")
    assert "allow create, update: if isUser(uid) && isDevice(request.resource.data);" in devices
    assert re.findall("allow .*", own) == ["allow read: if isUser(uid);"] * 3
    assert re.findall("allow .*", chats) == ["allow read: if isMember(chat);"] * 3
    assert "documents/conversations/$(chat)).data.people;" in made


def test_the_rules_of_shared_chats_say_how_an_app_s_own_are_merged_into_them() -> None:
    comment = rules(SHARED, "members").partition("\nservice ")[0]
    assert comment == SHIPPED.partition("\nservice ")[0] + (
        "//\n// There, in the match of shared chats, isMember(chat) takes the place of isUser(uid).\n"
    )


def test_shared_chats_below_other_documents_have_their_own_members() -> None:
    assert "documents/teams/all/rooms/$(chat)).data.people;" in rules(
        "teams/all/rooms/{chat}/turns/{message}", "people"
    )


def test_the_documented_rules_of_shared_chats_are_those_that_the_documented_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    section = page.partition("## Where messages lie")[2].partition("\n## ")[0]
    command, shown = re.findall(r"^```\w*\n(.*?)^```$", section, re.M | re.S)
    made = printed(capsys, *shlex.split(command)[3:])
    assert len(documented := shown.split("\n\n", 1)) == 2
    assert all(textwrap.indent(each.strip(), " " * 4) in made for each in documented)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--message-path", "chats/{chat}"], "--message-path: it must be a document's path"),
        (["--message-path", SHARED], "--chat-members: it must be given"),
    ],
)
def test_what_the_functions_would_refuse_gets_no_rules(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(argv)
    shown = capsys.readouterr()
    assert (shown.out, said in shown.err) == ("", True)
