"""Records: the records of a read are handled together, at its end or in the next turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory

from spoa_twisted.agent.closing import ignore
from spoa_twisted.agent.records import Records
from spoa_twisted.spop.connection import AgentConnection
from tests.agent.memory import TurnClock
from tests.certificates import skip_without_tls


class Reads:
    """Records whose connection is in the state HELLO: it keeps the bytes that it has received."""

    def __init__(self, transport: Any = None) -> None:
        self.clock = TurnClock()
        self.connection = AgentConnection()
        self.sizes: list[int] = []
        self.records = Records(transport, self.clock, self.connection, self.on_read)

    def on_read(self) -> None:
        self.sizes.append(self.connection.bytes_received)


@pytest.fixture
def reads() -> Iterator[Reads]:
    """Records without a TLS layer. No timer may be left at the end."""
    reads = Reads()
    yield reads
    assert reads.clock.getDelayedCalls() == []


@pytest.fixture
def layer() -> Any:
    """A TLS layer, which passes each byte on as if it were a record."""
    skip_without_tls()
    from twisted.protocols.tls import TLSMemoryBIOProtocol

    class Layer(TLSMemoryBIOProtocol):
        def __init__(self) -> None:
            self.add: Callable[[bytes], None] = ignore

        def dataReceived(self, data: bytes) -> None:
            for number in range(len(data)):
                self.add(data[number : number + 1])

    return Layer()


@pytest.fixture
def layer_reads(layer: Any) -> Iterator[Reads]:
    """Records of ``layer``, with another layer between. No timer may be left at the end."""
    upper = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
    upper.transport = layer
    reads = Reads(upper)
    layer.add = reads.records.add
    yield reads
    assert reads.clock.getDelayedCalls() == []


def test_the_records_of_one_turn(reads: Reads) -> None:
    """The connection receives them in the next turn, and those of another turn separately."""
    reads.records.add(b"\0")
    reads.records.add(b"\0\1")
    assert reads.connection.bytes_received == 0
    reads.clock.advance(0)
    assert reads.sizes == [3]
    reads.records.add(b"\2")
    reads.clock.advance(0)
    assert reads.sizes == [3, 4]


def test_the_read_ends_in_its_own_turn(reads: Reads) -> None:
    """A later turn does not handle it again. Without records, nothing is called."""
    reads.records.end_read()
    reads.records.add(b"\0")
    reads.records.end_read()
    reads.records.end_read()
    assert reads.sizes == [1]


def test_the_connection_ends(reads: Reads) -> None:
    """The records that have just come are forgotten."""
    reads.records.add(b"\0")
    reads.records.end()
    reads.records.add(b"\0")
    reads.records.end_read()
    assert reads.sizes == []


def test_the_end_of_a_read_of_a_tls_layer(layer: Any, layer_reads: Reads) -> None:
    """It is known at once."""
    layer.dataReceived(b"\0\0")
    layer.dataReceived(b"\0")
    assert layer_reads.sizes == [2, 3]


def test_a_record_outside_a_read_of_the_tls_layer(layer: Any, layer_reads: Reads) -> None:
    """It is handled with the next read, or in the next turn."""
    layer_reads.records.add(b"\0")
    layer.dataReceived(b"\0")
    assert layer_reads.sizes == [2]
    layer_reads.records.add(b"\0")
    layer_reads.clock.advance(0)
    assert layer_reads.sizes == [2, 3]


def test_the_connection_ends_in_a_read_of_the_tls_layer(layer: Any, layer_reads: Reads) -> None:
    """The layer is as it was before, and refers to nothing of the agent."""

    def end(data: bytes) -> None:
        layer_reads.records.add(data)
        layer_reads.records.end()

    layer.add = end
    layer.dataReceived(b"\0")
    assert layer_reads.sizes == []
    assert "dataReceived" not in vars(layer)
    layer_reads.records.end()
