"""What pages refer to that is no page: folders and files of the repository, undocumented names.

A link to a folder becomes its name; one to a file becomes a download, as MyST has it. A name of
polygraph that exists, but has no entry on an API page, becomes code. What does not exist stays a
warning.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform


class FoldersAsText(SphinxPostTransform):
    """Replace links to folders, which no page stands for."""

    default_priority = 1  # before links are resolved

    def run(self, **kwargs: Any) -> None:
        """Look at every link of Markdown."""
        here = Path(self.env.doc2path(self.env.docname)).parent
        for link in list(self.document.findall(pending_xref)):
            target = link["reftarget"].split("#")[0]
            if link.get("reftype") == "myst" and target and (here / target).is_dir():
                link.replace_self(nodes.inline("", "", *link.children))


def exists(name: str) -> bool:
    """Whether a dotted name of polygraph can be imported."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            fields = getattr(thing, "__dataclass_fields__", {})
            if part in fields and not hasattr(thing, part):
                return part == parts[-1]
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


def without_entry(app: Sphinx, env: Any, node: pending_xref, content: nodes.Element) -> Any:
    """The text of a reference to what is there, but not documented."""
    target = str(node.get("reftarget", "")).lstrip("~.")
    if node.get("refdomain") == "py" and target.startswith("polygraph") and exists(target):
        return content
    return None


def with_plotly(app: Sphinx, page: str, template: str, context: Any, doctree: Any) -> None:
    """Load plotly.js, from this site, on pages that have a figure of it."""
    if "plotly-graph-div" in context.get("body", ""):
        script = context["pathto"]("_static/plotly.min.js", 1)
        context["body"] = f'<script src="{script}"></script>{context["body"]}'


def copy_plotly(app: Sphinx, error: Exception | None) -> None:
    """Put plotly.js beside the pages, as its Python package has it."""
    if error is None and app.builder.format == "html":
        from plotly.offline import get_plotlyjs

        (Path(app.outdir) / "_static" / "plotly.min.js").write_text(get_plotlyjs())


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx; figures of plotly leave the script to the page."""
    from plotly.basedatatypes import BaseFigure

    def html(figure: Any) -> str:
        return str(figure.to_html(full_html=False, include_plotlyjs=False, default_height=420))

    BaseFigure._repr_html_ = html
    app.add_post_transform(FoldersAsText)
    app.connect("missing-reference", without_entry)
    app.connect("html-page-context", with_plotly)
    app.connect("build-finished", copy_plotly)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
