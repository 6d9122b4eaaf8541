"""Configurations as users of other agents write them: web firewalls, reputation, sign-on, geography and mirrors.

They are correct, and use what the good configuration of the tests does not: several frontends and engines, groups, Lua,
named ACLs, variables of rules. ``haproxy -c`` accepts them.
"""

from __future__ import annotations

from typing import Final

from .configurations import Files

_HEAD = """\
global
    default-path config
    log stderr format raw local0 info

defaults
    log global
    mode http
    option httplog
    timeout connect 5s
    timeout client 30s
    timeout server 30s

"""


def _agents(name: str, server: str = "127.0.0.1:12345") -> str:
    return f"""
backend app
    server app1 127.0.0.1:8000

backend {name}
    mode tcp
    option spop-check
    timeout server 3m
    server agent1 {server} check
"""


#: An agent of a web application firewall in C: a number says whether to block, and is negative on the agent's errors.
FIREWALL = Files(
    """\
[firewall]
spoe-agent firewall-agent
    messages check-request
    option var-prefix waf
    timeout hello 100ms
    timeout idle 30s
    timeout processing 1s
    option set-on-error error
    use-backend firewall-spoa

spoe-message check-request
    args unique-id method path query req.ver req.hdrs_bin req.body_size req.body
    event on-frontend-http-request
""",
    _HEAD
    + """\
frontend web
    bind 127.0.0.1:8080
    unique-id-format %{+X}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
    option http-buffer-request
    filter spoe engine firewall config spoe.conf
    http-request deny deny_status 503 if { var(txn.waf.error) -m found }
    http-request deny if { var(txn.waf.code) -m int gt 0 }
    default_backend app
"""
    + _agents("firewall-spoa"),
)

#: An agent of a rule set in Go, with requests and responses. The rules differ by the text of an action.
RULE_SET = Files(
    """\
[ruleset]
spoe-agent ruleset-agent
    messages ruleset-req
    groups ruleset-res
    option var-prefix ruleset
    option set-on-error error
    timeout hello 2s
    timeout idle 2m
    timeout processing 500ms
    use-backend ruleset-spoa
    log global

spoe-message ruleset-req
    args app=str(sample_app) src-ip=src src-port=src_port dst-ip=dst dst-port=dst_port method=method path=path
    args query=query version=req.ver headers=req.hdrs body=req.body
    event on-frontend-http-request

spoe-message ruleset-res
    args app=str(sample_app) id=var(txn.ruleset.id) version=res.ver status=status headers=res.hdrs body=res.body
    event on-http-response

spoe-group ruleset-res
    messages ruleset-res
""",
    _HEAD
    + """\
frontend web
    bind 127.0.0.1:8080
    unique-id-format %[uuid()]
    unique-id-header X-Unique-ID
    log-format "%ci:%cp [%t] %ft %b/%s %ST rule-set:%[var(txn.ruleset.action)] error:%[var(txn.ruleset.error)]"
    filter spoe engine ruleset config spoe.conf
    option http-buffer-request

    http-request redirect code 302 location %[var(txn.ruleset.data)] if { var(txn.ruleset.action) -m str redirect }
    http-response redirect code 302 location %[var(txn.ruleset.data)] if { var(txn.ruleset.action) -m str redirect }
    acl blocked var(txn.ruleset.action) -m str deny
    http-request deny deny_status 403 hdr waf-block request if blocked
    http-response wait-for-body time 5s
    http-response send-spoe-group ruleset ruleset-res
    http-response deny deny_status 403 hdr waf-block response if blocked
    http-request silent-drop if { var(txn.ruleset.action) -m str drop }
    http-response silent-drop if { var(txn.ruleset.action) -m str drop }
    http-request deny deny_status 500 if { var(txn.ruleset.error) -m int gt 0 }
    http-response deny deny_status 500 if { var(txn.ruleset.error) -m int gt 0 }
    default_backend app
"""
    + _agents("ruleset-spoa", "127.0.0.1:9000"),
)

