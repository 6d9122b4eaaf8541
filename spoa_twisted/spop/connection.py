"""The two sides of a connection: handshake, limits, reassembly and DISCONNECT, without I/O (SPOE.txt, section 3.2).

``receive_data`` takes bytes from the peer, ``next_event`` returns the events that they encode, and ``data_to_send``
returns bytes for the peer. An event of one side corresponds to a call on the other side:

====================  ==========================  ===========================================
:class:`AgentConnection`  frame on the wire       :class:`EngineConnection`
====================  ==========================  ===========================================
event ``HAProxyHello``    HAPROXY-HELLO           queued by the constructor
queued as the answer      AGENT-HELLO             event ``AgentHello``
event ``Notify``          NOTIFY (and UNSET)      ``send_notify``
``send_ack``              ACK                     event ``Ack``
event ``Disconnect``      HAPROXY-DISCONNECT      ``disconnect``
``disconnect``            AGENT-DISCONNECT        event ``Disconnect``
====================  ==========================  ===========================================

A connection goes through the states HELLO, RUNNING and CLOSED. The tables ``_FRAME_HANDLERS`` list the frames that are
legal in each state, and the methods that handle them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Final, Generic, TypeVar, final

from spoa_twisted.spop.actions import NO_ACTIONS, decode_actions
from spoa_twisted.spop.errors import (
    BadMaxFrameSize,
    FragmentationNotSupported,
    FrameTooBig,
    InterlacedFrames,
    InvalidFrame,
    SPOPError,
    StatusCode,
)
from spoa_twisted.spop.frames import (
    MIN_MAX_FRAME_SIZE,
    NO_IDS,
    AgentHello,
    Disconnect,
    Flags,
    FrameBuffer,
    FrameType,
    HAProxyHello,
    decode_ids,
    encode_frame,
    encode_head,
    encode_ids,
    frame_overhead,
)
from spoa_twisted.spop.messages import Message, decode_messages, encode_messages
from spoa_twisted.spop.reassembly import Reassembly, ReassemblyBudget
from spoa_twisted.spop.typeddata import Value
from spoa_twisted.spop.unread import HAPROXY_IN_FLIGHT, Receipt, Unread, max_short_ack

#: The default limit of a frame, in bytes: the agent accepts HAProxy's max-frame-size up to this value. HAProxy >= 3.1
#: sends a body in one frame. So the limit leaves room for a body of 1 MiB and other arguments.
DEFAULT_MAX_FRAME_SIZE: Final = 2**21

#: The default limit of a payload that is reassembled from fragments, in bytes. HAProxy <= 3.0 sends a long body so.
DEFAULT_MAX_PAYLOAD_SIZE: Final = 2**21

#: The longest HAPROXY-HELLO that is accepted, in bytes. HAProxy sends about 130. Before the HELLO, the agent does not
#: know the peer: it must not buffer a frame of DEFAULT_MAX_FRAME_SIZE for a peer that is not HAProxy.
MAX_HELLO_SIZE: Final = 2**14

#: HAProxy may send a NOTIFY before the ACK of the previous one has arrived (SPOE.txt, section 3.2.1).
PIPELINING: Final = "pipelining"
#: HAProxy may split the payload of a NOTIFY over several frames. HAProxy >= 3.1 ignores this capability.
FRAGMENTATION: Final = "fragmentation"
#: An ACK may take another connection than its NOTIFY. HAProxy >= 3.1 ignores this capability and does not list it.
ASYNC: Final = "async"


# Plain integers, as the operators of an IntFlag call Python functions.
_FIN: Final = int(Flags.FIN)
_ABORT: Final = int(Flags.ABORT)
_ACK: Final = int(FrameType.ACK)

#: The flags of the ACK that answers :class:`PayloadTooBig`.
ABORTED_ACK: Final = _FIN | _ABORT

# The head of an ACK, by the size of its ids and actions in bytes. Most ACKs are short.
_ACK_HEADS: Final = tuple([encode_head(_ACK, _FIN, size) for size in range(256)])

# A read of so many bytes or more may have left bytes unread in the transport. Twisted reads so many bytes or more at a
# time, with TCP and with TLS.
_FULL_READ: Final = 2**15

EventT = TypeVar("EventT")


class State(Enum):
    """The states of a connection."""

    #: The HELLO of the peer has not arrived.
    HELLO = "hello"
    #: The handshake is complete: NOTIFYs and ACKs are exchanged.
    RUNNING = "running"
    #: Received bytes are ignored. No frame can be added to those that are queued for sending.
    CLOSED = "closed"


# A global constant is read faster than a member of an Enum.
_HELLO: Final = State.HELLO
_RUNNING: Final = State.RUNNING
_CLOSED: Final = State.CLOSED


@final
class Notify:
    """Event: a NOTIFY arrived, in one frame or in fragments. The agent answers it with one ACK (section 3.2.6).

    It is not a dataclass: the constructor of a frozen dataclass is slower, and every NOTIFY needs one.
    """

    __slots__ = ("ids", "messages", "size")

    def __init__(self, ids: bytes, messages: list[Message], size: int = 0) -> None:
        #: The encoded stream-id and frame-id, which the ACK repeats.
        self.ids = ids
        #: The messages, in the order of HAProxy's configuration.
        self.messages = messages
        #: The length of the payload, in bytes.
        self.size = size

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Notify):
            return NotImplemented
        return (self.ids, self.messages) == (other.ids, other.messages)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Notify(ids={self.ids!r}, messages={self.messages!r}, size={self.size!r})"

    @property
    def stream_id(self) -> int:
        """The stream-id. HAProxy <= 3.0 sends the number of its stream, HAProxy >= 3.1 counts 1, 3, 5... anew for each
        connection.
        """
        return decode_ids(self.ids)[0]

    @property
    def frame_id(self) -> int:
        """The frame-id. HAProxy <= 3.0 counts the NOTIFYs of a stream from 1 on, HAProxy >= 3.1 always sends 1."""
        return decode_ids(self.ids)[1]


@final
@dataclass(frozen=True, slots=True)
class PayloadTooBig:
    """Event: the fragments of a NOTIFY exceed a limit. All have arrived, and were discarded.

    The agent answers it with one ACK, with :data:`ABORTED_ACK` as the flags of :meth:`AgentConnection.send_ack`.
    HAProxy takes this ACK as any other, and sets the variables.
    """

    #: The encoded stream-id and frame-id of the NOTIFY.
    ids: bytes
    #: The length of the payload, in bytes.
    size: int
    #: The names of the messages that had arrived when the limit was exceeded. Later messages of the NOTIFY are not
    #: known.
    names: tuple[str, ...]
    #: The name of the limit: ``max_payload_size`` or ``max_reassembly_size``.
    limit: str
    #: The value of the limit, in bytes.
    max_size: int


@final
@dataclass(frozen=True, slots=True)
class Ack:
    """Event: an ACK arrived (SPOE.txt, section 3.2.7)."""

    #: The encoded stream-id and frame-id of the NOTIFY that it answers.
    ids: bytes
    #: The variables that the actions set or unset, by ``scope.name``.
    variables: dict[str, Value]
    #: True if the ACK has the flag ABORT: the agent refused the NOTIFY, because its payload was too long.
    aborted: bool


class _Connection(Generic[EventT]):
    """The common part of both sides: it cuts the bytes into frames, checks that they are legal, and disconnects."""

    # The type of this side's DISCONNECT frame.
    _DISCONNECT_FRAME: ClassVar[FrameType]

    # The methods that handle a frame, by state and type of frame. A subclass sets the table after its class body. A
    # frame type of SPOE.txt that the current state does not list is an error. A type that SPOE.txt does not define is
    # skipped: section 3.2.2 allows that.
    _FRAME_HANDLERS: ClassVar[Mapping[State, Mapping[int, Callable[[Any, int, bytes, bytes], Any]]]]

    def __init__(self, max_frame_size: int) -> None:
        self._enter(_HELLO)
        #: The capabilities of the peer. The set is empty until the peer's HELLO has arrived.
        self.peer_capabilities: frozenset[str] = frozenset()
        self._max_frame_size = max_frame_size
        self._buffer = FrameBuffer(max_frame_size)
        # The frames that data_to_send has not returned yet.
        self._out: list[bytes] = []
        #: The length of these frames, in bytes.
        self.bytes_to_send = 0

    def _enter(self, state: State) -> None:
        #: The state of the connection.
        self.state = state
        # The current row of the table: next_event would look it up for each frame.
        self._frame_handlers = self._FRAME_HANDLERS.get(state, {})

    @property
    def max_frame_size(self) -> int:
        """The longest frame, in bytes: the agreed size; before the handshake, the size that this side offers."""
        return self._max_frame_size

    def receive_data(self, data: bytes) -> None:
        """Add bytes that the transport received. :meth:`!next_event` then returns their events."""
        if self.state is not _CLOSED:
            self._buffer.feed(data)

    def next_event(self) -> EventT | None:
        """Return the next event of the received bytes, or ``None`` if more bytes are needed.

        A ``Disconnect`` and the HELLO of a health check close the connection. The caller then writes the bytes of
        :meth:`data_to_send`, and closes the transport.

        :raises SPOPError: if the peer broke the protocol. The connection is closed, and a DISCONNECT frame that
            reports the error is queued for :meth:`data_to_send`.
        """
        try:
            while self.state is not _CLOSED:
                frame = self._buffer.next_frame()
                if frame is None:
                    return None
                frame_type, flags, ids, payload = frame
                handle = self._frame_handlers.get(frame_type)
                if handle is not None:
                    event: EventT | None = handle(self, flags, ids, payload)
                    # A fragment, for example, is handled without an event.
                    if event is not None:
                        return event
                elif frame_type in _KNOWN_FRAMES:
                    name = FrameType(frame_type).name
                    raise InvalidFrame(f"{name} is not legal in the state {self.state.value}")
        except SPOPError as error:
            self.disconnect(error.status_code, str(error))
            raise
        return None

    def data_to_send(self) -> bytes:
        """Remove the queued frames and return their bytes, which the caller must write to the transport.

        The caller must write them in one piece: some versions of HAProxy >= 3.2 close the connection if an AGENT-HELLO
        arrives in two pieces.
        """
        out = self._out
        if not out:
            return b""
        self._out = []
        data = b"".join(out)
        self.bytes_to_send -= len(data)
        return data

    def disconnect(self, status_code: int = StatusCode.NORMAL, message: str = "normal") -> None:
        """Queue a DISCONNECT frame and close the connection. In the state CLOSED, do nothing.

        ``message`` is cut after 255 bytes.
        """
        if self.state is not _CLOSED:
            self._send(self._DISCONNECT_FRAME, NO_IDS, Disconnect(status_code, message).encode())
            self.close()

    def close(self) -> None:
        """Enter the state CLOSED and discard all received bytes. :meth:`data_to_send` still returns queued frames."""
        self._enter(_CLOSED)
        self._buffer.clear()

    def _send(self, frame_type: int, ids: bytes, payload: bytes, flags: int = _FIN) -> None:
        frame = encode_frame(frame_type, flags, ids, payload)
        self._out.append(frame)
        self.bytes_to_send += len(frame)

    def _set_max_frame_size(self, max_frame_size: int) -> None:
        self._max_frame_size = max_frame_size
        self._buffer.max_frame_size = max_frame_size


class _NotifyReceiver(_Connection[HAProxyHello | Notify | PayloadTooBig | Disconnect]):
    """The part of the agent's side that receives NOTIFYs, in one frame or in fragments."""

    def __init__(self, max_frame_size: int, max_payload_size: int, budget: ReassemblyBudget | None) -> None:
        super().__init__(max_frame_size)
        self._max_payload_size = max_payload_size
        # The fragments of an incomplete NOTIFY; None if there is none.
        self._fragments: Reassembly | None = None
        self._budget = ReassemblyBudget() if budget is None else budget
        # The number of NOTIFYs without a queued ACK.
        self._in_flight = 0

    def next_event(self) -> HAProxyHello | Notify | PayloadTooBig | Disconnect | None:
        """Return the next event of the received bytes, or ``None`` if more bytes are needed.

        A ``Disconnect`` and the HELLO of a health check close the connection. The caller then writes the bytes of
        :meth:`data_to_send`, and closes the transport.

        :raises SPOPError: if the peer broke the protocol. The connection is closed, and a DISCONNECT frame that
            reports the error is queued for :meth:`data_to_send`.
        """
        # Nearly all frames are NOTIFYs that are not fragmented. For them, this does the same as the inherited method,
        # with fewer calls and without a copy of the payload.
        if self.state is _RUNNING and self._fragments is None:
            try:
                frame = self._buffer.next_notify()
                if frame is not None:
                    ids, data, start, end = frame
                    if not ids:
                        return None
                    messages = decode_messages(data, start, end)
                    self._in_flight += 1
                    return Notify(ids, messages, end - start)
            except SPOPError as error:
                self.disconnect(error.status_code, str(error))
                raise
        return super().next_event()

    @property
    def receiving(self) -> bool:
        """True if the beginning of a frame or of a fragmented payload has arrived, and the end has not."""
        return self._fragments is not None or len(self._buffer) > 0

    # HAProxy <= 3.0 sends a long payload in fragments: a NOTIFY without FIN, then UNSET frames, the last one with FIN.
    # All have the same ids. If the stream ends before the last fragment, HAProxy sends an UNSET with FIN, ABORT and no
    # payload.

    def _on_notify(self, flags: int, ids: bytes, payload: bytes) -> Notify | PayloadTooBig | None:
        if self._fragments is not None:
            raise InterlacedFrames("a NOTIFY came before the last fragment of another NOTIFY")
        # In a frame with FIN, ABORT has no meaning: there is nothing to give up.
        if flags & _FIN:
            return self._make_notify(ids, payload)
        if not flags & _ABORT:
            self._fragments = Reassembly(ids, self._max_payload_size, self._budget)
            return self._add_fragment(flags, ids, payload)
        return None

    def _on_fragment(self, flags: int, ids: bytes, payload: bytes) -> Notify | PayloadTooBig | None:
        if self._fragments is None:
            # An agent may abort a NOTIFY with an ACK, while fragments are on their way. This agent does not, but it
            # skips such fragments too.
            return None
        if ids != self._fragments.ids:
            raise InterlacedFrames("a fragment came between the fragments of another NOTIFY")
        if flags & _ABORT:
            self._drop_fragments()
            return None
        return self._add_fragment(flags, ids, payload)

    def _add_fragment(self, flags: int, ids: bytes, payload: bytes) -> Notify | PayloadTooBig | None:
        """Add a fragment to the payload; return the NOTIFY if it was the last fragment."""
        fragments = self._fragments
        assert fragments is not None
        fragments.add(payload)
        # A payload that is too long is answered after its last fragment too. An ACK with ABORT before that would make
        # HAProxy <= 3.0 ignore the actions. With 2.8 and 3.0, the next NOTIFY sometimes timed out too.
        if not flags & _FIN:
            return None
        whole = fragments.payload()
        self._drop_fragments()
        if fragments.exceeded:
            self._in_flight += 1
            return PayloadTooBig(ids, fragments.size, fragments.names, fragments.exceeded, fragments.exceeded_size)
        return self._make_notify(ids, whole)

    def _drop_fragments(self) -> None:
        fragments, self._fragments = self._fragments, None
        if fragments is not None:
            fragments.clear()

    def _make_notify(self, ids: bytes, payload: bytes) -> Notify:
        messages = decode_messages(payload)
        self._in_flight += 1
        return Notify(ids, messages, len(payload))

    def close(self) -> None:
        """Enter the state CLOSED and discard all received bytes. :meth:`data_to_send` still returns queued frames."""
        super().close()
        self._drop_fragments()


