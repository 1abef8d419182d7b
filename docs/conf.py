"""Settings of the documentation site: `make docs`.

The source folder of Sphinx is the repository, so that relative links between Markdown pages lead
to the same places here and on a repository's web pages.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_extensions"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import polygraph  # noqa: E402

project = "polygraph"
author = "polygraph developers"
version = release = polygraph.__version__
root_doc = "docs/index"
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "api",
    "notebooks",
    "outside",
]
include_patterns = [
    "docs/**",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "datasets/*.md",
    "benchmarks/README.md",
    "benchmarks/results/*/README.md",
]
exclude_patterns = ["docs/_*"]
suppress_warnings = ["config.cache"]  # the gallery's settings hold classes
nitpicky = True
# Names of other projects have no inventory here: the build asks no network.
nitpick_ignore_regex = [(r"py:.*", r"(?!polygraph\.).*")]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autosummary_generate = False
default_role = "py:obj"
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"polygraph {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sourcelink = False
html_extra_path = ["_root"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#5b2a86", "color-brand-content": "#5b2a86"},
    "dark_css_variables": {"color-brand-primary": "#c9a2f0", "color-brand-content": "#c9a2f0"},
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": str(ROOT / "docs" / "tutorials"),
    "filename_pattern": r"/\d_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": ("_repr_html_", "__repr__"),
    "download_all_examples": False,
    "image_scrapers": ("matplotlib",),
    "min_reported_time": 1,
    "remove_config_comments": True,
    "reset_modules": ("matplotlib",),
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
    "plot_gallery": True,
}
