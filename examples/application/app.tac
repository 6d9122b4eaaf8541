"""The parts of the application. Run it with: PYTHONPATH=. twistd -n -y app.tac"""

import os

from twisted.application.service import Application

from app import SiteService, administration, blocklist, handlers, website
from spoa_twisted import SPOAFactory, SPOAService

AGENT = os.environ.get("AGENT") or "tcp:12345:interface=127.0.0.1"
WEBSITE = os.environ.get("WEBSITE") or "tcp:8081:interface=127.0.0.1"
ADMIN = os.environ.get("ADMIN") or "tcp:8404:interface=127.0.0.1"

agent = SPOAService(SPOAFactory(handlers), AGENT)
try:
    admin = administration(blocklist, agent, os.environ.get("ADMIN_TOKEN", ""))
except ValueError as error:
    # One line, and exit status 1.
    raise SystemExit(f"app.tac: {error}") from None

application = Application("app")
agent.setServiceParent(application)
SiteService(website(), WEBSITE, agent).setServiceParent(application)
SiteService(admin, ADMIN, agent).setServiceParent(application)
