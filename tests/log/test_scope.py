"""Who is who, and which request is which."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from resumable_llm.log.scope import fingerprint_of, scope_of, secret_beside

SECRET = b"0123456789abcdef"
ALICE = [(b"authorization", b"Bearer alice")]


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"cookie"])
def test_every_credential_tells_callers_apart(name: bytes) -> None:
    scopes = {scope_of(SECRET, [(name, value)], b"") for value in (b"a", b"b")} | {scope_of(SECRET, [], b"")}
    assert len(scopes) == 3


@pytest.mark.parametrize("name", [b"key", b"api_key", b"API-Key", b"access_token", b"%6bey"])
def test_credentials_in_the_query_tell_callers_apart(name: bytes) -> None:
    scopes = {scope_of(SECRET, [], b"x=1&" + name + b"=" + value) for value in (b"a", b"b", b"")}
    assert len(scopes) == 3


def test_what_is_no_credential_does_not_matter() -> None:
    other = [(b"user-agent", b"x"), *ALICE, (b"accept", b"*/*")]
    assert scope_of(SECRET, ALICE, b"") == scope_of(SECRET, other, b"after=3")


def test_credentials_cannot_be_shifted_between_each_other() -> None:
    cases = [
        [(b"x-api-key", b"ab"), (b"authorization", b"c")],
        [(b"x-api-key", b"a"), (b"authorization", b"bc")],
        [(b"x-api-key", b"abauthorizationc")],
        [(b"authorization", b"ab"), (b"x-api-key", b"c")],
    ]
    assert len({scope_of(SECRET, case, b"") for case in cases}) == len(cases)


def test_scope_shows_nothing_and_needs_the_secret() -> None:
    found = scope_of(SECRET, ALICE, b"")
    assert "alice" not in found
    assert found != scope_of(SECRET[::-1], ALICE, b"")


def test_fingerprint_is_of_the_request_and_not_of_the_caller() -> None:
    def of(method: str = "POST", path: bytes = b"/a", query: bytes = b"v=1", body: bytes = b"{}") -> str:
        return fingerprint_of(SECRET, method, path, query, body)

    assert of() == of(query=b"v=1&key=alice") == of(query=b"api_key=bob&v=1")
    assert len({of(), of("PUT"), of(path=b"/b"), of(query=b"v=2"), of(body=b"[]"), of(path=b"/", query=b"av=1")}) == 6


def test_the_secret_beside_a_file_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    secret = secret_beside(tmp_path / "log.db")
    assert secret == secret_beside(tmp_path / "log.db") != secret_beside(tmp_path / "other.db")
    assert len(secret) == 32
    assert (tmp_path / "log.db.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_a_secret_that_could_not_be_written_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fdopen: Callable[..., IO[Any]] = os.fdopen

    def on_a_full_disk(made: int, mode: str) -> IO[Any]:
        os.close(made)
        return fdopen(os.open("/dev/full", os.O_WRONLY), mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", on_a_full_disk)
        with pytest.raises(OSError, match="space"):
            secret_beside(tmp_path / "log.db")
    assert len(secret_beside(tmp_path / "log.db")) == 32