@final
class AgentConnection(_NotifyReceiver):
    """The agent's side of a connection.

    It tells HAProxy <= 3.0 from HAProxy >= 3.1 by the capability ``async``, which only the former lists. A HAProxy
    >= 3.1 stops reading for ever if one read fills its buffer. So :meth:`data_to_send` holds long ACKs back for it (see
    :mod:`spoa_twisted.spop.unread`). A HAProxy <= 3.0 with ``no option async`` is treated in the same way, which is
    harmless.

    :param max_frame_size: the longest frame that is accepted, in bytes, from 256 on. A larger max-frame-size of HAProxy
        is lowered to it.
    :param max_payload_size: the longest payload that is reassembled from fragments, in bytes.
    :param async_: announce the capability ``async``. HAProxy <= 3.0 then accepts an ACK on any connection of the engine
        that sent the NOTIFY.
    :param budget: the limit for the incomplete payloads of all connections together. Without it, this connection has
        a limit of its own.
    :param may_pipeline: called with the HAPROXY-HELLO; the agent announces the capability ``pipelining`` if it returns
        true. Without it, the agent always does.
    """

    _DISCONNECT_FRAME = FrameType.AGENT_DISCONNECT

    def __init__(
        self,
        max_frame_size: int = DEFAULT_MAX_FRAME_SIZE,
        max_payload_size: int = DEFAULT_MAX_PAYLOAD_SIZE,
        async_: bool = False,
        budget: ReassemblyBudget | None = None,
        may_pipeline: Callable[[HAProxyHello], bool] | None = None,
    ) -> None:
        check_max_frame_size(max_frame_size)
        super().__init__(max_frame_size, max_payload_size, budget)
        # Until the HELLO is decoded; _on_hello sets the agreed size.
        self._buffer.max_frame_size = min(max_frame_size, MAX_HELLO_SIZE)
        #: The id of the engine that opened the connection. It is empty before the HELLO, or if the HELLO has no id.
        self.engine_id = ""
        #: True if an ACK may be sent on another connection of the same engine: both sides list ``async``, and the
        #: HELLO has an engine-id.
        self.async_ = False
        #: True if HAProxy may have several NOTIFYs in flight: both sides list ``pipelining``.
        self.pipelined = False
        self._may_pipeline = may_pipeline
        #: The size of the longest ACK, in bytes, that never waits for others with pipelining; 0 before the HELLO.
        #: HAProxy >= 3.1 only. It is an attribute, because a property would be slower.
        self.max_short_ack = 0
        # HAProxy <= 3.0 never lists "fragmentation", but it fragments if the agent lists it. If the agent does not,
        # HAProxy <= 3.0 answers a payload that is too long with a loop of disconnects and connects.
        self._capabilities = frozenset({PIPELINING, FRAGMENTATION} | ({ASYNC} if async_ else set()))
        # What HAProxy >= 3.1 may not have read; None before the HELLO, and for HAProxy <= 3.0.
        self._unread: Unread | None = None
        #: The largest size of an ACK's ids and actions together, in bytes; 0 before the HELLO.
        self.ack_room = 0
        # The number of ACKs that were sent since the last read.
        self._acks_since_read = 0

    def receive_data(self, data: bytes) -> None:
        """Add the bytes that the transport received in one read. :meth:`!next_event` then returns their events.

        All bytes of a read must be added together: so a HAProxy >= 3.1 that has given up NOTIFYs is noticed.
        """
        self._acks_since_read = 0
        if self._unread is not None and len(data) >= _FULL_READ:
            # More NOTIFYs may wait in the transport, so the number of NOTIFYs in flight is unknown.
            self._unread.fell_behind()
        if self.state is not _CLOSED:
            self._buffer.feed(data)

    def data_to_send(self) -> bytes:
        """Remove the queued frames and return their bytes, which the caller must write to the transport.

        ACKs that could fill the buffer of a HAProxy >= 3.1 are held back. So, as long as :attr:`unread` is true, the
        caller must call :meth:`interval_ended` and then this method at intervals.
        """
        frames = self._out
        if self._unread is None or not frames:
            return super().data_to_send()
        # In the state CLOSED, the last queued frame is the AGENT-DISCONNECT. All others are ACKs. (The AGENT-HELLO is
        # counted as one. That is harmless: no NOTIFY is in flight then.)
        acks = len(frames) - (self.state is _CLOSED)
        # send_ack has already subtracted the queued ACKs from _in_flight, but HAProxy has not received them.
        admitted = self._unread.admit(frames, self._in_flight + acks, self._acks_since_read)
        if not admitted:
            # Thousands of ACKs may be held back. To copy the list for each new ACK would take longer than the ACK.
            return b""
        self._acks_since_read += admitted
        self._out = []
        if admitted < len(frames):
            self._out = frames[admitted:]
            del frames[admitted:]
        data = b"".join(frames)
        self.bytes_to_send -= len(data)
        return data

    @property
    def unread(self) -> bool:
        """True if HAProxy may not have read all sent ACKs, or ACKs are queued: the caller must call
        :meth:`interval_ended` when an interval has passed.
        """
        return self._unread is not None and (self._unread.size > 0 or bool(self._out))

    @property
    def held_back(self) -> bool:
        """True if queued ACKs wait until HAProxy has read those that were sent."""
        return self._unread is not None and self._unread.size > 0 and bool(self._out)

    @property
    def unanswered(self) -> int:
        """The number of NOTIFYs that have arrived and whose ACK has not left."""
        return self._in_flight + len(self._out)

    @property
    def longest_queued_ack(self) -> int:
        """The size of the longest queued ACK, in bytes. 0 if no ACK is queued, or another frame after it.

        It is 0 too if more ACKs are queued than HAProxy has NOTIFYs in flight: thousands may be held back.
        """
        out = self._out
        # The type of a frame follows its length.
        return max(map(len, out)) if out and out[-1][4] == _ACK and len(out) <= HAPROXY_IN_FLIGHT else 0

    @property
    def can_end_at_once(self) -> bool:
        """True if no NOTIFY is pending or incomplete, and :meth:`disconnect` would leave in one write with all queued
        ACKs.
        """
        return (
            self.state is _RUNNING
            and not self._in_flight
            and not self.receiving
            and (self._unread is None or self._unread.has_room(self._out, self._acks_since_read))
        )

    @property
    def long_acks(self) -> int:
        """How many ACKs to a HAProxy >= 3.1 were longer than :attr:`max_short_ack`. Without pipelining, they are not
        counted.
        """
        return 0 if self._unread is None else self._unread.long_acks

    def interval_ends(self) -> None:
        """Announce that the caller is about to find out what HAProxy has read.

        Frames that are sent from now on count for the next interval: the result may not cover them.
        """
        if self._unread is not None:
            self._unread.interval_ends()

    def interval_ended(self, receipt: Receipt = Receipt.UNKNOWN) -> None:
        """Report that another :data:`~spoa_twisted.spop.unread.READ_INTERVAL` has passed.

        :param receipt: what the caller knows about the frames that were sent before :meth:`interval_ends`.
        """
        if self._unread is not None:
            self._unread.interval_ended(receipt)

    @property
    def bytes_received(self) -> int:
        """The number of received bytes that :meth:`next_event` has not consumed."""
        return len(self._buffer)

    def send_ack(self, ids: bytes, actions: bytes = b"", flags: int = _FIN) -> None:
        """Queue the ACK of the NOTIFY that had ``ids``. ``actions`` is a LIST-OF-ACTIONS.

        :param flags: :data:`ABORTED_ACK` for the event :class:`PayloadTooBig`.
        :raises ValueError: if the ACK does not fit in one frame (HAProxy accepts no ACK in fragments), or the
            connection is not in the state RUNNING.
        """
        if self.state is not _RUNNING:
            raise ValueError(f"no ACK can be sent in the state {self.state.value}")
        size = len(ids) + len(actions)
        if size > self.ack_room:
            raise ValueError(f"{len(actions)} bytes of actions do not fit in a frame of {self._max_frame_size} bytes")
        if not actions and self._unread is not None:
            # HAProxy 3.1.0 loses the stream of an ACK without a payload.
            actions = NO_ACTIONS
            size += len(actions)
        # This is _send without the calls, for speed.
        if size < len(_ACK_HEADS) and flags == _FIN:
            frame = _ACK_HEADS[size] + ids + actions
        else:
            frame = encode_frame(_ACK, flags, ids, actions)
        self._in_flight -= 1
        self._out.append(frame)
        self.bytes_to_send += len(frame)

    def _on_hello(self, flags: int, ids: bytes, payload: bytes) -> HAProxyHello:
        check_unfragmented(FrameType.HAPROXY_HELLO, flags, ids)
        hello = HAProxyHello.decode(payload)
        # SPOE.txt, section 3.2.4: the HELLO itself must not exceed its max-frame-size.
        if frame_overhead(ids) + len(payload) > hello.max_frame_size:
            raise FrameTooBig(
                f"the HAPROXY-HELLO has {frame_overhead(ids) + len(payload)} bytes, more than its own max-frame-size of"
                f" {hello.max_frame_size} bytes"
            )
        self.peer_capabilities = hello.capabilities
        self.engine_id = hello.engine_id
        self.async_ = bool(hello.engine_id) and ASYNC in hello.capabilities & self._capabilities
        # The lower of the two sizes counts (SPOE.txt, section 3.2.4).
        self._set_max_frame_size(min(self._max_frame_size, hello.max_frame_size))
        self.ack_room = self._max_frame_size - frame_overhead(b"")
        capabilities = self._capabilities
        if self._may_pipeline is not None and not self._may_pipeline(hello):
            capabilities -= {PIPELINING}
        self.pipelined = PIPELINING in hello.capabilities & capabilities
        if ASYNC not in hello.capabilities:
            # An ACK of exactly max-frame-size fills the buffer of a HAProxy >= 3.1, which then stops reading for ever.
            self.ack_room -= 1
            self._unread = Unread(self._max_frame_size, self.pipelined)
            self.max_short_ack = max_short_ack(self._max_frame_size)
        answer = AgentHello(max_frame_size=self._max_frame_size, capabilities=capabilities)
        self._send(FrameType.AGENT_HELLO, NO_IDS, answer.encode())
        if hello.healthcheck:
            # No frame may follow the AGENT-HELLO, not even an AGENT-DISCONNECT: HAProxy >= 3.1 would mark the server
            # as DOWN.
            self.close()
        else:
            self._enter(_RUNNING)
        return hello

    def _on_disconnect(self, flags: int, ids: bytes, payload: bytes) -> Disconnect:
        check_unfragmented(FrameType.HAPROXY_DISCONNECT, flags, ids)
        received = Disconnect.decode(payload)
        # HAProxy waits for an AGENT-DISCONNECT in reply (SPOE.txt, section 3.2.8).
        self.disconnect()
        return received


