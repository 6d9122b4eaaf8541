"""A link between two hosts that delays each packet and loses some: a program that carries packets between TUN devices.

Started on a host with the names of two devices, it makes both there, and prints ``ready``. The caller moves one of them
to the other host. The kernel could do the same with netem, but not each kernel has it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from collections import deque
from contextlib import suppress
from random import Random
from select import select
from time import monotonic

from tests.haproxy.hosts import MTU, TUN

#: Seconds that each packet takes, in each direction.
DELAY = 0.005

#: The share of the packets that are lost.
LOSS = 0.01

#: With the same seed, the same packets are lost in each run, counted from the first one.
SEED = 1

#: What the program prints for each lost packet.
LOST = "lost a packet\n"

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000


def make_device(name: str) -> int:
    """Make a device on this host, and return its descriptor: a read takes one IP packet, a write gives one."""
    device = os.open(TUN, os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def main() -> None:
    near, far = [make_device(name) for name in sys.argv[1:]]
    other = {near: far, far: near}
    random = Random(SEED)
    # The packets on their way: when each of them arrives, and at which device.
    packets: deque[tuple[float, int, bytes]] = deque()
    sys.stdout.write("ready\n")
    while True:
        wait = max(0.0, packets[0][0] - monotonic()) if packets else None
        readable, _, _ = select([near, far], [], [], wait)
        for device in readable:
            packet = os.read(device, MTU)
            if random.random() < LOSS:
                sys.stdout.write(LOST)
            else:
                packets.append((monotonic() + DELAY, other[device], packet))
        while packets and packets[0][0] <= monotonic():
            _, device, packet = packets.popleft()
            # A device that is down takes no packet.
            with suppress(OSError):
                os.write(device, packet)


if __name__ == "__main__":
    main()
