"""Registers the command ``twistd spoa``.

Every twistd that finds this file imports it, even for other commands. So it imports only ``ServiceMaker``, and names
the module of the command as a string: twistd imports ``spoa_twisted.tap`` when the command is ``spoa``.
"""

from twisted.application.service import ServiceMaker

spoa = ServiceMaker(
    "spoa_twisted",
    "spoa_twisted.tap",
    "An agent for HAProxy's SPOE that answers with your handlers.",
    "spoa",
)
