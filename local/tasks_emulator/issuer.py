"""ID tokens for deliveries, and the public keys that verify them."""

from __future__ import annotations

import hashlib
import secrets
import time
from functools import lru_cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

TOKENS_KEPT = 64


class Issuer:
    """Signs ID tokens like Google's, with a key that lives as long as the process."""

    def __init__(self) -> None:
        self._key, self._key_id = rsa.generate_private_key(65537, 2048), secrets.token_hex(20)
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        self.keys = {"keys": [{**public, "kid": self._key_id, "use": "sig", "alg": "RS256"}]}
        self._signed = lru_cache(maxsize=TOKENS_KEPT)(self._sign)

    def token(self, email: str, audience: str) -> str:
        """A service account's token, valid for 1 h (https://cloud.google.com/docs/authentication/token-types#id).

        Tokens are reused for a minute: signing takes a millisecond, which would delay every first token.
        """
        return self._signed(email, audience, int(time.time()) // 60 * 60)

    def _sign(self, email: str, audience: str, now: int) -> str:
        subject = str(int(hashlib.sha256(email.encode()).hexdigest(), 16))[:21]
        claims: dict[str, Any] = {"iss": "https://accounts.google.com", "aud": audience, "azp": subject, "sub": subject}
        claims |= {"email": email, "email_verified": True, "iat": now, "exp": now + 3600}
        return jwt.encode(claims, self._key, "RS256", {"kid": self._key_id})