#: A bouncer of addresses, whose Lua script shows a ban page or a captcha. Without an answer, requests pass on purpose.
BOUNCER = Files(
    """\
[bouncer]
spoe-agent bouncer-agent
    messages bouncer-tcp bouncer-http
    option var-prefix bouncer
    option set-on-error error
    timeout hello 100ms
    timeout idle 30s
    timeout processing 500ms
    use-backend bouncer-spoa
    log global

spoe-message bouncer-tcp
    args id=unique-id src-ip=src src-port=src_port
    event on-client-session

spoe-message bouncer-http
    args remediation=var(sess.bouncer.remediation) cookie=req.cook(bouncer_captcha) id=unique-id
    args host=hdr(Host) method=method path=path
    event on-frontend-http-request if { var(sess.bouncer.remediation) -m found }
""",
    _HEAD.replace("\ndefaults", "    lua-prepend-path /usr/lib/bouncer/lua/?.lua\n\ndefaults")
    + """\
frontend web
    bind 127.0.0.1:8080
    unique-id-format %[uuid()]
    filter spoe engine bouncer config spoe.conf
    http-request set-header X-Bouncer-IsoCode %[var(txn.bouncer.isocode)] if { var(txn.bouncer.isocode) -m found }
    acl is_allowed var(txn.bouncer.remediation) -m str allow
    http-request redirect location %[var(txn.bouncer.url)] if is_allowed { var(txn.bouncer.url) -m found }
    http-request deny if { var(sess.bouncer.remediation) -m str ban }
    http-after-response set-header Set-Cookie %[var(txn.bouncer.cookie)] if { var(txn.bouncer.cookie) -m found }
    default_backend app
"""
    + _agents("bouncer-spoa"),
)

#: Sign-on: who is not known is redirected.
SIGN_ON = Files(
    """\
[sso]
spoe-agent auth-agents
    messages try-auth-ldap try-auth-oidc
    option var-prefix auth
    timeout hello 2s
    timeout idle 2m
    timeout processing 1s
    use-backend auth-spoa
    log global

spoe-message try-auth-ldap
    args authorization=req.hdr(Authorization)
    event on-frontend-http-request if { hdr_beg(host) -i ldap. }

spoe-message try-auth-oidc
    args arg_ssl=ssl_fc arg_host=req.hdr(Host) arg_pathq=pathq arg_client_id=str(app) arg_cookie=req.cook(authsession)
    event on-frontend-http-request if { hdr_beg(host) -i app. }
""",
    _HEAD
    + """\
frontend web
    bind 127.0.0.1:8080
    filter spoe engine sso config spoe.conf
    acl acl_ldap hdr_beg(host) -i ldap.
    acl acl_app hdr_beg(host) -i app.
    acl authenticated var(sess.auth.is_authenticated) -m bool
    http-request del-header X-Authorized-User
    http-request auth realm app if acl_ldap !authenticated
    http-request redirect location %[var(req.auth.redirect_url)] if acl_app !authenticated
    http-request set-header X-Authorized-User %[var(sess.auth.user)] if acl_app authenticated
    default_backend app
"""
    + _agents("auth-spoa"),
)

#: The decision of a subrequest, which a rule for a path asks for by a group.
SUBREQUEST = Files(
    """\
[subrequest]
spoe-agent subrequest-agent
    groups check
    option var-prefix authz
    option set-on-error failed
    timeout hello 500ms
    timeout idle 1m
    timeout processing 3s
    use-backend authz-spoa

spoe-group check
    messages authorize

spoe-message authorize
    args method=method url=url cookies=req.hdr(cookie) authorization=req.hdr(authorization) client=src
""",
    _HEAD
    + """\
frontend web
    bind 127.0.0.1:8080
    filter spoe engine subrequest config spoe.conf
    acl is_public path_beg /public /assets
    http-request send-spoe-group subrequest check unless is_public
    http-request deny deny_status 502 if !is_public { var(txn.authz.failed) -m found }
    http-request deny deny_status 401 if !is_public ! { var(txn.authz.allowed) -m bool }
    http-request set-header X-Remote-User %[var(txn.authz.user)] if !is_public
    default_backend app
"""
    + _agents("authz-spoa"),
)

#: Where a client is: nothing is refused, and the log shows the country.
GEOGRAPHY = Files(
    """\
[geo]
spoe-agent geo
    messages lookup
    option set-on-error err
    timeout hello 1s
    timeout idle 5m
    timeout processing 20ms
    use-backend geo-spoa

spoe-message lookup
    args ip=src
    event on-client-session if ! { src 10.0.0.0/8 192.168.0.0/16 }
""",
    _HEAD
    + """\
frontend web
    bind 127.0.0.1:8080
    filter spoe engine geo config spoe.conf
    log-format "%ci [%tr] %ST %{+Q}r country=%[var(sess.geo.country)]"
    http-request set-header X-Country %[var(sess.geo.country)]
    use_backend app-eu if { var(sess.geo.continent) -m str EU }
    default_backend app

backend app-eu
    server app1 127.0.0.1:8001
"""
    + _agents("geo-spoa"),
)

