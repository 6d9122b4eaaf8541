"""A framework for HAProxy SPOE agents on Twisted.

A NOTIFY and its ACK pass through these modules, in this order::

    bytes -> agent.protocol -> spop.connection -> spop.frames -> spop.messages -> handlers
          -> spop.actions -> spop.frames -> spop.connection -> agent.outbox -> bytes

To change something else, begin here::

    limits       each limit of the agent, and so each option of twistd spoa that is a number
    tap          the other options of twistd spoa
    observer     the events of the agent: an application can count or log each of them
    log          which events the agent logs, and how
    status       what an agent counts, and what twistd spoa --status serves
    lifespans    when the startup, every and shutdown functions of handlers run
    ctl          the command spoactl
"""

from spoa_twisted.agent.protocol import SPOAFactory, SPOAProtocol
from spoa_twisted.client import SPOEClient
from spoa_twisted.handlers.declaration import Declaration
from spoa_twisted.handlers.interfaces import IHandlers, ILifeCycle
from spoa_twisted.handlers.lifecycle import StartupFailed
from spoa_twisted.handlers.pending import PendingAnswer, answer_of
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.observer import IObserver
from spoa_twisted.service import SPOAService
from spoa_twisted.spop.actions import Variables
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.typeddata import NULL, Int32, Int64, UInt32, UInt64, Value

__version__ = "0.1.0"

__all__ = [
    "NULL",
    "Declaration",
    "Handlers",
    "IHandlers",
    "ILifeCycle",
    "IObserver",
    "Int32",
    "Int64",
    "Message",
    "PendingAnswer",
    "SPOAFactory",
    "SPOAProtocol",
    "SPOAService",
    "SPOEClient",
    "StartupFailed",
    "UInt32",
    "UInt64",
    "Value",
    "Variables",
    "__version__",
    "answer_of",
]
