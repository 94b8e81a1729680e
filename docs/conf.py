"""Sphinx configuration: Markdown pages, the Python API from docstrings, no warnings allowed."""

from deltavc.version import __version__

project = "deltavc"
author = "the deltavc authors"
copyright = "2026, the deltavc authors"  # noqa: A001
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"deltavc {__version__}"
suppress_warnings = ["myst.header", "toc.empty_glob"]
napoleon_google_docstring = True
napoleon_custom_sections = ["Shapes", "Numerics", "Cost", "Source"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports: list[str] = []
