"""Where messages lie: the path of a message's document, by a template with `{uid}`, `{chat}` and `{message}`.

Everything that builds a message's path does it here. A pure value: `firestore.rules` and the store follow it.
"""

from __future__ import annotations

import re
from collections import Counter

MESSAGE_PATH = "users/{uid}/chats/{chat}/messages/{message}"
OWN_MESSAGE_PATH = "users/{uid}/messages/{message}"  # of a message that belongs to no chat
_PLACEHOLDERS = ("{uid}", "{chat}", "{message}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_RESERVED = re.compile(r"__.*__")


def message_path(owner: str, chat_id: str | None, message_id: str, template: str = MESSAGE_PATH) -> str:
    """The path of the message document, which applications read."""
    if chat_id is None:
        return OWN_MESSAGE_PATH.format(uid=owner, message=message_id)
    return template.format(uid=owner, chat=chat_id, message=message_id)


def is_shared(template: str) -> bool:
    """Whether several users may have messages in one chat: the path does not say whose it is."""
    return "{uid}" not in template


def valid_message_path(template: str) -> str:
    """Returns `template` if messages can lie there. Errors: `ValueError`, which says what it must be.

    Names are limited to what needs no quoting in security rules. `{chat}` must be right above the messages' collection,
    so that the chat's document is known from a message's path alone.
    (https://firebase.google.com/docs/firestore/quotas#collections_documents_and_fields)
    """
    segments = template.split("/")
    names = [each for each in segments if each not in _PLACEHOLDERS]
    if len(segments) % 2 or len(segments) < 4:
        raise ValueError(f"a document's path, with an even number of segments, such as {MESSAGE_PATH}")
    if (segments[-3], segments[-1]) != ("{chat}", "{message}"):
        raise ValueError("a path that ends with {chat}, the name of the messages' collection, and {message}")
    if not all(_NAME.fullmatch(each) and not _RESERVED.fullmatch(each) for each in names):
        raise ValueError(
            "a path whose segments are {uid}, {chat} and {message}, "
            "or 1 to 100 letters, digits, '-' and '_', but not '__…__'"
        )
    if max(Counter(segments)[each] for each in _PLACEHOLDERS) > 1:
        raise ValueError("a path with each of {uid}, {chat} and {message} once at the most")
    if any(each in _PLACEHOLDERS for each in segments[::2]):
        raise ValueError("a path in which {uid} names a document, and no collection")
    if any(each.startswith("holdfast") for each in segments[::2]):
        raise ValueError("a path outside of the service's own collections, whose names begin with 'holdfast'")
    return template
