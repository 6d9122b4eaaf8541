"""The tree is the way of the data: imports go downward only, each room holds one kind of state, classes stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import spoa_twisted

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "spoa_twisted"

# Each module may import only modules above it. A package stands for all of its modules.
ORDER = [
    "compiling",
    "spop.errors",
    "spop.varint",
    "spop.hints",
    "spop.typeddata",
    "spop.messages",
    "spop.actions",
    "spop.frames",
    "spop.unread",
    "spop.reassembly",
    "spop.connection",
    "shown",
    "version",
    "epollreactor",
    "help_text",
    "haproxy.grammar",
    "haproxy.times",
    "haproxy.configuration",
    "haproxy.finding",
    "haproxy.environment",
    "haproxy.files",
    "haproxy.content",
    "haproxy.scopes",
    "haproxy.rules",
    "haproxy.inheritance",
    "haproxy.proxies",
    "haproxy.readings",
    "haproxy.reading",
    "haproxy.order",
    "haproxy.headers",
    "limits",
    "observer",
    "status.report",
    "status.counters",
    "handlers.names",
    "flood",
    "escaping",
    "json_lines",
    "logging",
    "haproxy.explanations",
    "log",
    "status.problems",
    "handlers.errors",
    "handlers.binding",
    "handlers.plain",
    "handlers.declaration",
    "handlers.variable_types",
    "handlers.declaring",
    "handlers.undeclared",
    "handlers.handler",
    "handlers.asyncio_needed",
    "handlers.hold_ups",
    "handlers.coroutines",
    "handlers.tasks",
    "handlers.awaitables",
    "handlers.threads",
    "handlers.deadlines",
    "handlers.outcome",
    "handlers.pending",
    "handlers.pending_call",
    "handlers.exchange",
    "handlers.calling",
    "handlers.interfaces",
    "handlers.lifecycle",
    "handlers.registry",
    "agents.settings",
    "agents.networks",
    "agents.blocklist",
    "agents.mmdb",
    "agents.country",
    "agents.resolver",
    "agents.block_lists",
    "agents.dnsbl",
    "agent.closing",
    "agent.peers",
    "status.recorder",
    "agent.receipt",
    "agent.outbox",
    "agent.in_flight",
    "agent.awaited",
    "agent.next_turn",
    "agent.records",
    "agent.intake",
    "agent.quiet",
    "agent.drain",
    "agent.retirement",
    "agent.pipelining",
    "agent.pacing",
    "agent.engines",
    "agent.lateness",
    "agent.slow",
    "agent.observation",
    "agent.answering",
    "agent.refusal",
    "agent.protocol",
    "status.figures",
    "status.quantiles",
    "status.verdict",
    "status.view",
    "status.page",
    "unix_lock",
    "listening",
    "endpoints",
    "lifespans",
    "readiness",
    "service",
    "status.totals",
    "status.history",
    "status.lag",
    "status.watch",
    "status.merged",
    "status.local",
    "status.metrics",
    "status.rebinding",
    "status.watch_resource",
    "status.site",
    "status.service",
    "runner.stalls",
    "runner.errors",
    "runner.exit_status",
    "runner.systemd",
    "runner.meant",
    "runner.loading",
    "runner.log_format",
    "runner.process",
    "runner.watch",
    "runner.usage",
    "workers.options",
    "workers.backoff",
    "workers.control",
    "workers.watched",
    "workers.binding",
    "workers.stacks",
    "workers.logs",
    "workers.reporting",
    "workers.modified",
    "workers.spawning",
    "workers.checking",
    "workers.ports",
    "workers.handing_over",
    "workers.child",
    "workers.slots",
    "workers.reload",
    "workers.collecting",
    "workers.status",
    "workers.watching",
    "workers.master",
    "runner.changed",
    "runner.status",
    "runner.check",
    "tap",
    "workers.worker",
    "client",
    "strict",
    "testing",
    "haproxy",
    "ctl.values",
    "ctl.variables",
    "ctl.endpoint",
    "ctl.arguments",
    "ctl.http",
    "ctl.files",
    "ctl.traffic",
    "ctl.cpu",
    "ctl.latency",
    "ctl.load",
    "ctl.check",
    "ctl.ping",
    "ctl.send",
    "ctl.bench",
    "ctl.status",
    "ctl.reload",
    "ctl.proxy",
    "ctl.decode",
    "ctl.explain",
    "ctl.watch",
    "ctl.config",
    "ctl.completion",
    "ctl",
]

# Lines of a class, from its "class" to its last one.
LONGEST_CLASS = 300

# A package's __init__.py that only describes the package, and one that gives the public names.
DOCUMENTATION = {"__init__", "spop.__init__", "handlers.__init__", "agent.__init__", "runner.__init__"}
DOCUMENTATION |= {
    "agents.__init__",
    "status.__init__",
    "workers.__init__",
    "haproxy.__init__",
    "haproxy.grammar.__init__",
}
DOCUMENTATION |= {"haproxy.explanations.__init__", "agents.__init__"}

# The folder tests/haproxy is for the agent with real HAProxy.
TESTS = {"haproxy": "haproxy_side"}


def imports_of(path: Path) -> set[str]:
    """Return the modules that the file at ``path`` imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            names.update({node.module} | {f"{node.module}.{alias.name}" for alias in node.names})
    return names


