"""Sphinx's settings for the documentation: ``nox -s docs`` builds it.

The build needs no network, and the pages load nothing from other sites.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The documented package is the one of this checkout, also if another one is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

from spoa_twisted import __version__

project = "spoa_twisted"
author = "The spoa_twisted authors"
version = release = __version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
needs_sphinx = "8.0"

# The pages are in a fixed language, and their quotes and dashes are those that are typed: commands contain both.
language = "en"
smartquotes = False

# A reference to nothing is a warning, and nox -s docs turns warnings into errors.
nitpicky = True
# There are no inventories of other projects, because they come by the network. So their names are no links.
nitpick_ignore_regex = [(r"py:.*", r"(?!spoa_twisted\.).*")]

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

html_theme = "furo"
html_title = f"spoa_twisted {version}"
html_show_copyright = False
html_show_sphinx = False
