"""The two sides of a connection: handshake, limits, reassembly, goodbye. No I/O (SPOE.txt, section 3.2).

Bytes from the peer go into ``receive_data``, what they mean comes out of ``next_event``, bytes for the peer come out
of ``data_to_send``. What one side sends the other receives:

====================  ==========================  ===========================================
:class:`AgentConnection`  travels as              :class:`EngineConnection`
====================  ==========================  ===========================================
event ``HAProxyHello``    HAPROXY-HELLO           on creation
at once                   AGENT-HELLO             event ``AgentHello``
event ``Notify``          NOTIFY (and UNSET)      ``send_notify``
``send_ack``              ACK                     event ``Ack``
event ``Disconnect``      HAPROXY-DISCONNECT      ``disconnect``
``disconnect``            AGENT-DISCONNECT        event ``Disconnect``
====================  ==========================  ===========================================
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
    encode_ids,
    frame_overhead,
)
from spoa_twisted.spop.messages import Message, decode_messages, encode_messages
from spoa_twisted.spop.typeddata import Value
from spoa_twisted.spop.unread import Receipt, Unread

#: The longest frame that is let in and offered, in bytes.
DEFAULT_MAX_FRAME_SIZE: Final = 2**20

#: The longest payload that is put together from fragments, in bytes.
DEFAULT_MAX_PAYLOAD_SIZE: Final = 2**20

#: The longest HAPROXY-HELLO, in bytes. HAProxy's has 130; whoever sends more than this is none.
MAX_HELLO_SIZE: Final = 2**14

#: SPOE.txt, section 3.2.1.
PIPELINING: Final = "pipelining"
FRAGMENTATION: Final = "fragmentation"
ASYNC: Final = "async"


# Plain integers: the operators of an IntFlag are Python-level calls.
_FIN: Final = int(Flags.FIN)
_ABORT: Final = int(Flags.ABORT)
_ACK: Final = int(FrameType.ACK)

# As much as a transport reads at a time, or more: Twisted's TCP reads twice as much, its TLS this.
_FULL_READ: Final = 2**15

EventT = TypeVar("EventT")


class State(Enum):
    """How far a connection is."""

    #: The peer's HELLO has not come.
    HELLO = "hello"
    #: Both HELLOs went; NOTIFYs and ACKs go.
    RUNNING = "running"
    #: Nothing more is read, and nothing more is to be sent.
    CLOSED = "closed"


_HELLO: Final = State.HELLO
_RUNNING: Final = State.RUNNING
_CLOSED: Final = State.CLOSED


@final
class Notify:
    """A NOTIFY came, whole or put together: each asks for one ACK (SPOE.txt, section 3.2.6)."""

    __slots__ = ("ids", "messages", "size")

    def __init__(self, ids: bytes, messages: list[Message], size: int = 0) -> None:
        #: What its ACK repeats.
        self.ids = ids
        self.messages = messages
        #: How long its payload was, in bytes.
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
        """The stream-id: HAProxy's stream up to 3.0, a number within the connection from 3.1 on."""
        return decode_ids(self.ids)[0]

    @property
    def frame_id(self) -> int:
        """The frame-id, a number within the stream."""
        return decode_ids(self.ids)[1]


@final
@dataclass(frozen=True, slots=True)
class PayloadTooBig:
    """The fragments of a NOTIFY exceed the agent's limit: it was answered with an ACK that aborts it."""

    ids: bytes
    #: How many bytes had come when it was given up.
    size: int


@final
@dataclass(frozen=True, slots=True)
class Ack:
    """An ACK came (SPOE.txt, section 3.2.7)."""

    #: Those of the NOTIFY that it answers.
    ids: bytes
    variables: dict[str, Value]
    #: Whether the agent gave the NOTIFY up while its fragments were on their way.
    aborted: bool