AgentConnection._FRAME_HANDLERS = {
    State.HELLO: {
        FrameType.HAPROXY_HELLO: AgentConnection._on_hello,
        FrameType.HAPROXY_DISCONNECT: AgentConnection._on_disconnect,
    },
    State.RUNNING: {
        FrameType.NOTIFY: AgentConnection._on_notify,
        FrameType.UNSET: AgentConnection._on_fragment,
        FrameType.HAPROXY_DISCONNECT: AgentConnection._on_disconnect,
    },
}


@final
class EngineConnection(_Connection[AgentHello | Ack | Disconnect]):
    """The engine's side of a connection, HAProxy's. It queues its HELLO when it is created.

    The client, the benchmark and the tests use it.

    :param hello: the HELLO to send. Its ``max_frame_size`` is the longest frame that is accepted, in bytes.
    """

    _DISCONNECT_FRAME = FrameType.HAPROXY_DISCONNECT

    def __init__(self, hello: HAProxyHello | None = None) -> None:
        self._hello = hello or HAProxyHello(capabilities=frozenset({PIPELINING}))
        super().__init__(self._hello.max_frame_size)
        # The ids of the NOTIFYs whose ACK has not arrived.
        self._waiting: set[bytes] = set()
        self._next_stream_id = 1
        self._send(FrameType.HAPROXY_HELLO, NO_IDS, self._hello.encode())

    def send_notify(self, messages: Iterable[Message], stream_id: int | None = None, frame_id: int = 1) -> bytes:
        """Queue a NOTIFY, in fragments if it is too long for one frame; return its ids, which its ACK repeats.

        Without a ``stream_id``, the stream-ids are 1, 3, 5 and so on, as HAProxy >= 3.1 counts them.

        :raises TypeError: if a name is not a ``str``, or an argument's value has no SPOP type.
        :raises ValueError: if a message cannot be encoded; if an id is outside 64 bits, or the ACK of the same ids has
            not arrived; if the payload needs fragments and the agent does not support them; or if the connection is
            not in the state RUNNING.
        """
        if self.state is not State.RUNNING:
            raise ValueError(f"no NOTIFY can be sent in the state {self.state.value}")
        if stream_id is None:
            stream_id = self._next_stream_id
            self._next_stream_id += 2
        ids = encode_ids(stream_id, frame_id)
        if ids in self._waiting:
            raise ValueError(f"the ACK of the NOTIFY with stream-id {stream_id}, frame-id {frame_id} has not arrived")
        payload = encode_messages(messages)
        room = self._max_frame_size - frame_overhead(ids)
        if len(payload) > room and FRAGMENTATION not in self.peer_capabilities:
            raise ValueError(
                f"{len(payload)} bytes of messages do not fit in a frame of {self._max_frame_size} bytes,"
                f" and the agent does not support fragmentation"
            )
        # The first frame is a NOTIFY, the others are UNSET frames. An empty payload takes one frame, too.
        frame_type = FrameType.NOTIFY
        for start in range(0, len(payload), room) or (0,):
            flags = Flags.FIN if start + room >= len(payload) else Flags(0)
            self._send(frame_type, ids, payload[start : start + room], flags)
            frame_type = FrameType.UNSET
        self._waiting.add(ids)
        return ids

    def forget(self, ids: bytes) -> None:
        """Stop waiting for the ACK of the NOTIFY with these ids. If the ACK still arrives, it is skipped."""
        self._waiting.discard(ids)

    def _on_hello(self, flags: int, ids: bytes, payload: bytes) -> AgentHello:
        check_unfragmented(FrameType.AGENT_HELLO, flags, ids)
        hello = AgentHello.decode(payload)
        # The agent may lower the size, but not raise it (SPOE.txt, section 3.2.5).
        if hello.max_frame_size > self._max_frame_size:
            raise BadMaxFrameSize(
                f"the max-frame-size {hello.max_frame_size} of the AGENT-HELLO exceeds the {self._max_frame_size} bytes"
                f" of the HAPROXY-HELLO"
            )
        self.peer_capabilities = hello.capabilities
        self._set_max_frame_size(hello.max_frame_size)
        self._enter(_RUNNING)
        # A health check ends with the AGENT-HELLO, without DISCONNECT frames (SPOE.txt, section 3.2.3).
        if self._hello.healthcheck:
            self.close()
        return hello

    def _on_ack(self, flags: int, ids: bytes, payload: bytes) -> Ack | None:
        # No HAProxy accepts an ACK in fragments, so an agent must not send one.
        if not flags & _FIN:
            raise FragmentationNotSupported("an ACK came in fragments")
        # A late ACK is not an error: forget() was called, or the agent answered twice.
        if ids not in self._waiting:
            return None
        self._waiting.remove(ids)
        return Ack(ids, decode_actions(payload), bool(flags & _ABORT))

    def _on_disconnect(self, flags: int, ids: bytes, payload: bytes) -> Disconnect:
        check_unfragmented(FrameType.AGENT_DISCONNECT, flags, ids)
        received = Disconnect.decode(payload)
        # HAProxy does not answer an AGENT-DISCONNECT, and neither does this side.
        self.close()
        return received


