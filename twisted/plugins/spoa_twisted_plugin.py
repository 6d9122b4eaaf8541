"""Registers the command ``twistd spoa``, and the reactor ``spoa-epoll``.

Every twistd that finds this file imports it, even for other commands. So it imports only ``ServiceMaker`` and
``Reactor``, which twistd has imported itself, and names our modules as strings: twistd imports ``spoa_twisted.tap``
when the command is ``spoa``, and ``spoa_twisted.epollreactor`` for ``--reactor=spoa-epoll``.
"""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

spoa = ServiceMaker(
    "spoa_twisted",
    "spoa_twisted.tap",
    "An agent for HAProxy's SPOE that answers with your handlers.",
    "spoa",
)

epoll = Reactor("spoa-epoll", "spoa_twisted.epollreactor", "epoll(4) based reactor that takes less CPU for each event.")
