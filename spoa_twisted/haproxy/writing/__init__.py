"""HAProxy's configuration, written from what the handlers declare. :mod:`spoa_twisted.ctl.config` prints it.

::

    plan         which messages an engine has, when HAProxy sends them, and what HAProxy cannot do
    addresses    addresses of agents, as HAProxy and Twisted read them
    words        words and times as a configuration file needs them
    spoe_conf    a plan as the text of spoe.conf
    haproxy_cfg  a plan as lines for haproxy.cfg, or as a whole haproxy.cfg
    advice       an example of what a handler without declarations should declare
"""
