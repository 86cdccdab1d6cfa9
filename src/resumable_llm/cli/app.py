"""The commands and their options, as typer reads them.

Only words and exit codes: what a command does is in the module of its name.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from resumable_llm.cli import demo as demos
from resumable_llm.cli import relay as relays
from resumable_llm.cli import stream as streams
from resumable_llm.cli.display import PlainAudience, TerminalAudience, save_picture
from resumable_llm.policy import RetryPolicy

app = typer.Typer(
    name="resumable-llm",
    help="LLM streams that survive dropped connections.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"resumable-llm {importlib.metadata.version('resumable-llm')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    del version  # its callback has dealt with it
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):  # a model may say what the terminal cannot show
            output.reconfigure(errors="replace")


class Fallback(str, Enum):
    """Ways back that have to be allowed."""

    replay = "replay"
    continue_ = "continue"


class Api(str, Enum):
    """APIs that the demo can speak."""

    chat = "chat"
    responses = "responses"


@app.command()
def demo(
    *,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Use this OpenAI-compatible server (http only), not llama.cpp.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model's name on that server.")] = None,
    cuts: Annotated[int, typer.Option(min=1, max=60, help="How many times the connection is cut.")] = 6,
    seed: Annotated[int, typer.Option(help="Chooses the kinds and places of the cuts.")] = 0,
    api: Annotated[Api, typer.Option(help="The API that the client speaks.")] = Api.chat,
    recorded: Annotated[bool, typer.Option("--recorded", help="Play back a recorded answer; no model needed.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", hidden=True, help="Save the last frame.")] = None,
) -> None:
    """Cut a real model's answer again and again, and read it whole.

    The official openai client asks a small model (fetched once, about 93 MB) the same question twice at the same time,
    over connections that are cut: plain, and wrapped by this library. In the end the server is asked for its own record
    of the answer, which must be what the wrapped client received, byte for byte.

    Exit codes:

    - 0: byte for byte identical
    - 1: not identical, or nothing to compare with
    - 2: wrong usage
    - 3: the demo cannot run here
    - 130: Ctrl-C
    """
    if recorded and server:
        raise typer.BadParameter("--recorded plays a recording and --server asks a server: take one of them")
    out, err = Console(highlight=False), Console(stderr=True, highlight=False)
    audience = TerminalAudience(out, err, recorded=recorded) if out.is_terminal else PlainAudience(out, err)
    settings = demos.Settings(server=server, model=model, cuts=cuts, seed=seed, api=api.value, recorded=recorded)
    try:
        plain, wrapped, outcome = demos.run(settings, audience)
    except demos.DemoUnavailable as error:
        err.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(3) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    audience.conclude(plain, wrapped, outcome)
    if svg is not None:
        save_picture(svg, plain, wrapped, outcome, recorded=recorded)
    raise typer.Exit(0 if outcome.identical else 1)


class OnDisconnect(str, Enum):
    """What the last reader's going means."""

    continue_ = "continue"
    cancel = "cancel"


class Durability(str, Enum):
    """When readers are shown an event."""

    grouped = "grouped"
    strict = "strict"


class LogFormat(str, Enum):
    """How the relay's logs are written."""

    text = "text"
    json = "json"


@app.command()
def relay(
    *,
    upstream: Annotated[str, typer.Option(metavar="URL", help="The provider, such as https://api.openai.com.")],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="Where to listen; 0: any.")] = 8787,
    store: Annotated[
        str,
        typer.Option(
            metavar="memory|sqlite:///PATH|redis://HOST:PORT/DB",
            envvar="RESUMABLE_LLM_RELAY_STORE",
            help="Where answers are kept. Relays that share a Redis share the secret in RESUMABLE_LLM_RELAY_SECRET.",
        ),
    ] = "memory",
    ttl: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="How long an answer is kept behind its end.")
    ] = 3600.0,
    abandon_after: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="Stop an answer that nobody has read for so long. Default: let it end."
        ),
    ] = None,
    on_disconnect: Annotated[
        OnDisconnect, typer.Option(help="When the last reader goes: let the answer go on, or stop it at once.")
    ] = OnDisconnect.continue_,
    durability: Annotated[
        Durability,
        typer.Option(help="Write a moment behind the readers, or show them nothing that is not on disk."),
    ] = Durability.grouped,
    log_format: Annotated[
        LogFormat, typer.Option(help="Say what happens in lines of key=value, or of JSON.")
    ] = LogFormat.text,
    idle_exit: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="End when there has been nothing to do for so long. Default: never."
        ),
    ] = None,
    announce: Annotated[
        Path | None, typer.Option(metavar="FILE", hidden=True, help="Say here how it is found.")
    ] = None,
) -> None:
    """Stand in front of a provider and keep its answers, so that any client can read on after a drop.

    Requests pass unchanged, with the caller's own key. An answer that is an event stream goes on whether or not its
    reader is there, and can be read again from any event: *GET* its *Location* with *Last-Event-ID*. Callers see only
    what was asked for with the same credentials.

    Exit codes:

    - 0: shut down, by Ctrl-C or SIGTERM, or idle
    - 2: wrong usage, or the extra `relay` is not installed
    - 3: cannot start: the port is in use, or the store cannot be used
    - 4: cannot start: another relay uses the store
    """
    job = relays.Job(
        upstream=upstream,
        host=host,
        port=port,
        store=store,
        strict=durability is Durability.strict,
        ttl=ttl,
        abandon_after=abandon_after,
        on_disconnect=on_disconnect.value,
        log_format=log_format.value,
        idle_exit=idle_exit,
        announce=announce,
    )
    raise typer.Exit(relays.run(job, sys.stderr))


