"""Configuration of the documentation; ``make docs`` builds it and runs the vignettes."""

from __future__ import annotations

import os

import matplotlib as mpl
from docutils import nodes
from latex2mathml.converter import convert

import mixexperts

os.environ["MPLBACKEND"] = "Agg"
mpl.use("Agg")

project = "mixexperts"
author = "The mixexperts developers"
copyright = "The mixexperts developers"
version = release = mixexperts.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
nitpicky = False
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
# What a room's __all__ names is public, wherever it is defined.
autosummary_imported_members = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"
autodoc_member_order = "groupwise"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

sphinx_gallery_conf = {
    "examples_dirs": "../vignettes",
    "gallery_dirs": "vignettes",
    "filename_pattern": r"/\d\d_",
    "abort_on_example_error": True,
    "capture_repr": ("_repr_html_",),
    "download_all_examples": False,
    "image_scrapers": ("matplotlib",),
    "matplotlib_animations": False,
    "min_reported_time": 1e6,
    "remove_config_comments": True,
    # The library may have changed where the vignette has not.
    "run_stale_examples": True,
    "show_memory": False,
    "show_signature": False,
    "within_subsection_order": "FileNameSortKey",
}

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"mixexperts {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def _formula(display: str, tag: str):
    """Formulas as MathML: browsers draw it by themselves, and the pages load nothing."""

    def visit(self, node):
        self.body.append(self.starttag(node, tag, "", CLASS="math"))
        self.body.append(convert(node.astext(), display=display))
        self.body.append(f"</{tag}>")
        raise nodes.SkipNode

    return visit


def setup(app):
    """Register the renderer of formulas."""
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(_formula("inline", "span"), None),
        block_renderers=(_formula("block", "div"), None),
    )
