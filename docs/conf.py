"""Configuration of the site: `sphinx-build -W -b html docs docs/_build/html`."""

import logging
import os
import pathlib
import sys

from sphinx.errors import ConfigError

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

try:
    import furo  # noqa: F401
    import jupytext  # noqa: F401
    import latex2mathml  # noqa: F401
    import myst_parser  # noqa: F401
    import sphinx_gallery  # noqa: F401
except ImportError as error:
    raise ConfigError(
        f'The site needs the extra `docs`: pip install -e ".[docs]". Received: {error}'
    ) from error

import keras_bp  # noqa: E402
from tools.site import docstrings, mathml, pages  # noqa: E402

project = "keras_bp"
release = version = keras_bp.__version__
project_copyright = "the authors of keras_bp"
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.intersphinx",
    "sphinx_gallery.gen_gallery",
    "myst_parser",
]
nitpicky = True
exclude_patterns = ["_build", "generated/scripts"]

# Pages in Markdown, as GitHub shows them too.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Pages of the public names.
autosummary_generate = False  # `pages` writes them
autodoc_inherit_docstrings = False  # Keras's docstrings are not reStructuredText
autodoc_typehints = "none"  # the docstrings say it, with ranges
autodoc_member_order = "bysource"
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
napoleon_custom_sections = [("Call arguments", "params_style"), "Output shape"]
python_maximum_signature_line_length = 80

# Names of Python link to its documentation where there is a network; where there is none, nothing
# but these links is missing.
intersphinx_mapping = {"python": ("https://docs.python.org/3", None)}
intersphinx_timeout = 5
logging.getLogger("sphinx.sphinx.ext.intersphinx").addFilter(lambda r: r.levelno < logging.WARNING)

# A page, a picture and a notebook of each example; none is run.
sphinx_gallery_conf = {
    "examples_dirs": "generated/scripts",
    "gallery_dirs": "generated/examples",
    "plot_gallery": "False",
    "image_scrapers": (),
    "within_subsection_order": "tools.site.pages.ExampleOrder",
    "write_computation_times": False,
    "show_signature": False,
    "remove_config_comments": True,
    "first_notebook_cell": pages.FIRST_CELL,
}

html_theme = "furo"
html_title = "keras_bp"
html_static_path = ["_static", "generated/static"]
html_css_files = ["site.css"]
html_search_scorer = str(ROOT / "tools/site/scorer.js")
html_copy_source = False
html_math_renderer = "mathml"


def setup(app):
    """Prepare the pages that come from outside of this folder, and hook in what reads them."""
    pages.prepare()
    app.connect("source-read", pages.read)
    app.connect("autodoc-process-docstring", docstrings.process, priority=400)  # before napoleon
    app.add_html_math_renderer("mathml", (mathml.inline, None), (mathml.block, None))
