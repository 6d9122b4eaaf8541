"""Real HAProxy binaries, one of each branch found, against the agent."""
