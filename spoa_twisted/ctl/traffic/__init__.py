"""Frames that other programs exchange: cut out of a stream, decoded without a connection, checked, shown.

:mod:`cutter` cuts frames out of a stream, :mod:`frame` decodes one frame of either side, :mod:`rules` checks a frame by
itself, and :mod:`conversation` checks it against the frames before it. :mod:`show` prints the result.
"""
