"""Authentication: Firebase users on the public routes, the queue's service account on the worker.

Verifies tokens. Error messages must not contain any part of a token. What a user may see is decided elsewhere.
"""

from __future__ import annotations

from typing import Any, Protocol

import jwt

from lib.domain.errors import Unauthenticated, Unavailable
from lib.domain.ids import document_id

KEY_HEADERS = ("x-api-key", "x-goog-api-key")
CLOCK_SKEW_SECONDS = 10
KEYS_SECONDS = 3600
REFETCH_SECONDS = 30
FETCH_SECONDS = 10
# The `jwks_uri` of https://securetoken.google.com/PROJECT/.well-known/openid-configuration, the same for every project.
USER_KEYS_URL = "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com"
_USER_ISSUER = "https://securetoken.google.com/"
_APP_CHECK_ISSUER = "https://firebaseappcheck.googleapis.com/"
_GOOGLE_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
SIGNATURE_REMOVED = "SIGNATURE_REMOVED_BY_GOOGLE"
_UNAVAILABLE = "The keys to verify tokens can't be fetched. Try again."
_LONGEST_UID = 128


def bearer(header: str | None) -> str:
    """The token in an `Authorization` header. Errors: `Unauthenticated`."""
    if not header:
        raise Unauthenticated("No Authorization header. Send 'Authorization: Bearer <token>'.", code="missing_token")
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("The Authorization header is not of the form 'Bearer <token>'.", code="malformed_token")
    return token.strip()


class _Verifier:
    """Verifies RS256 tokens for one audience with the keys that the issuer publishes as a JWKS (RFC 7517).

    The keys are cached. They are fetched again after `KEYS_SECONDS`, and when a token names an unknown key, but then at
    most every `REFETCH_SECONDS`.
    """

    def __init__(self, audience: str, keys_url: str, signed: bool = True):
        self._audience = audience
        self._signed = signed
        self._keys = jwt.PyJWKClient(
            keys_url, lifespan=KEYS_SECONDS, timeout=FETCH_SECONDS, cooldown_duration=REFETCH_SECONDS
        )

    def claims(self, token: str) -> dict[str, Any]:
        """The claims of a valid token. Errors: `jwt.PyJWTError`; `Unavailable` if the keys can't be fetched."""
        return jwt.decode(
            token,
            self._key(token) if self._signed else "",
            algorithms=["RS256"],
            audience=self._audience,
            leeway=CLOCK_SKEW_SECONDS,
            options={
                "verify_signature": self._signed,
                "require": ["exp", "iat", "sub"],
                "verify_exp": True,
                "verify_iat": True,
                "verify_aud": True,
                "verify_sub": True,
            },
        )

    def _key(self, token: str) -> jwt.PyJWK:
        """The key that a token names. Errors: `Unavailable`; `jwt.PyJWTError`, also if the issuer has no such key.

        Known keys are looked up first, because the client holds a lock while it fetches an unknown one.
        """
        try:
            known = self._keys.get_signing_keys()
        except (jwt.PyJWKClientError, jwt.PyJWKSetError, ValueError, OSError) as error:
            raise Unavailable(_UNAVAILABLE) from error
        key_id = str(jwt.get_unverified_header(token).get("kid"))
        try:
            return self._keys.match_kid(known, key_id) or self._keys.get_signing_key(key_id)
        except (jwt.PyJWKClientConnectionError, jwt.PyJWKSetError, ValueError, OSError) as error:
            raise Unavailable(_UNAVAILABLE) from error


class UserTokens:
    """Verifies Firebase ID tokens for one project, by "Verify ID tokens using a third-party JWT library" (Firebase).

    With `emulated`, accepts the unsigned tokens of Firebase's Auth emulator. Only for local use.
    """

    def __init__(self, project: str, emulated: bool = False, keys_url: str = USER_KEYS_URL):
        self._project = project
        self._verifier = _Verifier(project, keys_url, signed=not emulated)

    def uid(self, authorization: str | None) -> str:
        """The uid in an `Authorization` header. Errors: `Unauthenticated` with the reason; `Unavailable`."""
        token = bearer(authorization)
        try:
            claims = self._verifier.claims(token)
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("The ID token has expired. Get a fresh one.", code="expired_token") from error
        except jwt.PyJWTError as error:
            raise self._refusal(token) from error
        if claims.get("iss") != _USER_ISSUER + self._project or not 0 < len(claims["sub"]) <= _LONGEST_UID:
            raise self._refusal(token)
        return document_id(claims["sub"], "uid")

    def _refusal(self, token: str) -> Unauthenticated:
        """Why a token was rejected, judging by its unverified claims."""
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
            if claims.get("aud") != self._project:
                return Unauthenticated("The ID token is of another Firebase project.", code="wrong_project")
        except jwt.DecodeError:
            return Unauthenticated("The token is not a JWT. Send the user's Firebase ID token.", code="malformed_token")
        except jwt.PyJWTError:
            pass  # a JWT, but with a header that Firebase's tokens never have
        return Unauthenticated(
            "The ID token is not valid: it must be a Firebase ID token, signed by Google.", code="invalid_token"
        )


