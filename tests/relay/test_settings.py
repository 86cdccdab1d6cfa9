"""What a relay can be told, and what cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest

from resumable_llm.relay import Relay, RelaySettings, relay

UPSTREAM = "https://api.openai.com"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"upstream": "api.openai.com"}, "upstream"),
        ({"upstream": "ftp://x"}, "upstream"),
        ({"upstream": "https://"}, "upstream"),
        ({"upstream": "https://x?key=1"}, "upstream"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": float("nan")}, "ttl"),
        ({"max_streams": 0}, "max_streams"),
        ({"abandon_after": -1}, "abandon_after"),
        ({"shutdown_seconds": float("nan")}, "shutdown_seconds"),
        ({"on_disconnect": "stop"}, "on_disconnect"),
        ({"secret": b"short"}, "secret"),
    ],
)
def test_what_cannot_be_meant_is_named(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RelaySettings(**{"upstream": UPSTREAM, **settings})


def test_passwords_are_not_shown() -> None:
    with pytest.raises(ValueError, match="upstream") as caught:
        RelaySettings(upstream="https://me:pass@host")
    assert "pass" not in str(caught.value)
    assert "pass" not in repr(RelaySettings(upstream=UPSTREAM, secret=b"password" * 2))


def test_patience() -> None:
    assert RelaySettings(upstream=UPSTREAM).patience is None
    assert RelaySettings(upstream=UPSTREAM, abandon_after=3).patience == 3
    assert RelaySettings(upstream=UPSTREAM, abandon_after=3, on_disconnect="cancel").patience == 0


def test_settings_or_their_fields() -> None:
    assert RelaySettings(upstream=f"{UPSTREAM}/").upstream == UPSTREAM
    assert isinstance(relay(RelaySettings(upstream=UPSTREAM)), Relay)
    assert isinstance(relay(upstream=UPSTREAM), Relay)
    for arguments, options in (((), {}), ((RelaySettings(upstream=UPSTREAM),), {"upstream": UPSTREAM})):
        with pytest.raises(TypeError, match="settings"):
            relay(*arguments, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("upstream", "meant_for", "path", "behind"),
    [
        (UPSTREAM, UPSTREAM, "/v1/x", "/v1/x"),
        (UPSTREAM, "HTTPS://API.OPENAI.COM:443", "/v1/x", "/v1/x"),
        (f"{UPSTREAM}/v1/", UPSTREAM, "/v1/x", "/x"),
        (f"{UPSTREAM}/v1", UPSTREAM, "/v1", ""),
        ("http://127.0.0.1:8080", "http://localhost:8080", "/x", "/x"),
        ("http://[::1]:8080", "http://127.0.0.1:8080", "/x", "/x"),
        ("http://localhost", "http://[::1]:80", "/x", "/x"),
    ],
)
def test_path_behind_the_upstream(upstream: str, meant_for: str, path: str, behind: str) -> None:
    assert RelaySettings(upstream=upstream).behind_upstream(meant_for, path) == behind


@pytest.mark.parametrize(
    ("upstream", "meant_for", "path"),
    [
        (UPSTREAM, "https://api.anthropic.com", "/v1/x"),
        (UPSTREAM, "http://api.openai.com", "/v1/x"),
        (UPSTREAM, "https://api.openai.com:444", "/v1/x"),
        (UPSTREAM, "https://api.openai.com.evil.example", "/v1/x"),
        (UPSTREAM, "", "/v1/x"),
        (UPSTREAM, "null", "/v1/x"),
        (f"{UPSTREAM}/v1", UPSTREAM, "/v2/x"),
        (f"{UPSTREAM}/v1", UPSTREAM, "/v11/x"),
        (f"{UPSTREAM}/v1", UPSTREAM, "/"),
        ("http://127.0.0.1:8080", "http://localhost:8081", "/x"),
        ("http://127.0.0.1:8080", "http://127.0.0.2:8080", "/x"),
    ],
)
def test_request_that_was_meant_for_another(upstream: str, meant_for: str, path: str) -> None:
    with pytest.raises(ValueError, match="this relay stands in front of") as caught:
        RelaySettings(upstream=upstream).behind_upstream(meant_for, path)
    assert upstream in str(caught.value)
    assert f"meant for {meant_for}{path}" in str(caught.value)


@pytest.mark.parametrize("meant_for", ["https://[", "https://api.openai.com:x"])
def test_origin_that_is_none(meant_for: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - Python's own words
        RelaySettings(upstream=UPSTREAM).behind_upstream(meant_for, "/x")
