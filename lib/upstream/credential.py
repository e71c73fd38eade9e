"""What a call shows to its upstream to be let in: a key or a token, in the header where the upstream expects it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from lib.cloud.credentials import GoogleTokens, NoToken
from lib.runtime.catalog import Auth, Upstream
from lib.upstream.fault import UpstreamFault

_HEADER_SAFE = re.compile(r"[\x21-\x7e]+")

Header = tuple[str, str]


class Credential:
    """The credential for one upstream. `key` is its API key, if it has one."""

    def __init__(self, upstream: Upstream, key: str | None, tokens: GoogleTokens):
        self._auth = upstream.auth
        self._key = key.strip() if key else None
        self._tokens = tokens
        self._audience = None
        if upstream.auth == Auth.GOOGLE_ID_TOKEN:
            parts = urlsplit(upstream.base_url)
            self._audience = f"{parts.scheme}://{parts.netloc}"  # as Cloud Run expects it

    def header(self, refused: Header | None = None) -> Header | None:
        """The header to send, or None if the upstream wants none. May fetch a token.

        With `refused`, another one than that, or None if there is no other. Errors: `UpstreamFault`, `upstream_key`.
        """
        if self._auth in (Auth.GOOGLE, Auth.GOOGLE_ID_TOKEN):
            try:
                token = self._tokens.token(self._audience, refused=refused and refused[1].removeprefix("Bearer "))
            except NoToken as error:
                if refused:
                    return None
                words = "This service's token for the upstream could not be fetched."
                raise UpstreamFault("upstream_key", words, passing=True, status=502) from error
            header = "Authorization", f"Bearer {token}"
            return None if header == refused else header
        if not self._key or refused:
            return None
        if not _HEADER_SAFE.fullmatch(self._key):
            raise UpstreamFault("upstream_key", "The upstream's key can't be sent: it is not plain text.", status=502)
        if self._auth == Auth.BEARER:
            return "Authorization", f"Bearer {self._key}"
        return self._auth, self._key
