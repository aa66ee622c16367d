"""Chunks that an upload is sending are left to it by others, for a bounded time."""

from __future__ import annotations

import pytest
from harness import Account
from starlette.testclient import TestClient
from t9k.aistore.artifacts.claims import SILENT_S, Claims
from t9k.aistore.services import Services
from uploads import Uploader, digest, noise, pack_of

CHUNKS = [digest(bytes([number])) for number in range(6)]


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def claims(clock: Clock) -> Claims:
    return Claims(clock)


def test_chunks_belong_to_the_first_who_claims_them_and_to_one_domain(claims: Claims) -> None:
    assert claims.claim("d", "a", CHUNKS[:3]) == set()
    assert claims.claim("d", "b", CHUNKS[2:]) == {0}
    assert claims.claim("d", "a", CHUNKS) == {3, 4, 5}
    assert claims.claim("other", "b", CHUNKS) == set()


def test_claim_ends_with_silence_but_not_while_a_pack_comes(claims: Claims, clock: Clock) -> None:
    claims.claim("d", "a", CHUNKS)
    clock.now += SILENT_S - 0.1
    assert claims.claim("d", "b", CHUNKS) == set(range(6))
    with claims.sending("a"):
        clock.now += 100 * SILENT_S
        assert claims.claim("d", "b", CHUNKS) == set(range(6))
    clock.now += SILENT_S - 0.1
    assert claims.claim("d", "b", CHUNKS) == set(range(6))
    clock.now += 0.2
    assert claims.claim("d", "b", CHUNKS) == set()
    assert claims.claim("d", "a", CHUNKS) == set(range(6))


def test_claim_ends_with_a_pack_that_breaks_off(claims: Claims) -> None:
    claims.claim("d", "a", CHUNKS)
    with pytest.raises(ConnectionError), claims.sending("a"):
        raise ConnectionError
    assert claims.claim("d", "b", CHUNKS) == set()


def test_two_packs_at_once_of_which_one_breaks_off(claims: Claims, clock: Clock) -> None:
    claims.claim("d", "a", CHUNKS)
    with claims.sending("a"):
        with pytest.raises(ConnectionError), claims.sending("a"):
            raise ConnectionError
        claims.claim("d", "a", CHUNKS[:1])
    assert claims.claim("d", "b", CHUNKS) == {0}
    clock.now += SILENT_S + 0.1
    assert claims.claim("d", "c", CHUNKS) == set()


def test_only_the_last_turns_of_an_upload_count(claims: Claims) -> None:
    for number in range(3):
        claims.claim("d", "a", CHUNKS[number : number + 2])
    assert claims.claim("d", "b", CHUNKS) == {1, 2, 3}


def test_number_of_claims_is_bounded(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t9k.aistore.artifacts.claims.MAX_CLAIMED", 4)
    assert claims.claim("d", "a", CHUNKS) == set()
    assert claims.claim("d", "b", CHUNKS) == {0, 1, 2, 3}


def test_missing_tells_what_others_are_sending_until_their_pack_is_refused(
    api: TestClient, ada: Account, bob: Account, services: Services
) -> None:
    chunks = [noise(number, 300) for number in range(3)]
    body = b"".join(map(digest, chunks))
    first, second, stranger = Uploader(api, ada), Uploader(api, ada), Uploader(api, bob)

    def ask(uploader: Uploader, **headers: str) -> bytes:
        response = uploader.call("POST", "/artifacts/missing", content=body, headers=headers)
        assert response.status_code == 200, response.text
        uploader.lease = response.content[:20].decode()
        return bytes(response.content[20:])

    claim = {"EM-Claim": "1"}
    assert ask(first) == b"\7"
    assert ask(first, **claim) == b"\7\0"
    assert ask(second, **claim) == b"\7\7"
    assert ask(stranger, **claim) == b"\7\0"
    assert second.call("POST", "/artifacts/missing", content=body, headers={"EM-Claim": "2"}).status_code == 400
    assert first.put(pack_of(chunks), digest(b"another")).status_code == 422
    assert ask(second, **claim) == b"\7\0"
    assert second.put(pack_of(chunks)).status_code == 201
    assert ask(first, **claim) == b"\0\0"