class _Connection(Generic[EventT]):
    """What both sides do alike: cut frames out, judge whether they are legal now, say goodbye."""

    _GOODBYE: ClassVar[FrameType]

    # What is legal when; filled in behind the class. A frame that SPOE.txt knows and a state's row does not is an
    # error; one that SPOE.txt does not know is skipped (section 3.2.2).
    _RECEIVES: ClassVar[Mapping[State, Mapping[int, Callable[[Any, int, bytes, bytes], Any]]]]

    def __init__(self, max_frame_size: int) -> None:
        self._enter(_HELLO)
        #: What the peer says it can do, once its HELLO has come.
        self.peer_capabilities: frozenset[str] = frozenset()
        self._max_frame_size = max_frame_size
        self._buffer = FrameBuffer(max_frame_size)
        self._out: list[bytes] = []
        #: How many bytes wait to be sent.
        self.bytes_to_send = 0

    def _enter(self, state: State) -> None:
        #: How far the connection is.
        self.state = state
        self._receives = self._RECEIVES.get(state, {})

    @property
    def max_frame_size(self) -> int:
        """The longest frame, in bytes: what was agreed on, before that what this side offers."""
        return self._max_frame_size

    def receive_data(self, data: bytes) -> None:
        """Take in what the transport received. :meth:`!next_event` says what it means."""
        if self.state is not _CLOSED:
            self._buffer.feed(data)

    def next_event(self) -> EventT | None:
        """Return what comes next of the data received, or ``None`` when more is needed.

        After a ``Disconnect``, and after the HELLO of a health check, the connection is closed: what
        :meth:`data_to_send` still holds is to be sent, then the transport is to be closed.

        :raises SPOPError: when the peer broke the protocol. The DISCONNECT that says so is queued, and the
            connection closed.
        """
        try:
            while self.state is not _CLOSED:
                frame = self._buffer.next_frame()
                if frame is None:
                    return None
                frame_type, flags, ids, payload = frame
                receive = self._receives.get(frame_type)
                if receive is not None:
                    event: EventT | None = receive(self, flags, ids, payload)
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
        """Return, once, what is to be written to the transport. A frame is never split over two calls."""
        out = self._out
        if not out:
            return b""
        self._out = []
        data = b"".join(out)
        self.bytes_to_send -= len(data)
        return data

    def disconnect(self, status_code: int = StatusCode.NORMAL, message: str = "normal") -> None:
        """Say goodbye, once: queue a DISCONNECT frame, the last one. ``message`` is cut after 255 bytes."""
        if self.state is not _CLOSED:
            self._send(self._GOODBYE, NO_IDS, Disconnect(status_code, message).encode())
            self.close()

    def close(self) -> None:
        """Forget everything but what is still to be sent: the transport is gone, or about to."""
        self._enter(_CLOSED)
        self._buffer.clear()

    def _send(self, frame_type: int, ids: bytes, payload: bytes, flags: int = _FIN) -> None:
        frame = encode_frame(frame_type, flags, ids, payload)
        self._out.append(frame)
        self.bytes_to_send += len(frame)

    def _agree(self, max_frame_size: int) -> None:
        self._max_frame_size = max_frame_size
        self._buffer.max_frame_size = max_frame_size


