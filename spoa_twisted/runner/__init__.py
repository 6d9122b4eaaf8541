"""The parts of ``twistd spoa`` that an application with a process of its own does not need.

``loading`` imports the handlers that the user names, ``process`` prepares the process, ``stalls`` reports standstills
of the process, and ``errors`` has the error of an agent that cannot start.
"""
