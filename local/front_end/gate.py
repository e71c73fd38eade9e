"""Who may call a private service: Cloud Run verifies the token before the function sees the request.

The token is that of `X-Serverless-Authorization` if there is one, or else of `Authorization`
(https://cloud.google.com/run/docs/authenticating/service-to-service). Of a token that has been verified, the signature
may be replaced, so that nobody can present the token again; the function can't verify it then
(https://cloud.google.com/run/docs/troubleshooting#signature-removed). A public service's requests are not verified, and
so keep their tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping

import jwt

from local.front_end.limits import Limits

REMOVED = "SIGNATURE_REMOVED_BY_GOOGLE"
ISSUERS = ("https://accounts.google.com", "accounts.google.com")
_HEADERS = ("X-Serverless-Authorization", "Authorization")


class Gate:
    """Admits the requests of one account."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._keys = jwt.PyJWKClient(limits.certs_url or "", timeout=5)

    async def refuses(self, headers: MutableMapping[str, str]) -> int | None:
        """The status of a refusal, or None. Removes the signature in `headers` if the service's front end does."""
        name = next((name for name in _HEADERS if name in headers), None)
        scheme, _, token = headers.get(name or "", "").partition(" ")
        if name is None or scheme.lower() != "bearer":
            return 403
        try:
            key = await asyncio.to_thread(self._keys.get_signing_key_from_jwt, token)
            claims = jwt.decode(token, key.key, ["RS256"], audience=self._limits.audience)
        except jwt.PyJWTError:
            return 401
        if claims.get("iss") not in ISSUERS:
            return 401
        if claims.get("email") != self._limits.invoker or claims.get("email_verified") is not True:
            return 403
        if self._limits.strip:
            headers[name] = f"{scheme} {token.rpartition('.')[0]}.{REMOVED}"
        return None