@final
class AgentConnection(_Connection[HAProxyHello | Notify | PayloadTooBig | Disconnect]):
    """The agent's side.

    :param max_frame_size: the longest frame let in, in bytes, whatever HAProxy offers; at least 256.
    :param max_payload_size: the longest payload put together from fragments, in bytes.
    :param async_: announce the capability ``async``: HAProxy <= 3.0 then takes an ACK on any connection of its engine.
    """

    _GOODBYE = FrameType.AGENT_DISCONNECT

    def __init__(
        self,
        max_frame_size: int = DEFAULT_MAX_FRAME_SIZE,
        max_payload_size: int = DEFAULT_MAX_PAYLOAD_SIZE,
        async_: bool = False,
    ) -> None:
        judge_max_frame_size(max_frame_size)
        super().__init__(max_frame_size)
        self._buffer.max_frame_size = min(max_frame_size, MAX_HELLO_SIZE)
        #: The engine that the connection belongs to; empty while or if unknown.
        self.engine_id = ""
        #: Whether ACKs may take another connection of the same engine: both peers want it, and the engine has an id.
        self.async_ = False
        self._max_payload_size = max_payload_size
        # HAProxy <= 3.0 lists no fragmentation, yet fragments when the agent lists it: without, an oversize
        # payload makes it reconnect in a hot loop.
        self._capabilities = frozenset({PIPELINING, FRAGMENTATION} | ({ASYNC} if async_ else set()))
        self._fragments: bytearray | None = None
        self._fragments_ids = b""
        self._in_flight = 0
        # For a HAProxy >= 3.1 only, which never lists async.
        self._unread: Unread | None = None
        # The most that an ACK may have of ids and actions, in bytes.
        self._room = 0
        # How many bytes came in the last read, and how many ACKs were sent since.
        self._read_size = 0
        self._answered = 0

    def receive_data(self, data: bytes) -> None:
        """Take in what the transport received. :meth:`!next_event` says what it means."""
        self._read_size = 0
        self._answered = 0
        self.receive_more(data)

    def receive_more(self, data: bytes) -> None:
        """As :meth:`receive_data`, for what had arrived together with what was received last, as with TLS."""
        self._read_size += len(data)
        if self._read_size >= _FULL_READ and self._unread is not None:
            # More may wait in the transport than HAProxy still wants to know.
            self._unread.fell_behind()
        if self.state is not _CLOSED:
            self._buffer.feed(data)

    def data_to_send(self) -> bytes:
        """Return, once, what is to be written to the transport. A frame is never split over two calls.

        ACKs that HAProxy >= 3.1 could not read at once are held back: while :attr:`unread`, this is to be called
        again after :meth:`interval_ended`.
        """
        frames = self._out
        if self._unread is None or not frames:
            return super().data_to_send()
        acks = len(frames) - (self.state is _CLOSED)
        admitted = self._unread.admit(frames, self._in_flight + acks, self._answered)
        self._answered += admitted
        self._out = []
        if admitted < len(frames):
            self._out = frames[admitted:]
            del frames[admitted:]
        data = b"".join(frames)
        self.bytes_to_send -= len(data)
        return data

    @property
    def unread(self) -> bool:
        """Whether HAProxy may not have read all ACKs, and further ones may have to wait."""
        return self._unread is not None and (self._unread.size > 0 or bool(self._out))

    @property
    def held_back(self) -> bool:
        """Whether ACKs wait until HAProxy has read others."""
        return self._unread is not None and self._unread.size > 0 and bool(self._out)

    def interval_ends(self) -> None:
        """Say that what is sent from now on does not count for the interval that is about to end."""
        if self._unread is not None:
            self._unread.interval_ends()

    def interval_ended(self, receipt: Receipt = Receipt.UNKNOWN) -> None:
        """Say that another :data:`~spoa_twisted.spop.unread.READ_INTERVAL` has passed, while :attr:`unread`.

        :param receipt: what is known of all that was sent before :meth:`interval_ends`.
        """
        if self._unread is not None:
            self._unread.interval_ended(receipt)

    @property
    def bytes_received(self) -> int:
        """How many bytes wait for :meth:`next_event`."""
        return len(self._buffer)

    @property
    def receiving(self) -> bool:
        """Whether a frame, or a payload in fragments, has begun to come and has not ended."""
        return self._fragments is not None or len(self._buffer) > 0

    def room_for_actions(self, ids: bytes) -> int:
        """Return the longest list of actions that an ACK with these ids may carry, in bytes."""
        return self._room - len(ids)

    def send_ack(self, ids: bytes, actions: bytes = b"") -> None:
        """Queue the ACK of the NOTIFY that had ``ids``. ``actions`` is a LIST-OF-ACTIONS.

        :raises ValueError: when it does not fit in a frame (an ACK cannot be fragmented), or no ACK can be sent
            in this state.
        """
        if self.state is not _RUNNING:
            raise ValueError(f"no ACK can be sent in the state {self.state.value}")
        if len(ids) + len(actions) > self._room:
            raise ValueError(f"{len(actions)} bytes of actions do not fit in a frame of {self._max_frame_size}")
        if not actions and self._unread is not None:
            actions = NO_ACTIONS
        frame = encode_frame(_ACK, _FIN, ids, actions)
        self._in_flight -= 1
        self._out.append(frame)
        self.bytes_to_send += len(frame)

    def _receive_hello(self, flags: int, ids: bytes, payload: bytes) -> HAProxyHello:
        _judge_whole(FrameType.HAPROXY_HELLO, flags, ids)
        hello = HAProxyHello.decode(payload)
        if frame_overhead(ids) + len(payload) > hello.max_frame_size:
            raise FrameTooBig("the HELLO exceeds the max-frame-size that it announces")
        self.peer_capabilities = hello.capabilities
        self.engine_id = hello.engine_id
        self.async_ = bool(hello.engine_id) and ASYNC in hello.capabilities & self._capabilities
        self._agree(min(self._max_frame_size, hello.max_frame_size))
        self._room = self._max_frame_size - frame_overhead(b"")
        if ASYNC not in hello.capabilities:
            # It stops reading for ever when one read fills its buffer.
            self._room -= 1
            self._unread = Unread(self._max_frame_size, PIPELINING in hello.capabilities)
        answer = AgentHello(max_frame_size=self._max_frame_size, capabilities=self._capabilities)
        self._send(FrameType.AGENT_HELLO, NO_IDS, answer.encode())
        if hello.healthcheck:
            # HAProxy >= 3.1 marks the server down when anything follows the AGENT-HELLO, a goodbye included.
            self.close()
        else:
            self._enter(_RUNNING)
        return hello

    def _receive_notify(self, flags: int, ids: bytes, payload: bytes) -> Notify | PayloadTooBig | None:
        if self._fragments is not None:
            raise InterlacedFrames("a NOTIFY came between the fragments of another")
        if flags & _FIN:
            return self._notify(ids, payload)
        if not flags & _ABORT:
            self._fragments = bytearray()
            self._fragments_ids = ids
            return self._add_fragment(flags, ids, payload)
        return None

    def _receive_fragment(self, flags: int, ids: bytes, payload: bytes) -> Notify | PayloadTooBig | None:
        if self._fragments is None:
            # What was on its way when the payload was aborted.
            return None
        if ids != self._fragments_ids:
            raise InterlacedFrames("a fragment came between the fragments of another payload")
        if flags & _ABORT:
            self._fragments = None
            return None
        return self._add_fragment(flags, ids, payload)

    def _add_fragment(self, flags: int, ids: bytes, payload: bytes) -> Notify | PayloadTooBig | None:
        assert self._fragments is not None
        size = len(self._fragments) + len(payload)
        if size > self._max_payload_size:
            self._fragments = None
            self._send(_ACK, ids, b"", _FIN | _ABORT)
            return PayloadTooBig(ids, size)
        self._fragments += payload
        if not flags & _FIN:
            return None
        whole = bytes(self._fragments)
        self._fragments = None
        return self._notify(ids, whole)

    def _notify(self, ids: bytes, payload: bytes) -> Notify:
        messages = decode_messages(payload)
        self._in_flight += 1
        return Notify(ids, messages, len(payload))

    def _receive_disconnect(self, flags: int, ids: bytes, payload: bytes) -> Disconnect:
        _judge_whole(FrameType.HAPROXY_DISCONNECT, flags, ids)
        goodbye = Disconnect.decode(payload)
        self.disconnect()
        return goodbye

    def close(self) -> None:
        """Forget everything but what is still to be sent: the transport is gone, or about to."""
        super().close()
        self._fragments = None


