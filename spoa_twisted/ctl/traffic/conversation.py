"""Both directions of one connection: which NOTIFY an ACK answers, and the rules that need the frames before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Final, final

from spoa_twisted.ctl.traffic.cutter import Cutter
from spoa_twisted.ctl.traffic.frame import SECTIONS, DecodedFrame, decode_frame, decode_payload
from spoa_twisted.ctl.traffic.rules import AGENT_TYPES, HAPROXY_TYPES, check_frame
from spoa_twisted.spop.connection import ASYNC, DEFAULT_MAX_PAYLOAD_SIZE
from spoa_twisted.spop.errors import SPOPError
from spoa_twisted.spop.frames import AgentHello, Flags, FrameType, HAProxyHello
from spoa_twisted.spop.reassembly import Reassembly, ReassemblyBudget

# NOTIFYs without an ACK, and ACKs, that a connection remembers. HAProxy has at most 20 NOTIFYs in flight on one
# connection by default. An agent may never answer, so that the numbers must be limited.
_MAX_PENDING: Final = 10_000
_MAX_ANSWERED: Final = 1000

_HELLO: Final = SECTIONS[FrameType.AGENT_HELLO]
_ACK: Final = SECTIONS[FrameType.ACK]


@final
class Conversation:
    """The frames of one connection. Feed it the bytes of both directions.

    :param number: the number of the connection.
    :param budget: the limit for the incomplete payloads of all connections together.
    :param others: returns all connections that are open, this one included: with ``async``, an ACK may come on another.
    """

    def __init__(
        self, number: int, budget: ReassemblyBudget, others: Callable[[], Collection[Conversation]] = tuple
    ) -> None:
        self.number = number
        self.engine_id = ""
        #: The number of NOTIFYs that an agent has answered on this connection, and that are not answered yet.
        self.answered = 0
        self._budget = budget
        self._others = others
        self._cutters = {True: Cutter(), False: Cutter()}
        # The HELLOs, once they were decoded.
        self._haproxy_hello: HAProxyHello | None = None
        self._agent_hello: AgentHello | None = None
        self._agent_has_disconnected = False
        # The time of each NOTIFY without an ACK, by its ids. Of a fragmented NOTIFY, the time of its last fragment.
        self._pending: OrderedDict[bytes, float] = OrderedDict()
        # The ids of the last NOTIFYs that were answered.
        self._answered: OrderedDict[bytes, None] = OrderedDict()
        self._fragments: Reassembly | None = None
        self._fragment_number = 0

    @property
    def pending(self) -> int:
        """The number of NOTIFYs without an ACK."""
        return len(self._pending)

    @property
    def allows_async(self) -> bool:
        """Whether both sides have announced ``async``."""
        hellos = (self._haproxy_hello, self._agent_hello)
        return bool(self.engine_id) and all(hello is not None and ASYNC in hello.capabilities for hello in hellos)

    def receive(self, data: bytes, now: float, *, from_agent: bool) -> list[DecodedFrame]:
        """Add bytes of one direction; return the frames that they complete.

        :param now: when they arrived, in seconds.
        """
        frames = []
        for cut in self._cutters[from_agent].feed(data):
            frame = decode_frame(cut)
            self.on_frame(frame, now, from_agent=from_agent)
            frames.append(frame)
        return frames

    def end(self, *, from_agent: bool) -> DecodedFrame | None:
        """Return the frame that the end of one direction cuts off, if there is one."""
        cut = self._cutters[from_agent].end()
        return None if cut is None else decode_frame(cut)

    def close(self) -> None:
        """Discard the fragments of an incomplete NOTIFY."""
        self._drop_fragments()

    def on_frame(self, frame: DecodedFrame, now: float, *, from_agent: bool) -> None:
        """Check ``frame``, and update the state by which the following frames are checked."""
        if frame.type is not None:
            self._check_size(frame, from_agent=from_agent)
            wrong = HAPROXY_TYPES if from_agent else AGENT_TYPES
            if frame.type in wrong:
                frame.fault(f"only {'HAProxy' if from_agent else 'an agent'} sends {frame.name}", 4, "3.2.2")
            else:
                check_frame(frame)
                if from_agent:
                    self._from_agent(frame, now)
                else:
                    self._from_haproxy(frame, now)

    def _check_size(self, frame: DecodedFrame, *, from_agent: bool) -> None:
        haproxy, agent = self._haproxy_hello, self._agent_hello
        if haproxy is None:
            return
        size = haproxy.max_frame_size if agent is None else min(haproxy.max_frame_size, agent.max_frame_size)
        if frame.size > size:
            agreed = "HAPROXY-HELLO offers" if agent is None else "HELLOs agree on"
            frame.fault(
                f"a length of {frame.size} bytes exceeds the max-frame-size: the {agreed} {size} bytes", 0, "3.2"
            )
        elif from_agent and frame.size == size and frame.type == FrameType.ACK and ASYNC not in haproxy.capabilities:
            frame.fault(
                f"HAProxy >= 3.1 stops reading for ever at an ACK of {size} bytes: one byte less is the most", 0
            )

    # HAProxy's frames.

    def _from_haproxy(self, frame: DecodedFrame, now: float) -> None:
        if frame.type == FrameType.HAPROXY_HELLO:
            if self._haproxy_hello is not None:
                frame.fault("a second HAPROXY-HELLO", 4, SECTIONS[FrameType.HAPROXY_HELLO])
            elif not frame.faults:
                self._haproxy_hello = HAProxyHello.decode(frame.payload)
                self.engine_id = self._haproxy_hello.engine_id
        elif frame.type == FrameType.NOTIFY:
            self._on_notify(frame, now)
        elif frame.type == FrameType.UNSET:
            self._on_fragment(frame, now)

    def _on_notify(self, frame: DecodedFrame, now: float) -> None:
        self._drop_fragments()
        if frame.is_whole:
            self._add_pending(frame.ids, now)
        else:
            self._fragments = Reassembly(frame.ids, DEFAULT_MAX_PAYLOAD_SIZE, self._budget)
            self._fragment_number = 0
            self._add_fragment(frame, now)

    def _on_fragment(self, frame: DecodedFrame, now: float) -> None:
        if self._fragments is None or self._fragments.ids != frame.ids:
            frame.notes.append("a fragment of no NOTIFY")
        elif frame.flags & Flags.ABORT:
            frame.notes.append("HAProxy gives the NOTIFY up")
            self._drop_fragments()
            self._pending.pop(frame.ids, None)
        else:
            self._add_fragment(frame, now)

    def _add_fragment(self, frame: DecodedFrame, now: float) -> None:
        fragments = self._fragments
        assert fragments is not None
        fragments.add(frame.payload)
        self._fragment_number += 1
        self._add_pending(frame.ids, now)
        if not frame.is_whole:
            frame.notes.append(f"fragment {self._fragment_number}")
            return
        frame.notes.append(f"last of {self._fragment_number} fragments, {fragments.size} bytes")
        if fragments.exceeded:
            frame.notes.append("too long for spoactl to decode")
        else:
            decode_payload(frame, fragments.payload(), None)
        self._drop_fragments()

    def _drop_fragments(self) -> None:
        if self._fragments is not None:
            self._fragments.clear()
            self._fragments = None

    def _add_pending(self, ids: bytes, now: float) -> None:
        self._pending[ids] = now
        self._answered.pop(ids, None)
        if len(self._pending) > _MAX_PENDING:
            self._pending.popitem(last=False)

    # The agent's frames.

    def _from_agent(self, frame: DecodedFrame, now: float) -> None:
        if self._agent_has_disconnected:
            frame.fault(f"{frame.name} after AGENT-DISCONNECT: the agent must close", 4, "3.2.9")
        if frame.type == FrameType.AGENT_HELLO:
            self._on_agent_hello(frame)
        elif frame.type == FrameType.AGENT_DISCONNECT:
            self._agent_has_disconnected = True
            if self._is_healthcheck and self._agent_hello is not None:
                frame.fault("a frame behind the AGENT-HELLO of a health check: HAProxy >= 3.1 takes it as failed")
        elif frame.type == FrameType.ACK:
            if self._agent_hello is None:
                frame.fault("an ACK before the AGENT-HELLO", 4, "3.2.3")
            self._on_ack(frame, now)

    @property
    def _is_healthcheck(self) -> bool:
        return self._haproxy_hello is not None and self._haproxy_hello.healthcheck

    def _on_agent_hello(self, frame: DecodedFrame) -> None:
        if self._agent_hello is not None:
            frame.fault("a second AGENT-HELLO", 4, _HELLO)
            return
        if self._haproxy_hello is None:
            frame.fault("the AGENT-HELLO is the reply to a HAPROXY-HELLO, and none has come", 4, _HELLO)
        try:
            hello = AgentHello.decode(frame.payload)
        except SPOPError:
            # check_frame has added the fault.
            return
        self._agent_hello = hello
        if self._haproxy_hello is not None and hello.max_frame_size > self._haproxy_hello.max_frame_size:
            offered = self._haproxy_hello.max_frame_size
            text = f"the max-frame-size {hello.max_frame_size} exceeds the {offered} bytes of the HAPROXY-HELLO"
            frame.fault(text, frame.payload_offset, _HELLO)

    def _on_ack(self, frame: DecodedFrame, now: float) -> None:
        began = self._pending.pop(frame.ids, None)
        if began is None:
            began = self._find_on_others(frame)
        if began is not None:
            frame.seconds = now - began
            self._remember(frame.ids)
        elif frame.ids in self._answered:
            frame.fault("the NOTIFY has been answered: this is a second ACK", 9, _ACK)
        else:
            frame.fault("unknown NOTIFY: none with this stream-id and frame-id is pending", 9, _ACK)

    def _find_on_others(self, frame: DecodedFrame) -> float | None:
        """Return the time of the NOTIFY if it came on another connection of the same engine."""
        for other in self._others():
            if other is not self and frame.ids in other._pending and other.engine_id == self.engine_id:
                if not self.allows_async:
                    text = f"the NOTIFY came on connection {other.number}: only with async may an ACK take another one"
                    frame.fault(text, 9, "3.2.1")
                else:
                    frame.notes.append(f"of the NOTIFY on #{other.number}")
                return other._pending.pop(frame.ids)
        return None

    def _remember(self, ids: bytes) -> None:
        self.answered += 1
        self._answered[ids] = None
        if len(self._answered) > _MAX_ANSWERED:
            self._answered.popitem(last=False)
