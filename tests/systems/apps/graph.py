"""A LangGraph graph with one node, which says the user's last message again, character by character."""

from __future__ import annotations

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langgraph.graph import END, START, MessagesState, StateGraph


class State(MessagesState, total=False):
    """What the caller sends besides the messages.

    Attributes:
        seconds: Pause before each character.
        fail_at: Number of the character in whose place the model breaks down, counted from 0.
    """

    seconds: float
    fail_at: int


async def speak(state: State) -> MessagesState:
    """Say it as a chat model would, so that every stream mode has something to show."""
    model = FakeListChatModel(
        responses=[state["messages"][-1].text],
        sleep=state.get("seconds", 0.01),
        error_on_chunk_number=state.get("fail_at"),
    )
    return {"messages": [await model.ainvoke(state["messages"])]}


graph = StateGraph(State).add_node(speak).add_edge(START, "speak").add_edge("speak", END).compile()
