"""The tree is the data's way: imports go downward only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import spoa_twisted

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "spoa_twisted"

# Each may import what stands above it.
STAGES = [
    "spop.errors",
    "spop.varint",
    "spop.typeddata",
    "spop.messages",
    "spop.actions",
    "spop.frames",
    "spop.unread",
    "spop.connection",
    "version",
    "interfaces",
    "coroutines",
    "threads",
    "handlers",
    "sending",
    "receipt",
    "drain",
    "limits",
    "protocol",
    "unix_lock",
    "service",
    "runner.errors",
    "runner.loading",
    "runner.process",
    "tap",
    "client",
    "testing",
    "ctl.values",
    "ctl.arguments",
    "ctl.files",
    "ctl.latency",
    "ctl.cpu",
    "ctl.load.__init__",
    "ctl.load.deferreds",
    "ctl.load.errors",
    "ctl.load.plan",
    "ctl.load.window",
    "ctl.load.tally",
    "ctl.load.cache",
    "ctl.load.verdicts",
    "ctl.load.ring",
    "ctl.load.in_flight",
    "ctl.load.connection",
    "ctl.load.local",
    "ctl.load.worker",
    "ctl.load.processes",
    "ctl.bench.shapes",
    "ctl.bench.notes",
    "ctl.bench.arguments",
    "ctl.bench.measurement",
    "ctl.bench.report",
    "ctl.bench.text",
    "ctl.bench.__init__",
    "ctl.ping",
    "ctl.send",
    "ctl.__init__",
]


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


@pytest.mark.parametrize("stage", STAGES)
def test_imports_go_downward(stage: str) -> None:
    """A stage imports earlier stages only."""
    later = [f"spoa_twisted.{name}" for name in STAGES[STAGES.index(stage) + 1 :]]
    paths = [path for path, module in MODULES.items() if module == stage or module.startswith(f"{stage}.")]
    assert paths
    for path in paths:
        assert not {name for name in imports_of(path) if name.startswith(tuple(later))}


def test_every_module_is_a_stage() -> None:
    """A new file has its place in the order."""
    for module in MODULES.values():
        assert module in ("__init__", "spop.__init__", "runner.__init__") or module.startswith(tuple(STAGES))


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
    assert writers == {"sending", "client", "ctl.load.processes", "ctl.load.worker"}


def test_no_package_takes_twisteds_place() -> None:
    """A wheel with one of these would overwrite Twisted's own file and break every twistd on the machine."""
    assert not (ROOT / "twisted" / "__init__.py").exists()
    assert not (ROOT / "twisted" / "plugins" / "__init__.py").exists()


def test_the_plugin_costs_nothing() -> None:
    """Every twistd imports it: it imports nothing of ours, and no reactor."""
    (plugin,) = (ROOT / "twisted" / "plugins").glob("*.py")
    assert imports_of(plugin) == {
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