MODULES = {path: ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}


def place_of(module: str) -> int:
    """Return the position in ORDER of a module or of the nearest package around it, and -1 if there is none."""
    while module and module not in ORDER:
        module = module.rpartition(".")[0]
    return ORDER.index(module) if module else -1


def dependencies(path: Path) -> set[str]:
    """Return the modules of this package that the file at ``path`` imports."""
    names = {name.partition(".")[2] for name in imports_of(path) if name.startswith("spoa_twisted.")}
    return {module for module in MODULES.values() if module.removesuffix(".__init__") in names}


@pytest.mark.parametrize("path", MODULES, ids=MODULES.get)
def test_imports_go_downward(path: Path) -> None:
    """A module imports only modules that stand above it in ORDER, and modules of its own package."""
    module = MODULES[path]
    if module in DOCUMENTATION:
        return
    place = place_of(module)
    assert place >= 0, f"{module} has no place in ORDER"
    later = {name for name in dependencies(path) if name not in DOCUMENTATION and place_of(name) > place}
    assert later == set()


def test_every_place_is_taken() -> None:
    """ORDER names no module that does not exist."""
    known = set(MODULES.values()) | {name.removesuffix(".__init__") for name in MODULES.values()}
    assert [name for name in ORDER if name not in known] == []


def test_no_circle_of_imports() -> None:
    """No module imports itself by way of others, not even within one package."""
    imports = {module: dependencies(path) for path, module in MODULES.items()}
    # Modules that import nothing of what is left are taken away, until none is left or all that are left form circles.
    while free := [module for module, names in imports.items() if not names & imports.keys() - {module}]:
        for module in free:
            del imports[module]
    assert imports == {}


def test_no_class_is_long() -> None:
    """A class of more than 300 lines holds more than one kind of state."""
    long = [
        (module, node.name, lines)
        for path, module in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and node.end_lineno is not None
        and (lines := node.end_lineno - node.lineno + 1) > LONGEST_CLASS
    ]
    assert long == []


def test_each_room_has_tests_of_its_name() -> None:
    """Who changes a room finds its tests, and ``noxfile.py`` runs them with each interpreter."""
    noxfile = (ROOT / "noxfile.py").read_text()
    names = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    for room in [TESTS.get(name, name) for name in names]:
        assert list((ROOT / "tests" / room).glob("test_*.py")), room
        assert f'"tests/{room}"' in noxfile, room


def test_documentation_has_no_code() -> None:
    """The ``__init__.py`` of a room holds a docstring only. That of the whole package imports the public names."""
    for path, module in MODULES.items():
        if module in DOCUMENTATION - {"__init__"}:
            (docstring,) = ast.parse(path.read_text()).body
            assert isinstance(docstring, ast.Expr)


def test_the_codec_needs_the_standard_library_only() -> None:
    """Nor does it do I/O."""
    for path in (PACKAGE / "spop").glob("*.py"):
        for name in imports_of(path):
            top = name.partition(".")[0]
            assert top in sys.stdlib_module_names or name.startswith("spoa_twisted.spop")
            assert top not in {"socket", "asyncio", "select", "threading", "time"}


def test_no_conditional_expression_is_a_statement() -> None:
    """PyPy 7.3.19 evaluates both halves of one that ends a block of an ``if``, and dies of one in a loop."""
    for path in (*MODULES, *(ROOT / "examples").rglob("*.py"), *(ROOT / "tests").rglob("*.py")):
        statements = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Expr)]
        assert not [(path, node.lineno) for node in statements if isinstance(node.value, ast.IfExp)]


def test_one_file_writes_to_an_agents_transport() -> None:
    """And one, the client's, to an engine's. (The processes of ``ctl.load`` write to each other.)"""
    writers = {module for path, module in MODULES.items() if "transport.write" in path.read_text()}
    assert writers == {"agent.outbox", "client", "ctl.load.processes", "ctl.load.worker", "ctl.proxy.relay"}


def test_no_package_takes_twisteds_place() -> None:
    """A wheel with one of these would overwrite Twisted's own file and break every twistd on the machine."""
    assert not (ROOT / "twisted" / "__init__.py").exists()
    assert not (ROOT / "twisted" / "plugins" / "__init__.py").exists()


def test_the_plugin_costs_nothing() -> None:
    """Every twistd imports it: it imports nothing of ours, no reactor, and only what twistd itself has imported."""
    (plugin,) = (ROOT / "twisted" / "plugins").glob("*.py")
    assert imports_of(plugin) == {
        "twisted.application.reactors",
        "twisted.application.reactors.Reactor",
        "twisted.application.service",
        "twisted.application.service.ServiceMaker",
    }


def test_importing_installs_no_reactor() -> None:
    """Which one runs is the application's choice, made before or after."""
    code = (
        "import sys, spoa_twisted, spoa_twisted.testing, spoa_twisted.tap, spoa_twisted.ctl;"
        "sys.exit('twisted.internet.reactor' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_public_names_exist() -> None:
    """And a class among them is documented, but for one that mypyc has compiled: it leaves the text out."""
    for name in spoa_twisted.__all__:
        value = getattr(spoa_twisted, name)
        if isinstance(value, type) and str(sys.modules[value.__module__].__file__).endswith(".py"):
            assert value.__doc__
