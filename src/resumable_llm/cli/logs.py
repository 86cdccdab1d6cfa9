"""How the relay's logs are written: lines of key=value, or of JSON.

What is logged names its event and then its values, as in ``"relay.ended id=%s state=%s"``: both formats read the names
there. What other packages log has no such form, and all of it is the event.
"""

from __future__ import annotations

import json
import logging
import re
import time
from functools import lru_cache
from typing import Literal, TextIO

Format = Literal["text", "json"]

# uvicorn says so where a connection is closed in the middle of an answer: the relay does that on purpose, and logs why.
_UNFINISHED = "ASGI callable returned without completing response."
_EVENT = re.compile(r"([a-z]+\.[a-z_]+)((?: [a-z_]+=%[\d.]*[a-z])*)")
_NAME = re.compile(r" ([a-z_]+)=")
_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")


def log_to(err: TextIO, form: Format) -> None:
    """Write the logs of this package, and the warnings of uvicorn.

    Args:
        err: Where.
        form: How.
    """
    handler = logging.StreamHandler(err)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    handler.addFilter(lambda record: record.msg != _UNFINISHED)
    for name, level in (("resumable_llm", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.addHandler(handler)
        logger.propagate = False


class TextLines(logging.Formatter):
    """``2026-11-23T01:02:03.456Z INFO relay.ended id=... state=complete``, and a traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        event, fields = _parts(record)
        words = [_time(record), record.levelname, event, *(f"{name}={_word(fields[name])}" for name in fields)]
        if record.exc_info:
            words[-1] += f"\n{self.formatException(record.exc_info)}"
        return " ".join(words)


class JsonLines(TextLines):
    """``{"time": "...", "level": "info", "event": "relay.ended", "id": "...", ...}``, a line each."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        event, fields = _parts(record)
        line = {"time": _time(record), "level": record.levelname.lower(), "event": event, **fields}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _parts(record: logging.LogRecord) -> tuple[str, dict[str, str | float]]:
    """The event, and its values by name."""
    event, names = _named(str(record.msg))
    if not event:
        return record.getMessage(), {}
    values = record.args if isinstance(record.args, tuple) else ()
    return event, {name: _plain(value) for name, value in zip(names, values, strict=True)}


@lru_cache(maxsize=128)
def _named(message: str) -> tuple[str, tuple[str, ...]]:
    """The event that a message names, and the names of its values; none where it has not the form."""
    found = _EVENT.fullmatch(message)
    return ("", ()) if found is None else (found[1], tuple(_NAME.findall(found[2])))


def _plain(value: object) -> str | float:
    return round(value, 3) if isinstance(value, (int, float)) else str(value)


def _word(value: str | float) -> str:
    """A value that can be told from its neighbours, and has no line end."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
