"""What is checked, and how. ``nox -l`` lists it; CI runs all of it, in the order of ``.ci/stages.py``.

Each session installs and tests a copy of the checkout, with what is not committed: sessions may run side by side.
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
    *("tests/spop", "tests/conformance", "tests/ctl"),
    *[f"tests/haproxy/test_{name}.py" for name in ("handlers", "values", "transports", "wedge")],
]

nox.options.sessions = ["lint", "tests"]
nox.needs_version = ">=2024.4.15"


def temporary(session: nox.Session) -> Path:
    """Return a folder of the session's own.

    It is not nox's own, which would be the tests' TMPDIR too: the paths of their Unix sockets would get too long.
    """
    folder: Path = ROOT / ".nox" / "folders" / session.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def checkout(session: nox.Session) -> Path:
    """Copy the checkout to a folder of the session, and go there."""
    copy = temporary(session) / "checkout"
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


def branches() -> list[Path]:
    """Return the HAProxy of each branch that the session ``haproxy`` has found, the oldest first."""
    found = (DOWNLOADS / "haproxy").glob("[0-9]*/haproxy")
    return sorted(found, key=lambda path: [int(part) for part in path.parent.name.split(".")])


def with_haproxy(session: nox.Session, *, newest: bool = False) -> dict[str, str]:
    """Return the environment for tests with all branches of HAProxy, or with the newest beside that of the extra."""
    found = branches()
    if not found:
        session.error("there is no HAProxy yet: nox -s haproxy")
    return {"SPOA_HAPROXY": os.pathsep.join(map(str, found[-1:] if newest else found))}


def smoke() -> list[str]:
    """Return what is tested on each interpreter."""
    # Nothing there is about the interpreter; the last three are about the checkout.
    left_out = {f"test_{name}.py" for name in ("benchmarks", "examples", "fail_closed", "readme")}
    left_out |= {f"test_{name}.py" for name in ("architecture", "ci", "programs")}
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
    # In the copy, which is below .nox, ruff would find no file: that is one of the folders that it leaves out.
    session.chdir(ROOT)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("towncrier", "build", "--draft", "--version", "0")


@nox.session
def everything(session: nox.Session) -> None:
    """All tests, those that soak too, with each branch of HAProxy."""
    checkout(session)
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-m", "", "--durations=20", *session.posargs, env=with_haproxy(session))


@nox.session
def coverage(session: nox.Session) -> None:
    """The default run, measured, with an old HAProxy and a new one. It fails under what pyproject.toml demands."""
    copy = checkout(session)
    session.install("-e", ".[test]")
    # What the tests start, in whatever folder, finds the plugin of coverage.py that is among the tests.
    environment = with_haproxy(session, newest=True) | {"PYTHONPATH": str(copy)}
    session.run("coverage", "run", "-m", "pytest", *session.posargs, env=environment)
    session.run("coverage", "combine", "--quiet", env=environment)
    session.run("coverage", "report", env=environment)


@nox.session(python=False)
def haproxy(session: nox.Session) -> None:
    """Get the HAProxys for the other sessions, of which some have to be old and some new."""
    session.run("tests/haproxy/get-haproxy", str(DOWNLOADS / "haproxy"), external=True, success_codes=[0, 1])
    # SPOE was rewritten in 3.1: without a branch of each, half of what HAProxys do would be untested.
    versions = [[int(part) for part in path.parent.name.split(".")] for path in branches()]
    if not versions or versions[0] >= [3, 1] or versions[-1] < [3, 1]:
        session.error(f"a HAProxy <= 3.0 and one >= 3.1 are needed; there are {versions}")


#: The interpreters that tests/get-python knows.
PACKAGED = ("3.13", "3.14", "3.15", "pypy7", "pypy8")

#: Those of which Debian has no package: they are tested where the machine has them.
INSTALLED = ("3.10", "3.12")

#: The oldest Python that setup.cfg allows is tested with the oldest packages that it allows.
OLDEST = "3.10"
OLDEST_PACKAGES = ["twisted[tls]==22.4.0", "zope.interface==5.5.2"]


@nox.session(python=False)
def pythons(session: nox.Session) -> None:
    """Get the interpreters for the other sessions."""
    for version in PACKAGED:
        session.run("tests/get-python", version, str(DOWNLOADS / version), external=True, success_codes=[0, 1])


def test_on(session: nox.Session, version: str) -> None:
    """Run the tests of what can differ, in an environment of that interpreter."""
    environment = temporary(session) / "environment"
    if version in PACKAGED:
        download = DOWNLOADS / version
        if not download.exists():
            session.skip(f"{version} NOT TESTED: no such Python in {download}: nox -s pythons")
        session.run("tests/get-python", version, str(download), str(environment), external=True)
    else:
        installed = find_python(version)
        if installed is None:
            session.skip(f"{version} NOT TESTED: this machine has no such Python")
        session.run(installed, "-m", "venv", "--clear", str(environment), external=True)
    checkout(session)
    python = str(environment / "bin" / "python")
    oldest = OLDEST_PACKAGES if version == OLDEST else []
    session.run(python, "-m", "pip", "-q", "install", *oldest, "-e", ".[test]", external=True)
    session.run(
        python, "-m", "pytest", "-n2", *smoke(), *session.posargs, env=with_haproxy(session, newest=True), external=True
    )


def find_python(version: str) -> str | None:
    """Return a Python of this machine that can make environments: on the PATH, or of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    check = f"import ensurepip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    for found in (f"python{version}", *map(str, pyenv.glob(f"versions/{version}.*/bin/python"))):
        # A shim of pyenv is there for versions that are not.
        if shutil.which(found) and subprocess.run([found, "-c", check], capture_output=True).returncode == 0:
            return found
    return None


