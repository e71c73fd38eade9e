"""What an upstream is shown, and what happens where there is nothing to show."""

from __future__ import annotations

import pytest

from lib.cloud.credentials import GoogleTokens, NoToken
from lib.dialects.protocol import Outgoing
from lib.runtime.catalog import Auth, Upstream
from lib.upstream.call import Session
from lib.upstream.credential import Credential
from lib.upstream.fault import UpstreamFault
from tests.unit.upstream.peer import WAIT_SECONDS, Serve, answer, call, fault_of, head

REFUSAL = head("Content-Length: 0", status="401 Unauthorized")


class Tokens(GoogleTokens):
    """Tokens in the place of Google's. None: there is no other one to be had."""

    def __init__(self, *tokens: str | None):
        super().__init__()
        self._left = list(tokens)
        self.audiences: list[str | None] = []

    def token(self, audience: str | None = None, *, refused: str | None = None) -> str:
        self.audiences.append(audience)
        token = self._left.pop(0)
        if token is None:
            raise NoToken
        return token


def credential(auth: str, key: str | None = None, tokens: GoogleTokens | None = None) -> Credential:
    upstream = Upstream(name="one", base_url="https://upstream.example:8443/some/v1", auth=auth)
    return Credential(upstream, key, tokens or Tokens())


@pytest.mark.parametrize(
    ("auth", "key", "header"),
    [
        (Auth.BEARER, "k", ("Authorization", "Bearer k")),
        (Auth.BEARER, None, None),
        (Auth.BEARER, "", None),
        ("x-api-key", "k\n", ("x-api-key", "k")),
    ],
)
def test_a_key_has_its_header(auth: str, key: str | None, header: tuple[str, str] | None) -> None:
    assert credential(auth, key).header() == header


def test_a_key_that_was_refused_has_no_other() -> None:
    keyed = credential(Auth.BEARER, "k")
    assert keyed.header(refused=keyed.header()) is None


def test_an_access_token_is_for_no_audience_and_an_id_token_for_the_upstream_itself() -> None:
    access, identity = Tokens("a"), Tokens("b")
    assert credential(Auth.GOOGLE, tokens=access).header() == ("Authorization", "Bearer a")
    assert credential(Auth.GOOGLE_ID_TOKEN, tokens=identity).header() == ("Authorization", "Bearer b")
    assert (access.audiences, identity.audiences) == ([None], ["https://upstream.example:8443"])


def test_where_no_token_is_to_be_had_another_attempt_may_find_one() -> None:
    with pytest.raises(UpstreamFault) as fault:
        credential(Auth.GOOGLE, tokens=Tokens(None)).header()
    assert (fault.value.reason, fault.value.passing, fault.value.status) == ("upstream_key", True, 502)


@pytest.mark.parametrize("tokens", [("a", None), ("a", "a"), ("a", "b")])
def test_a_401_is_tried_once_more_with_another_token_and_then_stands(
    session: Session, serve: Serve, tokens: tuple[str | None, ...]
) -> None:
    server = serve(lambda peer: peer.send(REFUSAL))
    made = call(session, server.base_url, tokens=Tokens(*tokens), auth=Auth.GOOGLE)
    assert made.open().status == 401
    made.close()
    shown = [server.requests.get(timeout=WAIT_SECONDS) for _ in range(server.requests.qsize())]
    assert len(shown) == len({token for token in tokens if token})
    assert b"Authorization: Bearer a\r\n" in shown[0]
    assert b"Authorization: Bearer b\r\n" in shown[-1] or tokens[-1] != "b"


def test_the_answer_to_the_second_token_is_read_like_any_other(session: Session, serve: Serve) -> None:
    sent = [REFUSAL, head("Content-Length: 5") + b"after"]
    server = serve(lambda peer: peer.send(sent.pop(0)))
    assert answer(call(session, server.base_url, tokens=Tokens("a", "b"), auth=Auth.GOOGLE)) == b"after"


def test_a_401_for_a_key_stands(session: Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(REFUSAL))
    made = call(session, server.base_url, key="k")
    assert made.open().status == 401
    made.close()
    assert server.requests.qsize() == 1


def test_a_call_that_is_cut_between_two_tokens_sends_nothing_more(session: Session, serve: Serve) -> None:
    class Cutting(Tokens):
        def token(self, audience: str | None = None, *, refused: str | None = None) -> str:
            if refused:
                made.cut()
            return super().token(audience, refused=refused)

    server = serve(lambda peer: peer.send(REFUSAL))
    made = call(session, server.base_url, tokens=Cutting("a", "b"), auth=Auth.GOOGLE)
    assert fault_of(made).reason == "cancelled"
    assert server.requests.qsize() == 1


def test_fixed_headers_and_the_query_go_with_each_call(session: Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head("Content-Length: 0")))
    fixed = {"headers": (("x-team", "a b"), ("USER-AGENT", "ours")), "query": (("api-version", "1"), ("q", "a&b"))}
    answer(call(session, server.base_url, key="k", auth="api-key", **fixed))
    sent = server.requests.get(timeout=WAIT_SECONDS)
    assert sent.startswith(b"POST /v1/chat/completions?api-version=1&q=a%26b HTTP/1.1\r\n")
    assert b"x-team: a b\r\n" in sent
    assert b"api-key: k\r\n" in sent
    assert sent.lower().count(b"user-agent:") == 1
    assert b"USER-AGENT: ours\r\n" in sent


def test_a_query_of_the_request_s_own_stays_beside_the_catalog_s(session: Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head("Content-Length: 0")))
    streaming = Outgoing(path="/models/a%2Fb@1:streamGenerateContent?alt=sse", body=b"{}")
    answer(call(session, server.base_url, outgoing=streaming, query=(("api-version", "1"),)))
    sent = server.requests.get(timeout=WAIT_SECONDS)
    assert sent.startswith(b"POST /v1/models/a%2Fb@1:streamGenerateContent?alt=sse&api-version=1 HTTP/1.1\r\n")
