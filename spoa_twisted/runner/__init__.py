"""The parts of ``twistd spoa`` around ``SPOAService``: it loads the handlers, and prepares the process."""
