"""The devices that an app registers for its user, and whether the user wants to be told of answers there.

`users/{uid}/holdfastDevices/{device}` has `token`, an FCM registration token, `platform` and `createdAt`. The app
writes it, under the rules that are shipped. Here it is only read, and deleted once its token is no longer registered.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib.cloud.documents import Delete, Documents, Stale, Version
from lib.domain.collections import DEVICES
from lib.domain.generation import Generation

MOST_DEVICES = 500  # of one user


@dataclass(frozen=True, slots=True)
class Device:
    """A registered device. Without an id, its token came with the request, and is kept nowhere else."""

    id: str
    token: str
    path: str = ""
    version: Version = None


class Devices:
    """The devices of all users."""

    def __init__(self, documents: Documents):
        self._documents = documents

    def of(self, uid: str) -> list[Device]:
        """A user's devices, at most `MOST_DEVICES`. Errors: `Unreachable`."""
        found = self._documents.query(f"users/{uid}/{DEVICES}", limit=MOST_DEVICES, select=("token",))
        return [
            Device(each.path.rpartition("/")[2], token, each.path, each.version)
            for each in found
            if isinstance(token := each.fields.get("token"), str) and token
        ]

    def remove(self, device: Device) -> None:
        """Deletes a device whose token is not registered, unless it was given another one. Errors: `Unreachable`."""
        try:
            self._documents.commit(Delete(device.path, device.version))
        except Stale:
            pass

    def wanted(self, generation: Generation) -> bool:
        """Whether neither the user's document nor the chat's says `notify: false`. Errors: `Unreachable`."""
        paths = [f"users/{generation.owner}", *([generation.chat_path] if generation.chat_path else [])]
        found = self._documents.get(*paths, select=("notify",))
        return not any(each is not None and each.fields.get("notify") is False for each in found)
