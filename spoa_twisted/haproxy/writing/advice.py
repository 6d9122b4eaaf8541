"""What handlers should declare: an example made from the parameters and the source, and what to set on failure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from spoa_twisted.handlers.declaring import ERROR_VARIABLE
from spoa_twisted.handlers.variable_types import show_type
from spoa_twisted.haproxy.answers import Answer, Answers
from spoa_twisted.haproxy.grammar.samples import parse_expression
from spoa_twisted.haproxy.headers import may_have_commas, whole_header
from spoa_twisted.haproxy.writing.plan import Plan, is_complete

#: The sample expression that a parameter probably needs, by a part of its name. The first one counts.
_LIKELY: Final = {
    "body_size": "req.body_size",
    "size": "req.body_size",
    "body": "req.body",
    "agent": "req.fhdr(user-agent)",
    "forwarded": "req.fhdr(x-forwarded-for)",
    "token": "req.hdr(x-token)",
    "host": "req.hdr(host)",
    "cookie": "req.fhdr(cookie)",
    "headers": "req.hdrs",
    "content_type": "req.hdr(content-type)",
    "sni": "ssl_fc_sni",
    "port": "src_port",
    "method": "method",
    "path": "path",
    "query": "query",
    "url": "url",
    "status": "status",
    "unique": "unique-id",
    "ip": "src",
    "addr": "src",
    "client": "src",
    "src": "src",
}

_EVENT: Final = "on-frontend-http-request"


def advice(answers: Answers) -> str:
    """Return what to add to the handlers that do not declare enough. It is empty if all do."""
    texts = [_advice(answer) for answer in answers.by_message.values() if not is_complete(answer)]
    if answers.default is not None:
        texts.append(
            f"the default handler {answers.default.function} answers messages whose names are not known here, so they"
            ' are not written: register a handler with @handlers.message("name", ...) for each of them\n'
        )
    return "\n".join(texts)


def on_failure(answers: Answers) -> str:
    """Return what to add to the handlers that set nothing when they fail. It is empty if there are none.

    The agent answers for such a handler without an error, so HAProxy's rule for failures does not refuse the request.
    """
    silent = [repr(answer.message) for answer in answers.by_message.values() if not answer.on_error]
    if not silent:
        return ""
    return (
        f"if the handler of {' or '.join(silent)} fails, it sets nothing, and the request passes. To refuse the"
        f' request, add on_error={{"{ERROR_VARIABLE}": "handler"}} to @handlers.message or to Handlers()'
    )


def not_outlasted(plan: Plan) -> str:
    """Return which handlers may take longer than HAProxy waits. It is empty if none may, as without --processing."""
    longer = [
        f"{message.name!r} ({message.answer.timeout:g} s)"
        for message in plan.messages
        if message.answer.timeout * 1000 >= plan.processing
    ]
    if not longer:
        return ""
    return (
        f"HAProxy waits {plan.processing / 1000:g} s, not longer than the timeout of the handler of"
        f" {' and '.join(longer)}: when it takes so long, HAProxy gives up first and ignores its on_error. Use a longer"
        " --processing, or give the handler a shorter timeout"
    )


def parts_of_headers(plan: Plan) -> str:
    """Return which arguments are a part of a header that is no list, and what to write. It is empty if none is."""
    texts = []
    for message in plan.messages:
        for name, text in message.args.items():
            expression = parse_expression(text.strip())
            whole = None if expression is None else whole_header(expression)
            if expression is not None and whole is not None:
                texts.append(
                    f"the argument {name!r} of {message.name!r}: {expression.fetch.name} gives what follows the last"
                    f" comma of the header; write {whole}"
                )
    return "\n".join(texts)


def _advice(answer: Answer) -> str:
    missing = " and ".join(_missing(answer))
    return (
        f"the handler {answer.function} of the message {answer.message!r} does not declare {missing}, so it is not"
        f" written. Add the lines that it lacks, with your values:\n\n{_example(answer)}"
    )


def _missing(answer: Answer) -> Iterator[str]:
    if answer.declaration.args is None:
        yield "its arguments (args)"
    if answer.declaration.when is None:
        yield "when HAProxy asks it (event or rule)"


def _example(answer: Answer) -> str:
    """Return the decorator with all options."""
    declaration = answer.declaration
    args = declaration.args
    if args is None:
        args = {parameter.name: _likely(parameter.name) for parameter in answer.parameters}
    lines = [f"args={_dict({name: _text(expression) for name, expression in args.items()})},"]
    if declaration.rule is not None:
        lines.append(f"rule={_text(declaration.rule)},")
    elif declaration.event is not None:
        lines.append(f"event={_text(declaration.event)},")
    else:
        event = "on-http-response" if any("status" in expression for expression in args.values()) else _EVENT
        lines.append(f"event={_text(event)},")
    sets = answer.sets or {"txn.allowed": bool}
    types = {name: "str" if kind is None else show_type(kind) for name, kind in sets.items()}
    lines.append(f"sets={_dict(types)},")
    options = "".join([f"    {line}\n" for line in lines])
    return f"@handlers.message(\n    {_text(answer.message)},\n{options})\n"


def _likely(parameter: str) -> str:
    for part, expression in _LIKELY.items():
        if part in parameter.lower():
            return expression
    header = parameter.replace("_", "-")
    return f"req.fhdr({header})" if may_have_commas(header) else f"req.hdr({header})"


def _dict(items: dict[str, str]) -> str:
    return "{" + ", ".join([f"{_text(name)}: {value}" for name, value in items.items()]) + "}"


def _text(text: str) -> str:
    """Return ``text`` as Python source, in double quotes if that needs no escapes."""
    return f'"{text}"' if repr(text) == f"'{text}'" and '"' not in text else repr(text)
