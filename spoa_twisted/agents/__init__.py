"""Ready-made agents: they run without any Python of the user, with settings from a TOML file.

``settings`` reads the file, and says what is wrong with it. Each other module is an agent, or a part of one:
``blocklist`` refuses the addresses of a list, which ``networks`` looks up. ``country`` allows or refuses countries: it
finds them in the databases that ``mmdb`` reads. ``dnsbl`` asks DNS block lists: ``block_lists`` keeps their answers,
and ``resolver`` sends the queries.
"""
