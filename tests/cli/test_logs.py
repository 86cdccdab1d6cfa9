"""Lines of the log: key=value or JSON, and nothing that could be taken for another line."""

from __future__ import annotations

import ast
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import resumable_llm
from resumable_llm.cli import logs

SOURCE = Path(resumable_llm.__file__).parent
TIME = "1970-01-01T00:00:01.250Z"


def record(message: object, *values: object, level: int = logging.INFO, error: Any = None) -> logging.LogRecord:
    made = logging.LogRecord("resumable_llm.relay", level, "", 0, message, values, error)
    made.created, made.msecs = 1.25, 250.0
    return made


def text(*told: Any, **more: Any) -> str:
    return logs.TextLines().format(record(*told, **more))


def parsed(*told: Any, **more: Any) -> dict[str, Any]:
    line = logs.JsonLines().format(record(*told, **more))
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


ENDED = ("relay.ended id=%s state=%s events=%d seconds=%.1f", "a-1", "complete", 7, 0.12345)


def test_names_and_values() -> None:
    assert text(*ENDED) == f"{TIME} INFO relay.ended id=a-1 state=complete events=7 seconds=0.123"
    told = {"id": "a-1", "state": "complete", "events": 7, "seconds": 0.123}
    assert parsed(*ENDED) == {"time": TIME, "level": "info", "event": "relay.ended", **told}


def test_event_alone() -> None:
    assert text("relay.slow_reader", level=logging.WARNING) == f"{TIME} WARNING relay.slow_reader"


@pytest.mark.parametrize("value", ["two words", 'a"b', "a=b", "a\nINFO relay.ended", "\x1b[31m", "a\\", ""])
def test_odd_value_is_quoted(value: str) -> None:
    line = text("redis.away error=%s", value)
    assert "\n" not in line
    assert json.loads(line.partition("error=")[2]) == value
    assert parsed("redis.away error=%s", value)["error"] == value


def test_what_others_log_is_all_event() -> None:
    assert text("100%% of %s", "it") == f"{TIME} INFO 100% of it"
    assert parsed("Exceeded %s limit.", "concurrency")["event"] == "Exceeded concurrency limit."
    assert parsed(ValueError("x"))["event"] == "x"


def test_mapping_is_no_list_of_values() -> None:
    made = record("relay.odd")
    made.args = {"a": 1}
    assert logs.TextLines().format(made) == f"{TIME} INFO relay.odd"


def test_traceback() -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        found = sys.exc_info()
    assert text("relay.bug id=%s", "a", error=found).endswith("\nZeroDivisionError")
    assert parsed("relay.bug id=%s", "a", error=found)["traceback"].endswith("\nZeroDivisionError")
    assert "traceback" not in parsed("relay.bug", error=(None, None, None))


@pytest.fixture
def loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("resumable_llm", "uvicorn.error")]
    before = [(logger, logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, propagate, handlers in before:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


@pytest.mark.usefixtures("loggers_as_before")
@pytest.mark.parametrize(("form", "told"), [("text", "INFO relay.begun id=a"), ("json", '"event": "relay.begun"')])
def test_only_warnings_of_the_server_are_written(form: logs.Format, told: str) -> None:
    err = io.StringIO()
    logs.log_to(err, form)
    logging.getLogger("resumable_llm.relay").info("relay.begun id=%s", "a")
    logging.getLogger("uvicorn.error").info('"WebSocket /_streams/1/ws?key=s3cret" [accepted]')
    logging.getLogger("uvicorn.error").warning("Exceeded concurrency limit.")
    lines = err.getvalue().splitlines()
    assert told in lines[0]
    assert "Exceeded" in lines[1]
    assert len(lines) == 2


def logged(path: Path) -> Iterator[str]:
    """What a module gives to its logger."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            on = node.func.value
            if isinstance(on, ast.Name) and on.id == "_logger" and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


@pytest.mark.parametrize("path", sorted((SOURCE / "relay").glob("*.py")), ids=lambda path: path.name)
def test_the_relay_logs_in_this_form_alone(path: Path) -> None:
    assert path.read_text(encoding="utf-8").count("_logger.") == len(list(logged(path)))
    assert all(logs._EVENT.fullmatch(message) for message in logged(path))
