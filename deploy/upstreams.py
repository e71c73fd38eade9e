"""The upstreams that are called with tokens of the worker's account, which needs a role for them, and not with keys."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from lib.runtime import catalog

# Of a region, of all, or of a multi-region: https://cloud.google.com/vertex-ai/docs/reference/rest#service-endpoint
_VERTEX = re.compile(r"([a-z0-9-]+-)?aiplatform(\.[a-z0-9-]+\.rep)?\.googleapis\.com")
_PROJECT = re.compile(r"/projects/([^/]+)/")
# https://cloud.google.com/run/docs/triggering/https-request#deterministic
_CLOUD_RUN = re.compile(r"(.+)-[0-9]+\.([a-z0-9-]+)\.run\.app")


def vertex() -> Iterator[str]:
    """The projects whose Vertex AI is called."""
    urls = [urlsplit(url) for url in _urls(catalog.Auth.GOOGLE)]
    projects = [_PROJECT.search(url.path) for url in urls if _VERTEX.fullmatch(url.hostname or "")]
    yield from dict.fromkeys(project[1] for project in projects if project)


def invoked() -> Iterator[str]:
    """The services that are called with an ID token: the host, and its name and region where the host tells them."""
    for host in dict.fromkeys(urlsplit(url).hostname or "" for url in _urls(catalog.Auth.GOOGLE_ID_TOKEN)):
        known = _CLOUD_RUN.fullmatch(host)
        yield " ".join([host, *(known.groups() if known else ("SERVICE", "REGION"))])


def _urls(auth: catalog.Auth) -> list[str]:
    upstreams = catalog.load(os.environ)
    called = [upstreams[name] for name in dict.fromkeys(name for _, name in upstreams.models())]
    return [upstream.base_url for upstream in called if upstream.auth == auth]
