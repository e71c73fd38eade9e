"""Who is calling: a Firebase user on the public routes, the queue's service account on the worker.

Verifies tokens and says why one was refused, in words that hold nothing of the token. Decides nothing about what a
user may see.
"""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import firebase_admin
import jwt as pyjwt
import orjson
from firebase_admin import auth as firebase_auth
from firebase_admin import credentials
from google.auth import credentials as google_credentials
from google.auth import exceptions as google_errors
from google.auth import jwt
from google.auth.transport.requests import Request as CertificateRequest

from lib.errors import Unauthenticated, Unavailable
from lib.model import document_id

CLOCK_SKEW_SECONDS = 10
CERTIFICATES_SECONDS = 3600.0
REFETCH_SECONDS = 30.0
FETCH_SECONDS = 10.0
_APP_CHECK_ISSUER = "https://firebaseappcheck.googleapis.com/"
_NO_APP_KEYS = "The keys to verify App Check tokens can't be fetched. Try again."
_GOOGLE_ISSUERS = ("https://accounts.google.com", "accounts.google.com")


def bearer(header: str | None) -> str:
    """The token of an `Authorization` header. Errors: `Unauthenticated`."""
    if not header:
        raise Unauthenticated("No Authorization header. Send 'Authorization: Bearer <token>'.", code="missing_token")
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("The Authorization header is not of the form 'Bearer <token>'.", code="malformed_token")
    return token.strip()


class AppTokens:
    """Verifies App Check tokens of one project: that a call comes from the project's own app.

    By "Verify App Check tokens from a custom backend": RS256, the project among the audiences, Firebase as the issuer.
    """

    def __init__(self, project: str, keys_url: str):
        self._audience = f"projects/{project}"
        self._keys = pyjwt.PyJWKClient(keys_url, lifespan=CERTIFICATES_SECONDS, timeout=int(FETCH_SECONDS))

    def verify(self, token: str | None) -> None:
        """Errors: `Unauthenticated`; `Unavailable` where the keys can't be fetched."""
        if not token:
            raise Unauthenticated("No X-Firebase-AppCheck header: initialize App Check.", code="missing_app_check")
        try:
            self._keys.get_signing_keys()
        except (pyjwt.PyJWKClientError, pyjwt.PyJWKSetError, ValueError, OSError) as error:
            raise Unavailable(_NO_APP_KEYS) from error
        try:
            key = self._keys.get_signing_key_from_jwt(token).key
            claims = pyjwt.decode(
                token,
                key,
                algorithms=["RS256"],
                audience=self._audience,
                leeway=CLOCK_SKEW_SECONDS,
                options={"require": ["exp", "iss", "sub"]},
            )
        except pyjwt.PyJWKClientConnectionError as error:
            raise Unavailable(_NO_APP_KEYS) from error
        except pyjwt.PyJWTError as error:
            raise Unauthenticated("The App Check token is not valid.", code="invalid_app_check") from error
        if not str(claims["iss"]).startswith(_APP_CHECK_ISSUER):
            raise Unauthenticated("The App Check token is not valid.", code="invalid_app_check")


class UserTokens:
    """Verifies Firebase ID tokens of one project.

    With FIREBASE_AUTH_EMULATOR_HOST set, firebase-admin takes unsigned tokens: for local use alone.
    """

    def __init__(self, project: str):
        self._project = project
        self._app = firebase_admin.initialize_app(
            _NoCredential(), {"projectId": project}, name=f"holdfast-{uuid.uuid4().hex}"
        )

    def uid(self, authorization: str | None) -> str:
        """The user an `Authorization` header is of. Errors: `Unauthenticated` with the reason; `Unavailable`."""
        token = bearer(authorization)
        try:
            claims = firebase_auth.verify_id_token(token, self._app, clock_skew_seconds=CLOCK_SKEW_SECONDS)
        except firebase_auth.ExpiredIdTokenError as error:
            raise Unauthenticated("The ID token has expired. Get a fresh one.", code="expired_token") from error
        except firebase_auth.CertificateFetchError as error:
            raise Unavailable("The certificates to verify ID tokens can't be fetched. Try again.") from error
        except (firebase_auth.InvalidIdTokenError, ValueError) as error:
            raise self._refusal(token) from error
        return document_id(claims["uid"], "uid")

    def _refusal(self, token: str) -> Unauthenticated:
        """Why a token was not taken, told from its own unverified words."""
        try:
            claims = jwt.decode(token, verify=False)
        except (ValueError, google_errors.GoogleAuthError):
            return Unauthenticated("The token is not a JWT. Send the user's Firebase ID token.", code="malformed_token")
        if claims.get("aud") != self._project:
            return Unauthenticated("The ID token is of another Firebase project.", code="wrong_project")
        return Unauthenticated(
            "The ID token is not valid: it must be a Firebase ID token, signed by Google.", code="invalid_token"
        )


class _NoCredential(credentials.Base):  # type: ignore[misc]
    """Verifying needs public certificates alone."""

    def get_credential(self) -> Any:
        return google_credentials.AnonymousCredentials()


class QueueTokens:
    """Verifies the OIDC token that Cloud Tasks sends: signature, audience, issuer and e-mail."""

    def __init__(self, audience: str, email: str, certs_url: str):
        self._audience = audience
        self._email = email
        self._certs_url = certs_url
        self._lock = threading.Lock()
        self._certificates: dict[str, str] = {}
        self._fetched = float("-inf")

    def verify(self, authorization: str | None) -> None:
        """Errors: `Unauthenticated` with the reason; `Unavailable` where the certificates can't be fetched."""
        token = bearer(authorization)
        try:
            key_id = str(jwt.decode_header(token).get("kid"))
            claims = jwt.decode(
                token,
                certs=self._certificates_with(key_id),
                audience=self._audience,
                clock_skew_in_seconds=CLOCK_SKEW_SECONDS,
            )
        except google_errors.TransportError as error:
            raise Unavailable("The certificates to verify the task's token can't be fetched.") from error
        except (ValueError, google_errors.GoogleAuthError) as error:
            raise Unauthenticated("The task's token is not valid for this worker.", code="invalid_token") from error
        if claims.get("iss") not in _GOOGLE_ISSUERS:
            raise Unauthenticated("The task's token is not from Google.", code="wrong_issuer")
        if claims.get("email") != self._email or claims.get("email_verified") is not True:
            raise Unauthenticated("The task's token is of another service account.", code="wrong_email")

    def _certificates_with(self, key_id: str) -> dict[str, str]:
        """The certificates, fetched again when they are old, or lack a key and were not fetched just now."""
        with self._lock:
            age = time.monotonic() - self._fetched
            if age > CERTIFICATES_SECONDS or (key_id not in self._certificates and age > REFETCH_SECONDS):
                self._certificates = self._fetch()
                self._fetched = time.monotonic()
            return self._certificates

    def _fetch(self) -> dict[str, str]:
        answer = CertificateRequest()(self._certs_url, method="GET", timeout=FETCH_SECONDS)
        if answer.status != 200:
            raise google_errors.TransportError(f"status {answer.status}")
        try:
            certificates: Any = orjson.loads(answer.data)
        except orjson.JSONDecodeError as error:
            raise google_errors.TransportError("not JSON") from error
        if not isinstance(certificates, dict) or not certificates:
            raise google_errors.TransportError("no certificates")
        return certificates