AgentConnection._RECEIVES = {
    State.HELLO: {
        FrameType.HAPROXY_HELLO: AgentConnection._receive_hello,
        FrameType.HAPROXY_DISCONNECT: AgentConnection._receive_disconnect,
    },
    State.RUNNING: {
        FrameType.NOTIFY: AgentConnection._receive_notify,
        FrameType.UNSET: AgentConnection._receive_fragment,
        FrameType.HAPROXY_DISCONNECT: AgentConnection._receive_disconnect,
    },
}


@final
class EngineConnection(_Connection[AgentHello | Ack | Disconnect]):
    """HAProxy's side: the mirror image of :class:`AgentConnection`. Its HELLO is queued from the start.

    :param hello: what to say of this side; its ``max_frame_size`` is the longest frame let in, in bytes.
    """

    _GOODBYE = FrameType.HAPROXY_DISCONNECT

    def __init__(self, hello: HAProxyHello | None = None) -> None:
        self._hello = hello or HAProxyHello(capabilities=frozenset({PIPELINING}))
        super().__init__(self._hello.max_frame_size)
        self._waiting: set[bytes] = set()
        self._next_stream_id = 1
        self._send(FrameType.HAPROXY_HELLO, NO_IDS, self._hello.encode())

    def send_notify(self, messages: Iterable[Message], stream_id: int | None = None, frame_id: int = 1) -> bytes:
        """Queue a NOTIFY, in fragments when it is too long for one frame; return its ids, which its ACK repeats.

        Without a ``stream_id`` it is the next of 1, 3, 5 and so on, as HAProxy >= 3.1 counts.

        :raises TypeError: :raises ValueError: for what a message cannot hold, ids outside 64 bits or still waiting
            for their ACK, a payload too long for an agent without fragmentation, or when the connection is not
            running.
        """
        if self.state is not State.RUNNING:
            raise ValueError(f"no NOTIFY can be sent in the state {self.state.value}")
        if stream_id is None:
            stream_id = self._next_stream_id
            self._next_stream_id += 2
        ids = encode_ids(stream_id, frame_id)
        if ids in self._waiting:
            raise ValueError(f"stream-id {stream_id}, frame-id {frame_id} still waits for its ACK")
        payload = encode_messages(messages)
        room = self._max_frame_size - frame_overhead(ids)
        if len(payload) > room and FRAGMENTATION not in self.peer_capabilities:
            raise ValueError(f"{len(payload)} bytes of messages do not fit in a frame of {self._max_frame_size}")
        frame_type = FrameType.NOTIFY
        for start in range(0, len(payload), room) or (0,):
            flags = Flags.FIN if start + room >= len(payload) else Flags(0)
            self._send(frame_type, ids, payload[start : start + room], flags)
            frame_type = FrameType.UNSET
        self._waiting.add(ids)
        return ids

    def forget(self, ids: bytes) -> None:
        """Wait no more for the ACK of the NOTIFY that has ``ids``; should it come, it is skipped."""
        self._waiting.discard(ids)

    def _receive_hello(self, flags: int, ids: bytes, payload: bytes) -> AgentHello:
        _judge_whole(FrameType.AGENT_HELLO, flags, ids)
        hello = AgentHello.decode(payload)
        if hello.max_frame_size > self._max_frame_size:
            raise BadMaxFrameSize(
                f"a max-frame-size of {hello.max_frame_size}, where {self._max_frame_size} was offered"
            )
        self.peer_capabilities = hello.capabilities
        self._agree(hello.max_frame_size)
        self._enter(_RUNNING)
        if self._hello.healthcheck:
            self.close()
        return hello

    def _receive_ack(self, flags: int, ids: bytes, payload: bytes) -> Ack | None:
        if not flags & _FIN:
            raise FragmentationNotSupported("an ACK came in fragments")
        if ids not in self._waiting:
            return None
        self._waiting.remove(ids)
        return Ack(ids, decode_actions(payload), bool(flags & _ABORT))

    def _receive_disconnect(self, flags: int, ids: bytes, payload: bytes) -> Disconnect:
        _judge_whole(FrameType.AGENT_DISCONNECT, flags, ids)
        goodbye = Disconnect.decode(payload)
        self.close()
        return goodbye


