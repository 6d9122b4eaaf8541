"""Load an agent: keep a constant number of NOTIFYs in flight on each connection, and check every ACK.

:class:`local.Load` runs in this process. :class:`processes.RemoteLoad` runs a ``local.Load`` in a worker process. Both
take a :class:`plan.Plan`, and return a :class:`plan.Outcome`.

The load must use less CPU than the agents that it measures. It saves CPU in three ways:

- :mod:`ring` encodes the frames of the NOTIFYs only once, and each connection sends them again and again. The ring has
  many more ids than NOTIFYs in flight. So if the agent repeats an ACK, its NOTIFY was not yet sent again, and
  :mod:`in_flight` detects the repetition.
- :mod:`connection` compares each ACK, as a whole frame, with the ACKs that were already found good. It decodes only a
  frame that is new.
- After each read, :mod:`connection` sends one NOTIFY for each ACK of this read, all in one write.
"""
