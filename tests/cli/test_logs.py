"""Lines of the log: key=value or JSON, and nothing that could be taken for another line."""

from __future__ import annotations

import ast
import io
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

import resumable_llm
from resumable_llm.cli import logs
from resumable_llm.relay.websocket import PROTOCOL
from tests.cli.test_relay import started
from tests.sockets import wire
from tests.sockets.scripted import Answer, End, Scripted

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
    with pytest.raises(ZeroDivisionError) as caught:
        1 // 0  # noqa: B018 - it is for its error
    found = (caught.type, caught.value, caught.tb)
    assert text("relay.bug id=%s", "a", error=found).endswith("\nZeroDivisionError: integer division or modulo by zero")
    assert parsed("relay.bug id=%s", "a", error=found)["traceback"].startswith("Traceback")


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
    logging.getLogger("uvicorn.error").error(logs._UNFINISHED)
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


def quoting(prompt: str) -> Answer:
    return Answer.json(json.dumps({"error": {"message": f"{prompt} is no prompt", "code": "invalid_prompt"}}), 404)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_of_a_run_tells_a_prompt_or_a_key(form: str) -> None:
    chat, responses = wire.blocks(wire.chat(("w0rd",) * 5)), wire.blocks(wire.responses())
    failed = b'data: {"error":{"message":"say pr0mpt again","code":"x"}}\n\n'
    script = (
        *(Answer(chat), Answer([*chat[:2], failed]), quoting("pr0mpt"), Answer(chat[:3], End.RST)),
        Answer(responses[:5], End.SILENT),
    )
    headers = {"authorization": "Bearer s3cret", "x-api-key": "s3cret"}
    body = {"stream": True, "messages": [{"role": "user", "content": "pr0mpt"}]}
    asked = {"stream": True, "background": True, "input": "pr0mpt"}
    with (
        Scripted(*script, rest=lambda _: quoting("pr0mpt")) as upstream,
        started("--upstream", upstream.url, "--log-format", form) as (url, said),
    ):
        with httpx.Client(base_url=url, headers=headers, params={"key": "s3cret"}) as client:
            place = client.post("/v1/chat/completions", json=body).headers["location"]
            for _ in range(3):
                client.post("/v1/chat/completions", json=body)
            with client.stream("POST", "/v1/responses", json=asked) as running:
                next(running.iter_raw())
                client.delete(running.headers["location"])
            assert client.get("/_streams/never").status_code == 404
        offered = [Subprotocol(each) for each in (PROTOCOL, "authorization.Bearer%20s3cret", "x-api-key.s3cret")]
        for target, code in ((place, 1000), ("/_streams/never", 4404)):
            socket_url = f"ws{url.removeprefix('http')}{target}/ws?key=s3cret"
            with connect(socket_url, origin=Origin(url), subprotocols=offered) as reader:
                with suppress(ConnectionClosedError):
                    assert list(reader)
                assert reader.close_code == code
        with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as raw:
            raw.sendall(b"GET /s3cret pr0mpt HTTP/9\r\nauthorization s3cret\r\n\r\n")
            assert b" 400 " in raw.recv(100)
    lines = said[-1].splitlines()
    assert not [word for word in ("s3cret", "pr0mpt", "w0rd") if word in said[-1]]
    assert sum("relay.ended" in line for line in lines) == 4
    assert not [line for line in lines if "relay.bug" in line or "Traceback" in line]
    if form == "json":
        assert all(json.loads(line)["event"] for line in lines)
