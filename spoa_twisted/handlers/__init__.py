"""Who answers a message, and what came of it.

The way of a NOTIFY's messages through this package::

    registry.Handlers -> handler.Handler -> binding.Binding -> the user's function -> coroutines, threads
                      -> outcome.Outcomes -> the actions of each message -> exchange.Exchange, when one has to wait
"""