class AppTokens:
    """Verifies App Check tokens, which prove that a call comes from the project's own app.

    By "Verify App Check tokens from a custom backend" (Firebase): RS256, the project among the audiences, Firebase as
    the issuer.
    """

    def __init__(self, project: str, keys_url: str):
        self._verifier = _Verifier(f"projects/{project}", keys_url)

    def verify(self, token: str | None) -> None:
        """Errors: `Unauthenticated`; `Unavailable` if the keys can't be fetched."""
        if not token:
            raise Unauthenticated("No X-Firebase-AppCheck header: initialize App Check.", code="missing_app_check")
        try:
            claims = self._verifier.claims(token)
        except jwt.PyJWTError as error:
            raise Unauthenticated("The App Check token is not valid.", code="invalid_app_check") from error
        if not str(claims.get("iss")).startswith(_APP_CHECK_ISSUER):
            raise Unauthenticated("The App Check token is not valid.", code="invalid_app_check")


class Headers(Protocol):
    """A request's headers."""

    def get(self, key: str) -> str | None: ...


def identify(headers: Headers, users: UserTokens, apps: AppTokens | None = None) -> str:
    """The uid of the user who sent a request. With `apps`, requires an App Check token as well.

    The ID token is the bearer token, or the key in the header where a vendor's SDK sends it.

    Errors: `Unauthenticated`; `Unavailable` if the keys can't be fetched.
    """
    if apps is not None:
        apps.verify(headers.get("X-Firebase-AppCheck"))
    keys = (key for name in KEY_HEADERS if (key := headers.get(name)))
    return users.uid(headers.get("Authorization") or next((f"Bearer {key}" for key in keys), None))


class QueueTokens:
    """Verifies the OIDC token that Cloud Tasks sends: its signature, audience, issuer and e-mail.

    Cloud Run may hand on the token that it has checked with another word in the signature's place ("Service-to-service
    authentication": https://cloud.google.com/run/docs/authenticating/service-to-service). With `platform`, such a token
    is accepted once its claims are checked. That is safe only behind Cloud Run's own check: on a service that is
    private and that only the queue's service account may invoke.
    """

    def __init__(self, audience: str, email: str, keys_url: str, *, platform: bool = False):
        self._email = email
        self._platform = platform
        self._verifier = _Verifier(audience, keys_url)
        self._claims_of_verified = _Verifier(audience, keys_url, signed=False)

    def verify(self, headers: Headers) -> None:
        """Errors: `Unauthenticated` with the reason; `Unavailable` if the keys can't be fetched.

        Of two tokens Cloud Run checks the one in `X-Serverless-Authorization`.
        """
        token = bearer(headers.get("X-Serverless-Authorization") or headers.get("Authorization"))
        removed = token.rpartition(".")[2] == SIGNATURE_REMOVED
        if removed and not self._platform:
            raise Unauthenticated(
                "Cloud Run has removed the token's signature. If this service is private, set WORKER_TOKENS=platform.",
                code="signature_removed",
            )
        verifier = self._claims_of_verified if removed else self._verifier
        try:
            claims = verifier.claims(token)
        except jwt.PyJWTError as error:
            raise Unauthenticated("The task's token is not valid for this worker.", code=_fault(error)) from error
        if claims.get("iss") not in _GOOGLE_ISSUERS:
            raise Unauthenticated("The task's token is not from Google.", code="wrong_issuer")
        if claims.get("email") != self._email or claims.get("email_verified") is not True:
            raise Unauthenticated("The task's token is of another service account.", code="wrong_email")


def _fault(error: jwt.PyJWTError) -> str:
    """The public code of a token's fault."""
    if isinstance(error, jwt.ExpiredSignatureError):
        return "expired_token"
    return "wrong_audience" if isinstance(error, jwt.InvalidAudienceError) else "invalid_token"
