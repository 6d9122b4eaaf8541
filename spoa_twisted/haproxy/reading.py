"""Read the files of a configuration, and join them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from spoa_twisted.haproxy.configuration import Configuration, Engine, NotRead, Proxy, Scope
from spoa_twisted.haproxy.content import load
from spoa_twisted.haproxy.environment import with_own_variables, with_setenv
from spoa_twisted.haproxy.files import default_path, expanded
from spoa_twisted.haproxy.grammar.branches import select
from spoa_twisted.haproxy.grammar.documents import parse_lines
from spoa_twisted.haproxy.grammar.lines import Document, Line, Place
from spoa_twisted.haproxy.grammar.outline import sections
from spoa_twisted.haproxy.grammar.sections import Section, Setting
from spoa_twisted.haproxy.proxies import proxies
from spoa_twisted.haproxy.readings import readings
from spoa_twisted.haproxy.scopes import scopes


def read(
    engine_files: Sequence[str | os.PathLike[str]],
    haproxy_files: Sequence[str | os.PathLike[str]],
    *,
    version: tuple[int, int],
    environment: Mapping[str, str],
) -> Configuration:
    """Return the configuration that a version of HAProxy reads from files.

    A file that cannot be read, and a line whose meaning is not known, is in :attr:`Configuration.not_read`. No file
    makes an exception.

    :param engine_files: the files that ``filter spoe ... config FILE`` names. A file that is not among them is read
        from where HAProxy would read it.
    :param haproxy_files: files and folders as for HAProxy's option ``-f``, in their order.
    :param environment: the variables with which HAProxy is started.
    """
    reader = _Reader(version, environment)
    return reader.read([os.fspath(path) for path in engine_files], [os.fspath(path) for path in haproxy_files])


@dataclass
class _File:
    """A file of an engine."""

    document: Document
    scopes: tuple[Scope, ...]


@dataclass
class _Reader:
    """The parts of a configuration while its files are read."""

    version: tuple[int, int]
    environment: Mapping[str, str]
    documents: list[Document] = field(default_factory=list)
    not_read: list[NotRead] = field(default_factory=list)
    #: By the path that the user or HAProxy gives; ``None`` for a file that cannot be read.
    engine_files: dict[str, _File | None] = field(default_factory=dict)

    def read(self, engine_paths: list[str], haproxy_paths: list[str]) -> Configuration:
        paths = self._expand(haproxy_paths)
        self.environment = with_own_variables(self.environment, self.version, paths)
        texts = {path: data for path in paths if (data := self._load(path, Place(path, 1))) is not None}
        before = len(self.not_read)
        found = [section for path in texts for section in self._sections(path, texts[path])]
        with_set = with_setenv(self.environment, found)
        if with_set != self.environment:
            self.environment = with_set
            del self.documents[:], self.not_read[before:]
            found = [section for path in texts for section in self._sections(path, texts[path])]
        for path in engine_paths:
            self._engine_file(path, Place(path, 1))
        all_proxies = proxies(found)
        global_settings = [setting for section in found if section.kind == "global" for setting in section.settings]
        engines = tuple(self._engines(all_proxies, global_settings, engine_paths))
        globals_found = [section for section in found if section.kind == "global"]
        return Configuration(
            self.version,
            scopes={path: file.scopes for path, file in self.engine_files.items() if file is not None},
            has_proxies=bool(haproxy_paths),
            global_section=_joined(globals_found),
            proxies=all_proxies,
            engines=engines,
            readings=tuple(readings(all_proxies, engines)),
            documents=tuple(self.documents),
            not_read=tuple(dict.fromkeys(self.not_read)),
        )

    def _expand(self, paths: list[str]) -> list[str]:
        found: list[str] = []
        for path in paths:
            try:
                found += expanded([path])
            except (OSError, ValueError) as reason:
                self._say_not_read(Place(path, 1), reason)
        return found

    def _load(self, path: str, place: Place) -> bytes | None:
        """Return the bytes of a file, or say at ``place`` why it cannot be read."""
        try:
            return load(path)
        except (OSError, ValueError) as reason:
            self._say_not_read(place, reason, path)
            return None

    def _say_not_read(self, place: Place, reason: Exception, path: str | None = None) -> None:
        text = (reason.strerror if isinstance(reason, OSError) else None) or str(reason)
        self.not_read.append(NotRead(place, f"The file {path or place.file} cannot be read: {text}."))

    def _lines(self, path: str, data: bytes) -> tuple[Document, tuple[Line, ...]]:
        document = parse_lines(data, path, self.environment)
        self.documents.append(document)
        errors = ((line.place, line.error) for line in document.lines if line.error is not None)
        self.not_read += [NotRead(place, f"HAProxy does not accept the line: {error}.") for place, error in errors]
        branches = select(document, self.version, self.environment)
        self.not_read += [NotRead(*unknown) for unknown in branches.unknown]
        return document, branches.lines

    def _sections(self, path: str, data: bytes) -> list[Section]:
        _, lines = self._lines(path, data)
        return list(sections(lines, self.version))

    def _engine_file(self, path: str, place: Place) -> _File | None:
        if path not in self.engine_files:
            data = self._load(path, place)
            if data is None:
                self.engine_files[path] = None
            else:
                document, lines = self._lines(path, data)
                self.engine_files[path] = _File(document, scopes(lines, self.version))
        return self.engine_files[path]

    def _engines(
        self, all_proxies: tuple[Proxy, ...], global_settings: list[Setting], engine_paths: list[str]
    ) -> list[Engine]:
        backends = {proxy.name: proxy for proxy in all_proxies[::-1] if proxy.kind in ("backend", "listen")}
        found = []
        for proxy in all_proxies:
            for setting in proxy.section.all("filter", "spoe"):
                options = dict(zip(setting.texts[2::2], setting.texts[3::2], strict=False))
                scope_name = options.get("engine")
                file = None
                if config := options.get("config"):
                    path = os.path.join(default_path(global_settings, setting.place.file), config)
                    file = self._file_of(path, setting.place, scope_name, engine_paths)
                scope = _scope(file, scope_name)
                agent = None if scope is None else scope.agent
                name = scope_name or ("" if agent is None else agent.name)
                backend = None if agent is None or agent.use_backend is None else backends.get(agent.use_backend.text)
                found.append(Engine(name, setting, proxy, None if file is None else file.document, scope, backend))
        return found

    def _file_of(self, path: str, place: Place, scope_name: str | None, engine_paths: list[str]) -> _File | None:
        """Return the file at ``path``, which the filter at ``place`` names.

        The user may have given a copy that lies elsewhere. So a given file of the same name with the engine's scope is
        taken first, and if there is no file at ``path``, a given file of another name with that scope.
        """
        name = os.path.basename(path)
        with_scope = [each for each in engine_paths if _scope(self.engine_files[each], scope_name) is not None]
        candidates = [each for each in engine_paths if _is_same(each, path)]
        candidates += [each for each in with_scope if os.path.basename(each) == name]
        beside = os.path.join(os.path.dirname(place.file), name)
        candidates += [each for each in (path, beside) if os.path.isfile(each)]
        candidates += with_scope[:1] if len(with_scope) == 1 else []
        return self._engine_file((*candidates, path)[0], place)


def _is_same(path: str, other: str) -> bool:
    """Return whether two paths lead to the same file."""
    try:
        return os.path.realpath(path) == os.path.realpath(other)
    except (OSError, ValueError):
        return False


def _scope(file: _File | None, name: str | None) -> Scope | None:
    return next((scope for scope in ([] if file is None else file.scopes) if scope.name == name), None)


def _joined(found: list[Section]) -> Section | None:
    """Return all ``global`` sections as one."""
    if not found:
        return None
    settings = tuple(setting for section in found for setting in section.settings)
    return Section("global", "", found[0].head, settings)
