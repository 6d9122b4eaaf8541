"""``twistd spoa --workers N``: a master, which accepts connections, and N worker processes, which answer on them.

The master never imports handlers. It hands each connection to a worker, so the path of a NOTIFY does not change.

In the process of the master::

    master         the service: it binds the ports, and starts, reloads and stops the workers
    ports          the ports: they accept connections, and hand them on as sockets
    slots          keeps one worker alive: it starts a new one when the old one has ended
    backoff        how long to wait before the next start
    child          one worker process, as the master sees it
    spawning       the command line and the settings of a worker process
    handing_over   which worker gets the next connection
    reload         SIGHUP: it replaces the workers one after the other
    modified       --reload-on-change: which files have changed
    collecting     the reports of all workers, for the status
    stacks         finds the line at which an ended worker was
    checking       imports the handlers once in a child process, before the master starts

In the process of a worker::

    worker         the main function, and the service of a worker
    lag            how late the timers of the reactor are

In both::

    options        the options of the command line
    control        the commands that the master and a worker send to each other
    binding        the stand-ins for the reactor, with which the endpoints bind a port or take over connections
    logs           the log of a worker, which goes through a pipe into the log of the master
"""
