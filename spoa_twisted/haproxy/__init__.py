"""HAProxy's side: reading its configuration, checking it, and writing the part that an agent needs.

:mod:`grammar` reads files without loss. :mod:`configuration` has what an agent and HAProxy do with these files:
engines, messages, proxies, rules and variables. :mod:`checks` finds what HAProxy accepts and what does not work.
:mod:`answers` has the handlers as checks and :mod:`writing` see them; :mod:`writing` writes a configuration for them.
"""
