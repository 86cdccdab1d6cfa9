"""What is on its way to the caller, and the place that the caller has reached.

Knows what was given out and when it counts as delivered; neither why it was sent nor what it says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from resumable_llm.core.actions import Deliver, Notify
from resumable_llm.core.model import Notice, Position
from resumable_llm.core.transcript import Transcript

_NOTHING: deque[Deliver | Notify] = deque(maxlen=0)  # for all that are empty, as most are: a deque has 700 bytes


class Outbox:
    """The deliveries and notices that wait to be given out, in order.

    A single event counts as delivered when it is given out. A slice of several counts when the caller comes back for
    more, for until then the caller may have read only the first of them.

    Args:
        transcript: Where what is delivered is kept.
        position: The place to begin at.
    """

    __slots__ = ("_in_hand", "_transcript", "position", "waiting")

    def __init__(self, transcript: Transcript, position: Position) -> None:
        self.position = position
        """Behind the last event that was delivered by `take`."""
        self._transcript = transcript
        self.waiting = _NOTHING
        """What has not been given out."""
        self._in_hand: Deliver | None = None

    def put(self, deliveries: Sequence[Deliver]) -> None:
        """Add deliveries."""
        self._add(deliveries)

    def tell(self, notice: Notice) -> None:
        """Add a notice."""
        self._add([Notify(notice)])

    def take(self) -> Deliver | Notify | None:
        """The next, or None. What is given out counts as delivered as the class says."""
        transcript = self._transcript
        if self._in_hand is not None or transcript.fresh or transcript.in_hand:
            self.settle()
        if not self.waiting:
            return None
        action = self.waiting.popleft()
        if not self.waiting:
            self.waiting = _NOTHING
        if isinstance(action, Deliver):
            if action.events == 1:
                self.position = action.position
                transcript.keep(action.data, 1)
            else:
                self._in_hand = action
        return action

    def settle(self) -> None:
        """The caller has come back: what it had in hand is delivered."""
        transcript = self._transcript
        transcript.settle()
        transcript.in_hand = b""
        if self._in_hand is not None:
            self.position = self._in_hand.position
            transcript.keep(self._in_hand.data, self._in_hand.events)
            self._in_hand = None

    @property
    def is_holding(self) -> bool:
        """Whether something is given out or waiting that the caller does not surely have."""
        return self._in_hand is not None or self.has_more

    def where(self, head: Position) -> tuple[Position, int]:
        """The place up to which the caller surely has everything.

        Args:
            head: The place behind the last block judged.

        Returns:
            The place, and how many events of the transcript are behind it.
        """
        if self.is_holding:
            return self.position, 0
        self._transcript.settle()
        passed = self._transcript.in_hand
        among = passed.count(self._transcript.framing.boundary)
        if among > 1:
            return head._replace(offset=head.offset - len(passed)), among
        return head, 0

    def reached(self, head: Position) -> Position:
        """The place behind all that was given out, whether or not the caller surely has it.

        Args:
            head: The place behind the last block judged.
        """
        if self._in_hand is not None:
            return self._in_hand.position
        return self.position if self.has_more else head

    @property
    def has_more(self) -> bool:
        """Whether something of the answer has not been given out."""
        return bool(self.waiting) and any(isinstance(action, Deliver) for action in self.waiting)

    @property
    def events_in_hand(self) -> int:
        """Events that were given out and do not count as delivered."""
        return 0 if self._in_hand is None else self._in_hand.events

    def last_notices(self) -> list[Notice]:
        """Take what waits, if it is notices alone."""
        if self.is_holding:
            return []
        told = [action.notice for action in self.waiting if isinstance(action, Notify)]
        self.waiting = _NOTHING
        return told

    def _add(self, actions: Sequence[Deliver | Notify]) -> None:
        if self.waiting:
            self.waiting.extend(actions)
        elif actions:
            self.waiting = deque(actions)
