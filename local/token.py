"""Makes ID tokens for the local stack. They are unsigned, like those of Firebase's emulator, and invalid elsewhere."""

from __future__ import annotations

import base64
import json
import sys
import time

PROJECT = "demo-holdfast"
HOURS = 12


def id_token(user: str, project: str = PROJECT) -> str:
    """An ID token of `user`, for `project`."""
    now = int(time.time())
    claims = {
        "iss": f"https://securetoken.google.com/{project}",
        "aud": project,
        "sub": user,
        "user_id": user,
        "auth_time": now,
        "iat": now,
        "exp": now + HOURS * 3600,
        "firebase": {"identities": {}, "sign_in_provider": "custom"},
    }
    return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(claims)}."


def _part(fields: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).rstrip(b"=").decode()


if __name__ == "__main__":
    print(id_token(sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] else "alice"))