#: A mirror sets no variable.
MIRROR = Files(
    """\
[mirror]
spoe-agent mirror
    log global
    messages mirror
    use-backend mirrors
    timeout hello 500ms
    timeout idle 30s
    timeout processing 5s

spoe-message mirror
    args arg_method=method arg_path=url arg_ver=req.ver arg_hdrs=req.hdrs_bin arg_body=req.body
    event on-frontend-http-request
""",
    _HEAD
    + """\
frontend web
    bind 127.0.0.1:8080
    option http-buffer-request
    filter spoe engine mirror config spoe.conf
    default_backend app
"""
    + _agents("mirrors"),
)

#: The reputation of an address in TCP and HTTP frontends, with one prefix for two engines.
REPUTATION = Files(
    """\
[ip-http]
spoe-agent ip-http
    messages http-client
    option var-prefix iprep
    option set-on-error error
    timeout hello 2s
    timeout idle 2m
    timeout processing 100ms
    use-backend iprep-servers

spoe-message http-client
    args ip=hdr_ip(X-Forwarded-For,-1) ua=req.fhdr(user-agent)
    event on-frontend-http-request

[ip-tcp]
spoe-agent ip-tcp
    messages tcp-client
    option var-prefix iprep
    option set-on-error error
    timeout hello 2s
    timeout idle 2m
    timeout processing 100ms
    use-backend iprep-servers

spoe-message tcp-client
    args ip=src
    event on-client-session
""",
    _HEAD
    + """\
frontend web
    bind 127.0.0.1:8080
    filter spoe engine ip-http config spoe.conf
    acl unknown var(txn.iprep.error) -m found
    acl bad var(sess.iprep.ip_score) -m int lt 20
    http-request set-var(txn.score) var(sess.iprep.ip_score)
    http-request capture var(txn.score) len 4
    http-request tarpit if bad or unknown
    default_backend app

frontend smtp
    mode tcp
    bind 127.0.0.1:2525
    filter spoe engine ip-tcp config spoe.conf
    tcp-request content reject if { var(sess.iprep.ip_score) -m int lt 20 }
    tcp-request content reject if { var(txn.iprep.error) -m found }
    default_backend mail

frontend plain
    bind 127.0.0.1:8081
    http-request redirect scheme https

backend mail
    mode tcp
    server mail1 127.0.0.1:26
"""
    + _agents("iprep-servers"),
)

#: Tokens: an allow list of rules, with all the rest denied.
TOKENS = Files(
    """\
[tokens]
spoe-agent tokens
    messages verify
    option var-prefix jwt
    option set-process-time ptime
    option set-total-time ttime
    timeout hello 1s
    timeout idle 1m
    timeout processing 250ms
    use-backend tokens-spoa

spoe-message verify
    acl has_token req.hdr(authorization) -m beg Bearer
    args token=req.hdr(authorization),word(2,\\ ) path=path
    event on-backend-http-request if has_token
""",
    _HEAD
    + """\
frontend web
    bind 127.0.0.1:8080
    http-request del-header X-Sub
    log-format "%ci %ST sub=%[var(txn.jwt.sub)] verify=%[var(txn.jwt.ptime)]/%[var(txn.jwt.ttime)]ms"
    default_backend api

backend api
    filter spoe engine tokens config spoe.conf
    http-request set-header X-Sub %[var(txn.jwt.sub)] if { var(txn.jwt.sub) -m found }
    http-request allow if { var(txn.jwt.valid) -m bool }
    http-request allow if { path /health }
    http-request deny deny_status 401
    http-response set-header X-Verified-By %[var(txn.jwt.issuer)] if { var(txn.jwt.issuer) -m found }
    server api1 127.0.0.1:8001
"""
    + _agents("tokens-spoa"),
)

#: A score of robots, which rules keep in variables and tables of their own.
ROBOTS = Files(
    """\
[robots]
spoe-agent robots-agent
    groups ask
    option var-prefix robots
    option set-on-error error
    timeout hello 1s
    timeout idle 1m
    timeout processing 300ms
    use-backend robots-spoa
    log global

spoe-group ask
    messages score

spoe-message score
    args ip=src ua=req.hdr(user-agent) path=path known=var(sess.robots.token)
""",
    _HEAD
    + """\
frontend web
    bind 127.0.0.1:8080
    filter compression
    filter spoe engine robots config spoe.conf
    acl static path_end .css .js .png
    acl trusted src 10.0.0.0/8
    http-request set-var(txn.limit) int(80)
    http-request send-spoe-group robots ask unless static or trusted
    http-request set-var(txn.block) bool(true) if { var(txn.robots.score),sub(txn.limit) -m int gt 0 }
    http-request set-var(txn.block) bool(true) if !static !trusted { var(txn.robots.error) -m found }
    http-request deny deny_status 429 if { var(txn.block) -m bool }
    http-response set-header Set-Cookie "token=%[var(sess.robots.token)]; Path=/" if { var(sess.robots.token) -m found }
    default_backend app
"""
    + _agents("robots-spoa"),
)

