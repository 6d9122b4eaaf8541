"""Load an agent: keep a constant number of NOTIFYs in flight on each connection, and check every ACK.

The load must use less CPU than the agents that it measures. These are the measures:

- :mod:`ring` encodes the frames of the NOTIFYs once. It has many more ids than there are NOTIFYs in flight, so that a
  repeated ACK finds its NOTIFY answered, not sent again.
- :mod:`connection` looks up an ACK as a whole frame, with its ids, among the ACKs that were found good before. Only a
  new frame is decoded.
- :mod:`connection` writes all NOTIFYs that replace the ones answered in one read with one write.

:class:`local.Load` runs in this process. :class:`processes.RemoteLoad` runs a ``local.Load`` in a worker process.
"""
