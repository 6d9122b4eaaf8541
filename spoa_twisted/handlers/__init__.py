"""From the messages of a NOTIFY to the actions of its ACK: this package calls the functions that users register.

The messages pass through these modules::

    registry     Handlers registers the handlers
    handler      Handler is a user's function with its options
    plain        finds functions that surely return no Deferred, so that a timeout has no effect
    calling      Responder finds the handler of each message by its name, and calls the function
    binding      passes the arguments of the message to the parameters of the function
    hold_ups     reports a handler that keeps the reactor's thread for long
    coroutines   runs a handler that is a coroutine
    threads      runs a handler that is registered with blocking=True
    outcome      encodes what the handler returned, or its on_error, and reports failures to the observers
    pending_call waits for a handler that has not finished
    exchange     waits for all handlers of a NOTIFY with several messages
    deadlines    the timeouts of these handlers
    pending      the answer to a NOTIFY that comes later, of these handlers or of an application's own

When a handler is registered, ``declaring`` checks what it declares for HAProxy's configuration, which ``declaration``
keeps, with the types of variables in ``variable_types``. No message passes through these.

Besides, ``lifecycle`` runs the functions that are registered with ``startup``, ``shutdown`` and ``every``, and
``names`` finds the names of messages that are similar to an unknown one.

:mod:`interfaces` has ``IHandlers`` and ``ILifeCycle``, the interfaces that the rest of the package calls.
"""