#: Rules in named defaults, which two kinds of proxies do not have in common.
NAMED_DEFAULTS = Files(
    """\
[dr]
spoe-agent dr-agent
    messages m
    option var-prefix dr
    option set-on-error error
    timeout hello 100ms
    timeout idle 30s
    timeout processing 500ms
    use-backend dr-be
    log global

spoe-message m
    args ip=src
    event on-frontend-http-request
""",
    """\
global
    log stderr format raw local0 info

defaults secure
    log global
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    http-request deny deny_status 503 if { var(txn.dr.error) -m found }
    http-request deny if { var(txn.dr.bad) -m bool }
    http-response set-header X-Frame-Options DENY

defaults plain
    log global
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s

frontend f from secure
    bind 127.0.0.1:80
    filter spoe engine dr config spoe.conf
    default_backend app

backend app from plain
    server app1 127.0.0.1:8000

backend dr-be from plain
    mode tcp
    option spop-check
    timeout server 3m
    server a1 127.0.0.1:12345 check
""",
)

#: Two engines with one prefix: the second one sends what the first one has set.
SHARED_PREFIX = Files(
    """\
[one]
spoe-agent one-agent
    messages m
    option var-prefix sec
    option set-on-error error
    timeout hello 100ms
    timeout idle 30s
    timeout processing 500ms
    use-backend sec-be
    log global

spoe-message m
    args ip=src
    event on-client-session

[two]
spoe-agent two-agent
    messages m2
    option var-prefix sec
    option set-on-error error
    timeout hello 100ms
    timeout idle 30s
    timeout processing 500ms
    use-backend sec-be
    log global

spoe-message m2
    args ip=src score=var(sess.sec.score) path=path
    event on-frontend-http-request
""",
    """\
global
    log stderr format raw local0 info

defaults
    log global
    mode http
    option httplog
    timeout connect 5s
    timeout client 30s
    timeout server 30s

frontend a
    bind 127.0.0.1:8080
    filter spoe engine one config spoe.conf
    filter spoe engine two config spoe.conf
    http-request deny deny_status 503 if { var(txn.sec.error) -m found }
    http-request deny if { var(sess.sec.score) -m int ge 50 } or { var(txn.sec.score) -m int ge 50 }
    default_backend app

backend app
    server app1 127.0.0.1:8000

backend sec-be
.if version_atleast(3.1)
    mode spop
.else
    mode tcp
.endif
    option spop-check
    timeout server 3m
    server a1 127.0.0.1:12345 check
""",
)

#: A group for the server name of a TLS connection, in mode tcp.
SERVER_NAMES = Files(
    """\
[sni]
spoe-agent sni-agent
    groups g
    option var-prefix sni
    option set-on-error error
    timeout hello 100ms
    timeout idle 30s
    timeout processing 500ms
    use-backend sni-be
    log global

spoe-group g
    messages m
spoe-message m
    args sni=req.ssl_sni ip=src
""",
    """\
global
    log stderr format raw local0 info

defaults
    log global
    mode http
    option httplog
    timeout connect 5s
    timeout client 30s
    timeout server 30s

frontend t
    mode tcp
    option tcplog
    bind 127.0.0.1:8443
    filter spoe engine sni config spoe.conf
    tcp-request inspect-delay 5s
    tcp-request content send-spoe-group sni g if { req.ssl_hello_type 1 }
    tcp-request content reject if { var(txn.sni.error) -m found }
    tcp-request content reject if { var(txn.sni.deny) -m bool }
    tcp-request content accept if { req.ssl_hello_type 1 }
    use_backend %[var(txn.sni.backend)] if { var(txn.sni.backend) -m found }
    default_backend ssh

backend ssh
    mode tcp
    server s 127.0.0.1:22

backend sni-be
.if version_atleast(3.1)
    mode spop
.else
    mode tcp
.endif
    option spop-check
    timeout server 3m
    server a1 127.0.0.1:12345 check
""",
)

