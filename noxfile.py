"""What is checked, and how. ``nox -l`` lists it; CI runs all of it, in the order of ``.ci/stages.py``.

Each session works in a copy of the checkout, changes that are not committed included: sessions may run side by side.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
DOWNLOADS = ROOT / ".nox" / "downloads"

#: What can differ between interpreters, without the tests that soak: everything but faults and speed, and of the tests
#: with HAProxy those of values, transports, and the limits of what one read of HAProxy >= 3.1 takes.
SMOKE = [
    *("tests/spop", "tests/conformance", "tests/fuzzing"),
    *[f"tests/haproxy/test_{name}.py" for name in ("handlers", "values", "transports", "wedge")],
]

nox.options.sessions = ["lint", "tests"]
nox.needs_version = ">=2024.4.15"


def checkout(session: nox.Session) -> Path:
    """Copy the checkout to a folder of the session, and go there."""
    copy = Path(session.create_tmp()) / "checkout"
    shutil.rmtree(copy, ignore_errors=True)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in names.rstrip("\0").split("\0"):
        # A file that is deleted and not committed is listed too.
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    session.chdir(copy)
    return copy


def haproxy(session: nox.Session) -> dict[str, str]:
    """Return the environment for tests with all branches of HAProxy."""
    folder = os.environ.get("SPOA_HAPROXY") or str(DOWNLOADS / "haproxy")
    if not Path(folder).exists():
        session.error(f"there is no {folder}: nox -s haproxy")
    return {"SPOA_HAPROXY": folder}


def newest_haproxy(session: nox.Session) -> dict[str, str]:
    """Return the environment for tests with the newest branch of HAProxy, and with that of the extra ``test``."""
    folder = Path(haproxy(session)["SPOA_HAPROXY"])
    branches = sorted(folder.glob("[0-9]*/haproxy"), key=lambda path: [int(part) for part in path.parent.name.split(".")])
    return {"SPOA_HAPROXY": str(branches[-1])}


def smoke() -> list[str]:
    """Return what is tested on each interpreter."""
    left_out = {"test_benchmarks.py", "test_examples.py", "test_readme.py"}
    units = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/test_*.py")) if path.name not in left_out]
    return [*units, *SMOKE]


@nox.session
def tests(session: nox.Session) -> None:
    """The default run of the tests, as the README has it; arguments behind "--" go to pytest."""
    checkout(session)
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, mypy, and the fragments of CHANGES.rst."""
    checkout(session)
    session.install("-e", ".[test]", "towncrier")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("towncrier", "build", "--draft", "--version", "0")


@nox.session
def everything(session: nox.Session) -> None:
    """All tests, those that soak too, with each branch of HAProxy."""
    checkout(session)
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-m", "", *session.posargs, env=haproxy(session))


@nox.session
def coverage(session: nox.Session) -> None:
    """The default run, measured, with an old HAProxy and a new one. It fails under what pyproject.toml demands."""
    copy = checkout(session)
    session.install("-e", ".[test]")
    # What the tests start is measured too.
    environment = newest_haproxy(session) | {"SPOA_COVERAGE": "1"}
    session.run("coverage", "run", "-m", "pytest", *session.posargs, env=environment)
    session.run("coverage", "combine", "-q")
    session.run("coverage", "report")


@nox.session
def compiled(session: nox.Session) -> None:
    """spop compiled by mypyc: its tests, and those of what is built on it."""
    checkout(session)
    session.install("-e", ".[test]", env={"SPOA_TWISTED_MYPYC": "1"})
    session.run("python", "-c", COMPILED)
    session.run("python", "-m", "pytest", "-n0", *smoke(), env=newest_haproxy(session))


#: Fails unless each module of spop, but those that are not compiled, is an extension.
COMPILED = """\
import importlib, pathlib
from spoa_twisted.version import version
for path in pathlib.Path("spoa_twisted/spop").glob("*.py"):
    module = importlib.import_module(f"spoa_twisted.spop.{path.stem}")
    assert path.stem in ("__init__", "errors") or module.__file__.endswith(".so"), module.__file__
assert "(spop compiled)" in version(), version()
"""


@nox.session
def package(session: nox.Session) -> None:
    """The wheel and the sdist as users install them; the tests of the sdist."""
    checkout(session)
    temporary = Path(session.create_tmp())
    dist, unpacked, elsewhere = (temporary / name for name in ("dist", "unpacked", "elsewhere"))
    for folder in (dist, unpacked, elsewhere):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    session.install("build", "twine")
    # The wheel is made from the sdist, and so has nothing that the sdist has not.
    session.run("python", "-m", "build", "--outdir", str(dist))
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    session.run("twine", "check", "--strict", str(sdist), str(wheel))
    check_wheel(session, wheel)

    installed = temporary / "installed"
    session.run("python", "-m", "venv", "--clear", str(installed))
    session.run(str(installed / "bin" / "pip"), "-q", "install", str(wheel), external=True)
    session.chdir(elsewhere)
    check_programs(session, installed)

    shutil.unpack_archive(sdist, unpacked)
    (source,) = unpacked.iterdir()
    session.chdir(source)
    session.install("-e", ".[test]")
    session.chdir(elsewhere)
    check_programs(session, Path(session.virtualenv.location))
    session.chdir(source)
    session.run("python", "-m", "pytest", "-n0")


def check_wheel(session: nox.Session, wheel: Path) -> None:
    """Fail when twistd would not find the plugin, or when the wheel would overwrite a file of Twisted."""
    names = zipfile.ZipFile(wheel).namelist()
    if "twisted/plugins/spoa_twisted_plugin.py" not in names:
        session.error("the wheel has no plugin for twistd")
    overwritten = {"twisted/__init__.py", "twisted/plugins/__init__.py"}.intersection(names)
    if overwritten:
        session.error(f"the wheel would overwrite files of Twisted: {overwritten}")
    if not wheel.name.endswith("-py3-none-any.whl"):
        session.error(f"{wheel.name} is compiled, and nobody asked for that")


def check_programs(session: nox.Session, environment: Path) -> None:
    """Run each of the programs that a user has."""
    programs = environment / "bin"
    for command in (["twistd"], ["twist"], ["python", "-m", "twisted"]):
        words = [str(programs / command[0]), *command[1:], "spoa", "--help"]
        said = session.run(*words, silent=True, external=True)
        if "--handlers=" not in said:
            session.error(f"{' '.join(command)} spoa --help says nothing of --handlers: {said}")
    said = session.run(str(programs / "spoactl"), "--help", silent=True, external=True)
    if "ping" not in said:
        session.error(f"spoactl --help says nothing of ping: {said}")
