"""The states of a conversation, what can happen in each of them, and where that may lead: the table.

Anything that is not in the table is a bug. Nothing here acts on it; `course` does.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where the conversation stands."""

    READY = "ready"
    ASKING = "asking"
    STREAMING = "streaming"
    COLLECTING = "collecting"
    WAITING = "waiting"
    ENDED = "ended"
    FAILED = "failed"


class Input(Enum):
    """What can happen to it."""

    START = "start"
    RESPONSE = "response"
    DATA = "data"
    EOF = "eof"
    FAILURE = "failure"
    WAKEUP = "wakeup"


_A, _S, _C, _W, _E, _F = State.ASKING, State.STREAMING, State.COLLECTING, State.WAITING, State.ENDED, State.FAILED
_OVER = {_W, _A, _E, _F}

TRANSITIONS: dict[State, dict[Input, set[State]]] = {
    State.READY: {Input.START: {_A, _E, _F}},
    State.ASKING: {Input.RESPONSE: {_S, _C} | _OVER, Input.FAILURE: _OVER},
    State.STREAMING: {Input.DATA: _OVER, Input.EOF: _OVER, Input.FAILURE: _OVER},
    State.COLLECTING: {Input.DATA: {_S} | _OVER, Input.EOF: {_S} | _OVER, Input.FAILURE: _OVER},
    State.WAITING: {Input.WAKEUP: {_A, _E, _F}},
    State.ENDED: {},
    State.FAILED: {},
}
"""Every legal input of every state, and the states it may move to; data may also leave the state as it is. Anything
else is a bug of the driver, or of the conversation.
"""
