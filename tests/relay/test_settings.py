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
