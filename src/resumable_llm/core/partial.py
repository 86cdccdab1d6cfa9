"""What was delivered before an answer broke off, for the error that says so.

In the shape of the SDK's own object where the protocol's events are understood; otherwise the events themselves.
"""

from __future__ import annotations

import json
from typing import Any

from resumable_llm.core.dialect import Dialect
from resumable_llm.core.events import Fields
from resumable_llm.core.speech import listen
from resumable_llm.core.transcript import Transcript


def partial_of(dialect: Dialect, transcript: Transcript) -> Any:
    """The message so far, as plain data.

    Args:
        dialect: The one that the events are written in.
        transcript: What was delivered, as far as it is at hand.

    Returns:
        What the dialect's ``speech`` makes of it. Where there is none: the events, each with its ``event``, its
        ``data``, as JSON if it is that, and its ``id``. None if there are no events.
    """
    events = [event for event in transcript if event.data is not None]
    if not events:
        return None
    if dialect.speech is not None:
        try:
            return dialect.speech.partial(listen(dialect.speech, events))
        except Exception:  # noqa: BLE001, S110 - an odd event must not hide the error that this is a part of
            pass
    return [{"event": event.event or "message", "data": _data(event), "id": event.id} for event in events]


def _data(event: Fields) -> Any:
    text = event.data or ""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