EngineConnection._RECEIVES = {
    State.HELLO: {
        FrameType.AGENT_HELLO: EngineConnection._receive_hello,
        FrameType.AGENT_DISCONNECT: EngineConnection._receive_disconnect,
    },
    State.RUNNING: {
        FrameType.ACK: EngineConnection._receive_ack,
        FrameType.AGENT_DISCONNECT: EngineConnection._receive_disconnect,
    },
}


def judge_max_frame_size(size: int) -> None:
    """Judge the longest frame that an agent lets in, in bytes.

    :raises ValueError: when it is below 256 (SPOE.txt, section 3.2), or exceeds a UINT32.
    """
    if not MIN_MAX_FRAME_SIZE <= size < 2**32:
        raise ValueError(f"max_frame_size is {size}; SPOP asks for at least {MIN_MAX_FRAME_SIZE}, and less than 2^32")


def _judge_whole(frame_type: FrameType, flags: int, ids: bytes) -> None:
    """Judge the frames that belong to no stream, and cannot be fragmented."""
    if not flags & _FIN:
        raise FragmentationNotSupported(f"{frame_type.name} cannot be fragmented")
    if ids != NO_IDS:
        raise InvalidFrame(f"{frame_type.name} has another stream-id or frame-id than 0")


_KNOWN_FRAMES: Final = frozenset(int(frame_type) for frame_type in FrameType)
