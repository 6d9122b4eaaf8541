"""Makes ``twistd spoa`` known. Every twistd on the machine imports this file, so it imports next to nothing."""

from twisted.application.service import ServiceMaker

spoa = ServiceMaker(
    "spoa_twisted",
    "spoa_twisted.tap",
    "An agent for HAProxy's SPOE that answers with your handlers.",
    "spoa",
)