@app.command()
def stream(
    url: Annotated[str | None, typer.Argument(metavar="URL", help="Where the stream is. Not with --resume.")] = None,
    *,
    method: Annotated[
        str | None, typer.Option("-X", "--request", metavar="METHOD", help="Default: GET, or POST with --data.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("-d", "--data", metavar="DATA|@FILE", help="Request body; JSON unless a header says otherwise."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "-H", "--header", metavar="'NAME: VALUE'", help="Request header; never written to the checkpoint."
        ),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Write the answer's text: the default where it is known.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Write whole events, as an event stream.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the place here, event by event; removed at the end.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Go on from this checkpoint, and keep it up to date.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="SECONDS", help="Longest wait for the next event; pings do not count."),
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="Longest time for the whole answer.")
    ] = None,
    fallback: Annotated[
        list[Fallback] | None,
        typer.Option(help="What to do where the server did not keep the answer; repeat it to try both, in order."),
    ] = None,
    can_continue: Annotated[
        bool | None,
        typer.Option(
            "--can-continue/--cannot-continue",
            help="Whether the model goes on from a partial answer. Default: go by a table.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Read an event stream that survives: events to stdout as they come, all else to stderr.

    With --checkpoint, a reader that was killed, even with kill -9, goes on in a new process with --resume: both outputs
    put together are the whole. Should a kill fall into the very instant in which an event is written, then the file
    shows it and --resume says so.

    With --fallback, an answer that the server did not keep is generated again: *replay* asks for all of it once more
    and goes on only if it is the same, *continue* has the model go on from what it said. Both are paid for. Where it
    was joined is told on stderr.

    Exit codes:

    - 0: complete
    - 1: interrupted; can go on from the checkpoint
    - 2: wrong usage
    - 3: the rest cannot be had: not kept, expired, or failed
    - 4: the request was refused, or its answer is no event stream
    - 130: Ctrl-C; can go on from the checkpoint
    """
    if (url is None) == (resume is None):
        raise typer.BadParameter("give a URL, or --resume FILE")
    if resume and checkpoint:
        raise typer.BadParameter("--resume keeps its own file up to date: leave out --checkpoint")
    if text and raw:
        raise typer.BadParameter("--text or --raw, not both")
    ways = tuple(dict.fromkeys(fallback or ()))
    if ways and resume:
        raise typer.BadParameter("--fallback needs the request, which no checkpoint holds: not with --resume")
    if can_continue is not None and Fallback.continue_ not in ways:
        raise typer.BadParameter("--can-continue and --cannot-continue are about --fallback continue")
    body = _body(data)
    headers = [_header(line) for line in header or []]
    if body is not None and not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("Content-Type", "application/json"))
    policy = RetryPolicy(deadline=deadline)
    if timeout is not None:
        policy = dataclasses.replace(policy, first_event_timeout=timeout, event_timeout=timeout)
    job = streams.Job(
        url=url,
        method=method or ("GET" if body is None else "POST"),
        headers=tuple(headers),
        body=body,
        form="text" if text else "raw" if raw else None,
        checkpoint=checkpoint or resume,
        policy=policy,
        fallback=tuple(way.value for way in ways),
        can_continue=can_continue,
    )
    code = streams.run(job, sys.stdout.buffer, sys.stderr)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # what could not be written must not be tried again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(code)


def _body(data: str | None) -> bytes | None:
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode()
    if data == "@-":
        return sys.stdin.buffer.read()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"--data {data}: {error}") from None


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter("--header takes 'Name: value'")
    return name.strip(), value.strip()
