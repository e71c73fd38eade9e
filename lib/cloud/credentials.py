"""Tokens of the account that this service runs as, for upstreams that accept Google's tokens.

On Cloud Run they come from the metadata server: https://cloud.google.com/docs/authentication/application-default-credentials.
Tokens must not get into a log line or an error's message.
"""

from __future__ import annotations

import threading
from typing import Any

import google.auth
from google.auth.credentials import TokenState
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.oauth2.id_token import fetch_id_token_credentials

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
WAIT_SECONDS = 30.0  # as long as google-auth tries to reach the metadata server


class NoToken(Exception):
    """There is no token to be had: the metadata server does not answer, or there is no account."""


class GoogleTokens:
    """Access tokens, and ID tokens for an audience. Cached, and renewed some minutes before they end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # google-auth's credentials are not thread-safe
        self._credentials: dict[str | None, Any] = {}

    def token(self, audience: str | None = None, *, refused: str | None = None) -> str:
        """An ID token for `audience`, or without one an access token. If the cached one is `refused`, a new one.

        Errors: `NoToken`.
        """
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise NoToken
        try:
            return self._token(audience, refused)
        finally:
            self._lock.release()

    def _token(self, audience: str | None, refused: str | None) -> str:
        try:
            credentials = self._credentials.get(audience)
            if credentials is None:
                credentials = self._credentials[audience] = _credentials(audience)
            if credentials.token_state is not TokenState.FRESH or credentials.token == refused:
                credentials.refresh(Request())
        except GoogleAuthError as error:
            if credentials is None or credentials.token_state is TokenState.INVALID or credentials.token == refused:
                raise NoToken from error
        return str(credentials.token)


def _credentials(audience: str | None) -> Any:
    if audience is not None:
        return fetch_id_token_credentials(audience, request=Request())
    credentials, _ = google.auth.default(scopes=SCOPES)
    return credentials
