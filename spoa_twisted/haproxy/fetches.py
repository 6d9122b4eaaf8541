"""Sample fetches: their types, and where HAProxy accepts them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: The places of a configuration, in the order of the columns that ``haproxy -dKsmp`` prints.
PLACES = (
    "frontend tcp-request connection rule",
    "frontend tcp-request session rule",
    "frontend tcp-request content rule",
    "frontend http-request header rule",
    "frontend http-request body rule",
    "frontend use-backend rule",
    "backend tcp-request content rule",
    "backend http-request header rule",
    "backend http-request body rule",
    "backend use-server, balance or stick-match rule",
    "server source selection",
    "backend tcp-response content rule",
    "backend http-response header rule",
    "backend http-response body rule",
    "backend stick-store rule",
    "frontend tcp-response content rule",
    "frontend http-response header rule",
    "frontend http-response body rule",
    "logs",
    "backend tcp-check rule",
    "configuration parser",
    "CLI parser",
)

#: The place whose fetches HAProxy accepts in the arguments and the condition of a message with this event.
EVENT_PLACES = {
    "on-client-session": "frontend tcp-request connection rule",
    "on-frontend-tcp-request": "frontend tcp-request content rule",
    "on-frontend-http-request": "frontend http-request header rule",
    "on-backend-tcp-request": "backend tcp-request content rule",
    "on-backend-http-request": "backend http-request header rule",
    "on-server-session": "server source selection",
    "on-tcp-response": "backend tcp-response content rule",
    "on-http-response": "backend http-response header rule",
}

#: Common fetches that HAProxy 2.6 to 3.4 accept in the same places. An ``addr`` is listed as ``ipv4`` before 3.0.
_COMMON = {
    "YYYYYYYYYYYYYYYYYYYYYY": "unique-id:str uuid:str date:sint rand:sint var:any str:str int:sint bool:bool bin:bin "
    "ipv4:ipv4 ipv6:ipv6 env:str nbproc:sint hostname:str always_true:bool always_false:bool",
    "YYYYYYYYYYYYYYYYYYYY..": "src:addr dst:addr src_port:sint dst_port:sint src_is_local:bool dst_is_local:bool "
    "fc_src:addr fc_rcvd_proxy:bool fc_http_major:sint",
    "YYYYYYYYYYYYYYYYYYY...": "fe_id:sint fe_name:str so_id:sint so_name:str",
    ".YYYYYYYYYYYYYYYYYY...": "ssl_fc:bool ssl_fc_sni:str ssl_fc_alpn:str ssl_fc_protocol:str ssl_fc_cipher:str "
    "ssl_c_used:bool ssl_c_verify:sint ssl_c_s_dn:str ssl_c_i_dn:str ssl_c_sha1:bin ssl_c_serial:bin ssl_c_der:bin",
    "..YYYYYYYYY...........": "req.hdr:str req.fhdr:str req.hdrs:bin req.hdrs_bin:bin req.hdr_cnt:sint "
    "req.hdr_names:str req.hdr_ip:addr req.hdr_val:sint req.cook:str cook:str base:str path:str pathq:str query:str "
    "url:str url_param:str urlp:str req.body:bin req.body_len:sint req.body_size:sint req.body_param:bin req.len:sint "
    "req.payload:bin req.payload_lv:bin req.ssl_sni:str req.ssl_hello_type:sint http_auth:bool http_auth_user:str",
    "..YYYYYYYYYYYYYYYYY...": "method:meth req.proto_http:bool http_first_req:bool capture.req.hdr:str "
    "capture.req.uri:str capture.req.method:str",
    "..YYYYYYYYYYYYYYYY.Y..": "hdr:str payload:bin",
    "......YYYYYYYYYYYYYY..": "be_id:sint be_name:str",
    "..........YYYYYYYYYY..": "srv_id:sint srv_name:str",
    "...........YYYYYYY.Y..": "res.hdr:str res.fhdr:str res.hdrs:bin res.cook:str res.body:bin res.body_len:sint "
    "res.body_size:sint res.len:sint res.payload:bin",
    "...........YYYYYYYYY..": "status:sint capture.res.hdr:str",
}

#: ACL keywords add these endings to the name of a fetch: ``path_beg`` is ``path`` with another matching method.
_METHODS = re.compile(r"_(?:beg|dir|dom|end|len|reg|sub)(?![a-z_])")
#: Seconds for HAProxy to print its list; it takes a few hundredths of one.
_TIMEOUT = 10
_LINE = re.compile(rf"\[ ((?:[Y.] ){{{len(PLACES)}}})\] ([^\s:(]+)(?:\(.*\))?: (\S+)")


@dataclass(frozen=True)
class Fetch:
    """A sample fetch."""

    name: str
    #: As HAProxy lists it: ``str``, ``bin``, ``bool``, ``sint``, ``addr``, ``ipv4``, ``ipv6``, ``meth`` or ``any``.
    type: str
    #: Those of :data:`PLACES` where HAProxy accepts it.
    places: frozenset[str]

    @property
    def wire_type(self) -> str:
        """The type of an argument with this fetch. ``req.hdrs`` is listed as ``bin``, but HAProxy sends a STRING."""
        return "str" if self.name == "req.hdrs" else self.type


def _fetch(name: str, type_: str, columns: str) -> Fetch:
    places = frozenset(place for place, column in zip(PLACES, columns, strict=True) if column == "Y")
    return Fetch(name, type_, places)


def _common() -> Iterator[Fetch]:
    for columns, entries in _COMMON.items():
        for entry in entries.split():
            name, _, type_ = entry.partition(":")
            yield _fetch(name, type_, columns)


#: The common fetches, by name.
COMMON: Mapping[str, Fetch] = {fetch.name: fetch for fetch in _common()}


def fetches(haproxy: str | None = None) -> Mapping[str, Fetch]:
    """Return fetches by name: all that a HAProxy knows, or :data:`COMMON` without one, or if it does not answer.

    :param haproxy: the path of HAProxy's binary.
    """
    if haproxy is None:
        return COMMON
    try:
        command = [haproxy, "-dKsmp", "-q", "-c", "-f", "/dev/null"]
        answer = subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT)  # noqa: S603 - the user names it
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return COMMON
    return parse_fetches(answer.stdout.decode("utf-8", "replace")) or COMMON


def parse_fetches(text: str) -> dict[str, Fetch]:
    """Return the fetches in the output of ``haproxy -dKsmp``."""
    found = (_fetch(name, type_, columns.replace(" ", "")) for columns, name, type_ in _LINE.findall(text))
    return {fetch.name: fetch for fetch in found}


def find_fetch(name: str, known: Mapping[str, Fetch] = COMMON) -> Fetch | None:
    """Return the fetch of a name, also of an ACL keyword such as ``path_beg``. ``None`` if it is not known."""
    return known.get(name) or known.get(_METHODS.sub("", name))
