"""What ``twistd spoa`` needs around ``SPOAService``: it loads the handlers, and prepares the process."""