for _version in (*INSTALLED, *PACKAGED):

    @nox.session(name=f"on-{_version}", python=False)
    def on(session: nox.Session, version: str = _version) -> None:
        """What can differ on this interpreter; on the oldest, with the oldest packages that setup.cfg allows."""
        test_on(session, version)


@nox.session
def compiled(session: nox.Session) -> None:
    """The codec compiled by mypyc: its tests, and those of what is built on it."""
    checkout(session)
    session.install("-e", ".[test]", env={"SPOA_TWISTED_MYPYC": "1"})
    session.run("python", "-c", COMPILED)
    session.run("python", "-m", "pytest", "-n2", *smoke(), env=with_haproxy(session, newest=True))


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
    folders = [temporary(session) / name for name in ("dist", "unpacked", "elsewhere")]
    installed = temporary(session) / "installed"
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    dist, unpacked, elsewhere = folders
    checkout(session)
    session.install("build", "twine")
    # The wheel is made from the sdist, and so has nothing that the sdist has not.
    session.run("python", "-m", "build", "--outdir", str(dist))
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    session.run("twine", "check", "--strict", str(sdist), str(wheel))
    check_wheel(session, wheel)

    session.run("python", "-m", "venv", "--clear", str(installed))
    session.run(str(installed / "bin" / "pip"), "-q", "install", str(wheel), external=True)
    # Not in the checkout, in which everything would be found without being installed.
    session.chdir(elsewhere)
    check_programs(session, installed)

    shutil.unpack_archive(sdist, unpacked)
    (source,) = unpacked.iterdir()
    session.chdir(source)
    session.install("-e", ".[test]")
    session.chdir(elsewhere)
    check_programs(session, Path(session.bin).parent)
    session.chdir(source)
    session.run("python", "-m", "pytest", "-n2")


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
        said = session.run(*words, silent=True, external=True) or ""
        if "--handlers=" not in said:
            session.error(f"{' '.join(command)} spoa --help says nothing of --handlers: {said}")
    said = session.run(str(programs / "spoactl"), "--help", silent=True, external=True) or ""
    if "ping" not in said:
        session.error(f"spoactl --help says nothing of ping: {said}")
