"""The tables of settings in ``docs/howto/without_programming.rst``, made from the keys of the ready-made agents.

``python -m tests.agents_settings`` writes them. Run it after a change of a key;
``tests/docs/test_without_programming.py`` fails until then.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import textwrap
from collections.abc import Iterator, Sequence
from types import ModuleType

from spoa_twisted import agents
from spoa_twisted.agents.settings import REQUIRED, Key
from tests.programs import ROOT

PAGE = ROOT / "docs" / "howto" / "without_programming.rst"

# The part of the page between these two comments is made here.
_BEGIN = ".. Written by: python -m tests.agents_settings\n"
_END = ".. End of what it has written.\n"

_HEAD = """\
.. list-table::
   :header-rows: 1
   :widths: 14 24 18 44

   * - Key
     - Value
     - Default
     - Meaning
"""


def modules() -> dict[str, ModuleType]:
    """Return the modules of the agents, by the names of their tables."""
    names = [module.name for module in pkgutil.iter_modules(agents.__path__)]
    imported = {name: importlib.import_module(f"spoa_twisted.agents.{name}") for name in sorted(names)}
    return {name: module for name, module in imported.items() if hasattr(module, "KEYS")}


def section(name: str, module: ModuleType) -> str:
    """Return the section of an agent: its title, what it is for, its module, and its keys."""
    title = f"The table ``[{name}]``"
    purpose = (module.__doc__ or "").partition("\n")[0]
    text = textwrap.fill(f"``--handlers {module.__name__}``: {purpose}", 120, break_on_hyphens=False)
    lines = [title, "~" * len(title), "", text, ""]
    return "\n".join([*lines, _HEAD + "\n".join(_rows(module.KEYS)), ""])


def _rows(keys: Sequence[Key]) -> Iterator[str]:
    for key in keys:
        cells = (f"``{key.name}``", key.allowed, _default(key.default), key.help)
        for mark, cell in zip(("* -", "  -", "  -", "  -"), cells, strict=True):
            first, *others = textwrap.wrap(cell, 120 - 7, break_on_hyphens=False)
            yield f"   {mark} {first}"
            yield from [f"       {other}" for other in others]


def _default(value: object) -> str:
    if value is REQUIRED:
        return "required"
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return f"``{str(value).lower()}``"
    return f'``"{value}"``' if isinstance(value, str) else f"``{value}``"


def with_tables(text: str) -> str:
    """Return ``text``, the content of the page, with the sections that :func:`section` makes now."""
    made = "\n".join([section(*item) for item in modules().items()])
    part = re.compile(f"(?<={re.escape(_BEGIN)}).*(?={re.escape(_END)})", re.DOTALL)
    result, count = part.subn(lambda _: f"\n{made}\n", text)
    assert count == 1
    return result


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
