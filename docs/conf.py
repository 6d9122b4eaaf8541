"""Sphinx's settings for the documentation: ``nox -s docs`` builds it.

The build needs no network, and the pages load nothing from other sites.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The documented package is the one of this checkout, also if another one is installed. interfaces.py is in this folder.
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from spoa_twisted import __version__  # noqa: E402 - after the path has been set

project = "spoa_twisted"
author = "The spoa_twisted authors"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "interfaces"]
exclude_patterns = ["_build"]
needs_sphinx = "8.0"

# The pages are in a fixed language, and their quotes and dashes are those that are typed: commands contain both.
language = "en"
smartquotes = False

# A reference to nothing is a warning, and nox -s docs turns warnings into errors.
nitpicky = True
# The names of other projects are no links: their inventories would come by the network. Nor are names of internal
# modules, which docstrings name for those who read the code.
PUBLIC = r"spoa_twisted\.([A-Z]|(testing|client|observer|logging)\.[A-Z]|status\.\w+\.Status)"
nitpick_ignore_regex = [(r"py:.*", rf"(?!{PUBLIC}).*")]
# Both spoa_twisted.client and spoa_twisted.observer have a PayloadRefused.
suppress_warnings = ["ref.python"]

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["names.css"]
html_title = f"spoa_twisted {version}"
html_show_copyright = False
html_show_sphinx = False
