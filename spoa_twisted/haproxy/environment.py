"""The environment variables that a configuration sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from spoa_twisted.haproxy.grammar.sections import Section

_TCP = "%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq"
_HTTP = "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %hr %hs %{+Q}r"
_HTTPS = (
    f"{_HTTP} %[fc_err]/%[ssl_fc_err,hex]/%[ssl_c_err]/%[ssl_c_ca_err]/%[ssl_fc_is_resumed] %[ssl_fc_sni]/%sslv/%sslc"
)


def with_own_variables(
    environment: Mapping[str, str], version: tuple[int, int], files: Iterable[str]
) -> dict[str, str]:
    """Return ``environment`` with the variables that HAProxy sets before it reads its configuration."""
    own = {"HAPROXY_LOCALPEER": "localhost", "HAPROXY_CFGFILES": ";".join(files)}
    if version >= (2, 7):
        own |= {"HAPROXY_BRANCH": f"{version[0]}.{version[1]}"}
        own |= {"HAPROXY_TCP_LOG_FMT": _TCP, "HAPROXY_HTTP_LOG_FMT": _HTTP, "HAPROXY_HTTPS_LOG_FMT": _HTTPS}
    return {**own, **environment}


def with_setenv(environment: Mapping[str, str], sections: Iterable[Section]) -> dict[str, str]:
    """Return ``environment`` as the lines ``setenv``, ``presetenv`` and ``unsetenv`` of ``global`` sections leave it.

    HAProxy changes the variables at the line; here they change for the whole configuration, because a variable is set
    before it is used.
    """
    result = dict(environment)
    for setting in (setting for section in sections if section.kind == "global" for setting in section.settings):
        match setting.texts:
            case ("setenv", name, value):
                result[name] = value
            case ("presetenv", name, value):
                result.setdefault(name, value)
            case ("unsetenv", *names):
                for name in names:
                    result.pop(name, None)
    return result