EngineConnection._FRAME_HANDLERS = {
    State.HELLO: {
        FrameType.AGENT_HELLO: EngineConnection._on_hello,
        FrameType.AGENT_DISCONNECT: EngineConnection._on_disconnect,
    },
    State.RUNNING: {
        FrameType.ACK: EngineConnection._on_ack,
        FrameType.AGENT_DISCONNECT: EngineConnection._on_disconnect,
    },
}


def check_max_frame_size(size: int) -> None:
    """Check the ``max_frame_size`` of an agent, the longest frame that it accepts, in bytes.

    :raises ValueError: if ``size`` is below 256 (SPOE.txt, section 3.2), or does not fit in a UINT32.
    """
    if not MIN_MAX_FRAME_SIZE <= size < 2**32:
        raise ValueError(f"max_frame_size is {size}; SPOP allows {MIN_MAX_FRAME_SIZE} to 2^32 - 1 bytes")


def check_unfragmented(frame_type: FrameType, flags: int, ids: bytes) -> None:
    """Check the flags and ids of a HELLO or DISCONNECT: it has one fragment and belongs to no stream (section 3.2).

    :raises FragmentationNotSupported: if the flag FIN is missing.
    :raises InvalidFrame: if the stream-id or the frame-id is not 0.
    """
    if not flags & _FIN:
        raise FragmentationNotSupported(f"{frame_type.name} has no FIN flag: it cannot be fragmented")
    if ids != NO_IDS:
        raise InvalidFrame(f"the stream-id and the frame-id of {frame_type.name} must be 0")


_KNOWN_FRAMES: Final = frozenset(int(frame_type) for frame_type in FrameType)
