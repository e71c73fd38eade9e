"""Prints the security rules for messages at another path: `python -m operations.rules --message-path PATH`.

The rules are those of `firestore.rules`, whose match of a chat's messages is replaced. Where chats are shared, the
members that the chat's document lists may read, which costs a document read for each request
(https://firebase.google.com/docs/firestore/security/rules-conditions#access_other_documents).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.domain.message_path import MESSAGE_PATH, is_shared, valid_message_path

SHIPPED = Path(__file__).resolve().parents[1] / "firestore.rules"
_CHAT = re.compile(rf"^    match /{re.escape(MESSAGE_PATH)} {{$.*?^    }}$", re.DOTALL | re.MULTILINE)
_IS_USER = re.compile(r"^    function isUser\(uid\) {$.*?^    }$", re.DOTALL | re.MULTILINE)
_IS_MEMBER = """\
    function isMember(chat) {{
      return request.auth != null
        && request.auth.uid in get(/databases/$(database)/documents/{chats}/$(chat)).data.{members};
    }}"""
_SERVICE = "\nservice cloud.firestore {"
_MERGED = "//\n// There, in the match of shared chats, isMember(chat) takes the place of isUser(uid).\n"


def rules(message_path: str = MESSAGE_PATH, chat_members: str | None = None) -> str:
    """The rules for messages at a valid `message_path`. `chat_members` is the field of a shared chat's document."""
    shipped = SHIPPED.read_text(encoding="utf-8")
    if message_path == MESSAGE_PATH:
        return shipped
    (chat,) = _CHAT.findall(shipped)
    placed = chat.replace(f"/{MESSAGE_PATH}", f"/{message_path}")
    if not is_shared(message_path):
        return shipped.replace(chat, placed)
    (is_user,) = _IS_USER.findall(shipped)
    is_member = _IS_MEMBER.format(chats=message_path.partition("/{chat}/")[0], members=chat_members)
    return (
        shipped.replace(chat, placed.replace("isUser(uid)", "isMember(chat)"))
        .replace(is_user, f"{is_user}\n\n{is_member}")
        .replace(_SERVICE, f"{_MERGED}{_SERVICE}")
    )


def rules_for(environ: Mapping[str, str]) -> str:
    """The rules for what the functions are set to. The variables must have been checked, as `Settings` does."""
    return rules(environ.get("MESSAGE_PATH", "").strip() or MESSAGE_PATH, environ.get("CHAT_MEMBERS", "").strip())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m operations.rules", description="Prints the security rules.")
    parser.add_argument("--message-path", default=MESSAGE_PATH, help="the functions' MESSAGE_PATH")
    parser.add_argument("--chat-members", help="the functions' CHAT_MEMBERS, where the path has no {uid}")
    options = parser.parse_args(argv)
    try:
        template = valid_message_path(options.message_path)
    except ValueError as error:
        parser.error(f"--message-path: it must be {error}")
    if is_shared(template) and not options.chat_members:
        parser.error("--chat-members: it must be given, since the path has no {uid}")
    print(rules(template, options.chat_members), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
