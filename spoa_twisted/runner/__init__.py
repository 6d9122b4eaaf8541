"""The parts of ``twistd spoa`` that an application with a process of its own does not need.

``loading`` imports the handlers that the user names, ``meant`` finds the module that the user may have meant,
``process`` prepares the process, ``stalls`` reports standstills of the process, ``systemd`` notifies the supervisor,
``check`` shows what an agent would serve, ``exit_status`` ends the process with a failure, and ``errors`` has the error
of an agent that cannot start.
"""