#: A second group, with the body, for requests that the answer to the first one makes suspect.
SECOND_LOOK = Files(
    """\
[ch1]
spoe-agent ch1-agent
    groups g1 g2
    option var-prefix ch1
    option set-on-error error
    timeout hello 100ms
    timeout idle 30s
    timeout processing 500ms
    use-backend ch1-be
    log global

spoe-group g1
    messages m
spoe-group g2
    messages n
spoe-message m
    args ip=src
spoe-message n
    args cls=var(txn.ch1.cls) body=req.body
""",
    """\
global
    log stderr format raw local0 info

defaults
    log global
    mode http
    option httplog
    timeout connect 5s
    timeout client 30s
    timeout server 30s

frontend f
    bind 127.0.0.1:80
    filter spoe engine ch1 config spoe.conf
    http-request send-spoe-group ch1 g1
    http-request wait-for-body time 1s if { var(txn.ch1.cls) -m str suspect }
    http-request send-spoe-group ch1 g2 if { var(txn.ch1.cls) -m str suspect }
    http-request deny deny_status 503 if { var(txn.ch1.error) -m found }
    http-request deny if { var(txn.ch1.bad) -m bool }
    default_backend app

backend app
    server app1 127.0.0.1:8000

backend ch1-be
.if version_atleast(3.1)
    mode spop
.else
    mode tcp
.endif
    option spop-check
    timeout server 3m
    server a1 127.0.0.1:12345 check
""",
)

#: A variable of the rules keeps the decision, also for the agent's failure.
OWN_DECISION = Files(
    """\
[fv]
spoe-agent fv-agent
    messages m
    option var-prefix fv
    option set-on-error error
    timeout hello 100ms
    timeout idle 30s
    timeout processing 500ms
    use-backend fv-be
    log global

spoe-message m
    args ip=src
    event on-frontend-http-request
""",
    """\
global
    log stderr format raw local0 info

defaults
    log global
    mode http
    option httplog
    timeout connect 5s
    timeout client 30s
    timeout server 30s

frontend f
    bind 127.0.0.1:80
    filter spoe engine fv config spoe.conf
    http-request set-var(txn.verdict) str(allow)
    http-request set-var(txn.verdict) str(deny) if { var(txn.fv.verdict) -m str deny }
    http-request set-var(txn.verdict) str(error) if { var(txn.fv.error) -m found }
    http-request deny if { var(txn.verdict) -m str deny error }
    default_backend app

backend app
    server app1 127.0.0.1:8000

backend fv-be
.if version_atleast(3.1)
    mode spop
.else
    mode tcp
.endif
    option spop-check
    timeout server 3m
    server a1 127.0.0.1:12345 check
""",
)

#: Requests pass when the agent fails, because a rule says so.
OPEN_BY_CHOICE = Files(
    """\
[x]
spoe-agent x-agent
    messages m
    option var-prefix x
    option set-on-error error
    timeout hello 100ms
    timeout idle 30s
    timeout processing 500ms
    use-backend x-be
    log global

spoe-message m
    args ip=src
    event on-frontend-http-request unless { path_beg /static }
""",
    """\
global
    log stderr format raw local0 info

defaults
    log global
    mode http
    option httplog
    timeout connect 5s
    timeout client 30s
    timeout server 30s

frontend f
    bind 127.0.0.1:80
    filter spoe engine x config spoe.conf
    http-request set-header X-Waf-Failed 1 if { var(txn.x.error) -m found }
    http-request allow if { var(txn.x.error) -m found }
    http-request deny if { var(txn.x.bad) -m bool }
    default_backend app

backend app
    server app1 127.0.0.1:8000

backend x-be
.if version_atleast(3.1)
    mode spop
.else
    mode tcp
.endif
    option spop-check
    timeout server 3m
    server a1 127.0.0.1:12345 check
""",
)

ALL: Final = {
    "firewall": FIREWALL,
    "rule-set": RULE_SET,
    "bouncer": BOUNCER,
    "sign-on": SIGN_ON,
    "subrequest": SUBREQUEST,
    "geography": GEOGRAPHY,
    "mirror": MIRROR,
    "reputation": REPUTATION,
    "tokens": TOKENS,
    "robots": ROBOTS,
    "named-defaults": NAMED_DEFAULTS,
    "shared-prefix": SHARED_PREFIX,
    "server-names": SERVER_NAMES,
    "second-look": SECOND_LOOK,
    "own-decision": OWN_DECISION,
    "open-by-choice": OPEN_BY_CHOICE,
}
