"""Files are found as HAProxy finds them, and joined to a configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spoa_twisted.haproxy.configuration import Configuration
from spoa_twisted.haproxy.reading import read

ENGINE = """\
[e]
spoe-agent a
    messages m
    use-backend agents
spoe-message m
    args ip=src
    event on-frontend-http-request
"""
HAPROXY = """\
global
    default-path config
frontend www
    filter spoe engine e config spoe.conf
backend agents
    mode tcp
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(**texts: str) -> None:
    """Write files; ``_`` in the name stands for "/" and the name's last part gets the ending ``.cfg`` or ``.conf``."""
    for name, text in texts.items():
        *folders, last = name.split("_")
        path = Path(*folders, last + (".conf" if last.startswith("spoe") else ".cfg"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def configuration(
    engine: list[str], haproxy: list[str], version: tuple[int, int] = (3, 0), **environment: str
) -> Configuration:
    """Read files."""
    return read(engine, haproxy, version=version, environment=environment)


def unread(found: Configuration) -> list[str]:
    """Return what could not be read."""
    return [f"{each.place.file}:{each.place.line}: {each.why}" for each in found.not_read]


def test_all_parts() -> None:
    """An engine knows its agent and the agents' backend."""
    write(haproxy=HAPROXY, spoe=ENGINE)
    found = configuration(["spoe.conf"], ["haproxy.cfg"])
    (engine,) = found.engines
    assert engine.agent is not None
    assert engine.scope is found.scopes["spoe.conf"][0]
    assert (engine.name, engine.agent.name, engine.proxy, engine.backend) == ("e", "a", *found.proxies)
    assert (engine.filter.place, [str(each) for each in found.documents]) == (("haproxy.cfg", 4, 5), [HAPROXY, ENGINE])
    assert engine.document is found.documents[1]
    assert found.global_section is not None
    assert found.global_section.settings[0].texts == ("default-path", "config")
    assert (found.has_proxies, found.rewritten, found.not_read) == (True, False, ())


def test_only_an_engine() -> None:
    """Without haproxy.cfg there are scopes only."""
    write(spoe=ENGINE)
    found = configuration(["spoe.conf"], [], (3, 1))
    assert (found.has_proxies, found.proxies, found.engines, found.global_section) == (False, (), (), None)
    assert found.scopes["spoe.conf"][0].messages[0].name == "m"
    assert found.rewritten


@pytest.mark.parametrize(
    ("line", "name", "agent"),
    [
        ("filter spoe engine e config spoe.conf", "e", "a"),
        ("filter spoe config spoe.conf engine e", "e", "a"),
        ("filter spoe config spoe.conf", "b", "b"),
        ("filter spoe engine x config spoe.conf", "x", None),
        ("filter spoe engine e", "e", None),
        ("filter spoe", "", None),
        ("filter spoe config", "", None),
    ],
)
def test_filters(line: str, name: str, agent: str | None) -> None:
    """A filter names an engine and a file, in either order. Without a name, the engine has that of the agent."""
    write(haproxy=f"frontend f\n {line}\n", spoe=f"spoe-agent b\n{ENGINE}")
    (engine,) = configuration([], ["haproxy.cfg"]).engines
    assert (engine.name, engine.agent and engine.agent.name, engine.backend) == (name, agent, None)


def test_folders_and_order() -> None:
    """Of a folder the files ``*.cfg`` are read in order. A folder in it, and other names, are not."""
    for name in ("b", "a", "C", ".hidden"):
        write(**{f"conf_{name}": f"backend {name}\n"})
    Path("conf/x.conf").write_text("backend x\n")
    Path("conf/y.cfg").mkdir()
    write(z="backend z\n")
    found = configuration([], ["z.cfg", "conf"])
    assert [proxy.name for proxy in found.proxies] == ["z", "C", "a", "b"]


def test_globals_are_joined() -> None:
    """Several ``global`` sections, in several files, are one."""
    write(a="global\n  x\n", b="global\n  y\n")
    section = configuration([], ["a.cfg", "b.cfg"]).global_section
    assert section is not None
    assert [setting.texts for setting in section.settings] == [("x",), ("y",)]


@pytest.mark.parametrize(
    ("default_path", "path"),
    [
        ("", "spoe"),
        ("current", "spoe"),
        ("config", "etc_conf_spoe"),
        ("parent", "etc_spoe"),
        ("origin etc/other", "etc_other_spoe"),
    ],
)
def test_default_path(default_path: str, path: str) -> None:
    """The file of an engine is relative to the folder of ``default-path``."""
    line = f"global\n default-path {default_path}\n" if default_path else ""
    write(etc_conf_haproxy=f"{line}frontend f\n filter spoe engine e config spoe.conf\n", **{path: ENGINE})
    found = configuration([], ["etc/conf/haproxy.cfg"])
    assert (found.engines[0].agent is not None, found.not_read) == (True, ())
    (name,) = found.scopes
    assert os.path.samefile(name, path.replace("_", "/") + ".conf")


def test_a_copy_is_given() -> None:
    """A given file of the same name is taken for the one that HAProxy reads, if it has the engine's scope."""
    text = HAPROXY.replace("spoe.conf", "/nowhere/spoe.conf")
    write(haproxy=text, copy_spoe=ENGINE, other_spoe=ENGINE.replace("[e]", "[f]"))
    found = configuration(["other/spoe.conf", "copy/spoe.conf"], ["haproxy.cfg"])
    assert found.engines[0].scope is found.scopes["copy/spoe.conf"][0]
    assert found.not_read == ()


def test_a_renamed_copy_is_given() -> None:
    """The only given file with the engine's scope is taken, if there is no other."""
    write(haproxy=HAPROXY, spoex=ENGINE, spoey=ENGINE.replace("[e]", "[f]"))
    assert configuration(["spoex.conf", "spoey.conf"], ["haproxy.cfg"]).engines[0].agent is not None
    write(spoey=ENGINE)
    found = configuration(["spoex.conf", "spoey.conf"], ["haproxy.cfg"])
    assert (found.engines[0].agent, found.engines[0].document) == (None, None)
    assert unread(found) == ["haproxy.cfg:4: The file spoe.conf cannot be read: No such file or directory."]


def test_beside_haproxy_cfg() -> None:
    """A file that is not where HAProxy would look lies beside haproxy.cfg, as in a repository."""
    write(repo_haproxy=HAPROXY.replace("spoe.conf", "/nowhere/spoe.conf"), repo_spoe=ENGINE)
    assert configuration([], ["repo/haproxy.cfg"]).engines[0].agent is not None


def test_two_filters_of_one_file() -> None:
    """A file is read once."""
    write(haproxy=HAPROXY + "frontend other\n filter spoe engine e config spoe.conf\n", spoe=ENGINE)
    found = configuration([], ["haproxy.cfg"])
    assert found.engines[0].scope is found.engines[1].scope
    assert len(found.documents) == 2


def test_files_that_cannot_be_read(folder: Path) -> None:
    """A file that cannot be read is named, with the reason."""
    write(haproxy='frontend f\n filter spoe config folder\n filter spoe config "a\\x00b"\n filter spoe config none\n')
    Path("folder").mkdir()
    found = configuration(["none.conf", "folder", "none.conf"], ["none.cfg", "haproxy.cfg", "a\0b"])
    assert unread(found) == [
        "none.cfg:1: The file none.cfg cannot be read: No such file or directory.",
        "a\0b:1: The file a\0b cannot be read: embedded null byte.",
        "none.conf:1: The file none.conf cannot be read: No such file or directory.",
        "folder:1: The file folder cannot be read: Is a directory.",
        "haproxy.cfg:3: The file a\0b cannot be read: embedded null byte.",
        "haproxy.cfg:4: The file none cannot be read: No such file or directory.",
    ]
    assert [engine.document for engine in found.engines] == [None] * 3


def test_no_regular_file() -> None:
    """A device that a filter names is not read: it may have no end."""
    write(haproxy="frontend f\n filter spoe config /dev/zero\n")
    assert unread(configuration([], ["haproxy.cfg"])) == [
        "haproxy.cfg:2: The file /dev/zero cannot be read: it is not a regular file."
    ]


def test_a_folder_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be listed is named, too."""

    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied")

    Path("conf").mkdir()
    monkeypatch.setattr("os.listdir", refuse)
    assert unread(configuration([], ["conf"])) == ["conf:1: The file conf cannot be read: Permission denied."]


def test_environment() -> None:
    """Lines are read with the environment, and with what HAProxy and ``setenv`` add to it."""
    write(
        haproxy=(
            "global\n presetenv A 1\n presetenv B 2\n setenv C 3\n setenv D 4\n setenv E\n unsetenv D F\n"
            ".if feature(X)\n.endif\n"
            'listen l\n x "$A" "$B" "$C" "${D-}" "${F-}" "${HAPROXY_BRANCH-}" "$HAPROXY_CFGFILES"\n'
        )
    )
    found = configuration([], ["haproxy.cfg"], A="5", F="6")
    assert found.proxies[0].settings[0].texts == ("x", "5", "2", "3", "", "", "3.0", "haproxy.cfg")
    assert unread(found) == ["haproxy.cfg:8: .if feature(X) depends on HAProxy's build: taken as true."]
    found = configuration([], ["haproxy.cfg"], (2, 6))
    assert found.proxies[0].settings[0].texts[6] == ""
    assert len(found.documents) == 1


def test_lines_with_errors() -> None:
    """A line that HAProxy does not accept is named, in a branch that does not count, too."""
    write(haproxy=".if 0\n a 'b\n.endif\nlisten l")
    assert unread(configuration([], ["haproxy.cfg"])) == [
        "haproxy.cfg:2: HAProxy does not accept the line: the quote in column 4 has no end.",
        "haproxy.cfg:4: HAProxy does not accept the line: the last line has no line feed at its end.",
    ]


def test_versions() -> None:
    """``.if`` is evaluated for the version, in the engine's file, too."""
    text = ENGINE.replace("args ip", ".if version_atleast(3.1)\n    args new\n.else\n    args old\n.endif\n#")
    write(spoe=text)
    names = []
    for version in ((3, 0), (3, 1)):
        (scope,) = configuration(["spoe.conf"], [], version).scopes["spoe.conf"]
        names += [argument.word.text for argument in scope.messages[0].arguments]
    assert names == ["old", "new"]
