"""A framework for HAProxy SPOE agents on Twisted.

The way of a NOTIFY through the package::

    bytes -> agent.protocol -> spop.connection -> spop.frames -> spop.messages -> handlers
          -> spop.actions -> spop.frames -> spop.connection -> agent.outbox -> bytes
"""

from spoa_twisted.agent.protocol import SPOAFactory, SPOAProtocol
from spoa_twisted.client import SPOEClient
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.observer import IObserver
from spoa_twisted.service import SPOAService
from spoa_twisted.spop.actions import Variables
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.typeddata import NULL, Int32, Int64, UInt32, UInt64, Value

__version__ = "0.1.0"

__all__ = [
    "NULL",
    "Handlers",
    "IHandlers",
    "IObserver",
    "Int32",
    "Int64",
    "Message",
    "SPOAFactory",
    "SPOAProtocol",
    "SPOAService",
    "SPOEClient",
    "UInt32",
    "UInt64",
    "Value",
    "Variables",
    "__version__",
]
