"""What the service does with a chat's own document, which is the application's, beyond its `lastMessageAt`: the title.

A chat's document is never created here, and a title that it has is never replaced. Whoever may write the title has
created `{chat}/holdfastTitles/claim` first.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta

from lib.cloud.documents import Create, Delete, Documents, Exists, Patch, Stale
from lib.domain.collections import TITLES
from lib.domain.errors import Unreachable
from lib.domain.generation import Generation

CLAIM_KEPT = timedelta(days=1)  # until a chat that has got no title may be tried again
_TRIES = 5


class Chats:
    """The chats of all users."""

    def __init__(self, documents: Documents):
        self._documents = documents

    def untitled(self, generation: Generation) -> bool:
        """Whether the generation's chat has a document without a title, and no claim. Errors: `Unreachable`."""
        if generation.chat_path is None:
            return False
        chat, claim = self._documents.get(generation.chat_path, _claim(generation), select=("title",))
        return chat is not None and not chat.fields.get("title") and claim is None

    def claim(self, generation: Generation, now: datetime) -> bool:
        """Claims the writing of the chat's title. Only one of all that try gets it. Errors: `Unreachable`."""
        try:
            self._documents.commit(Create(_claim(generation), {"claimedAt": now, "expireAt": now + CLAIM_KEPT}))
        except Exists:
            return False
        return True

    def release(self, generation: Generation) -> None:
        """Gives the claim up, so that the chat's next answer tries again. Errors: `Unreachable`."""
        self._documents.commit(Delete(_claim(generation)))

    def set_title(self, generation: Generation, title: str) -> bool:
        """Sets the title. Returns False if the chat has got one meanwhile, or was deleted.

        Errors: `Refused` (its document is full), `Unreachable`.
        """
        path = str(generation.chat_path)
        for _ in range(_TRIES):
            (chat,) = self._documents.get(path, select=("title",))
            if chat is None or chat.fields.get("title"):
                return False
            with suppress(Stale):
                self._documents.commit(Patch(path, {"title": title}, version=chat.version))
                return True
        raise Unreachable("the chat is changing")

    def content(self, generation: Generation) -> str:
        """The text of the answer, as its message has it. Errors: `Unreachable`."""
        (message,) = self._documents.get(generation.message_path, select=("content",))
        content = message.fields.get("content") if message else None
        return content if isinstance(content, str) else ""


def _claim(generation: Generation) -> str:
    return f"{generation.chat_path}/{TITLES}/claim"
