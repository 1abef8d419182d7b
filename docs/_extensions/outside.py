"""Links from pages to files of the repository that are no pages.

A folder becomes its name in code type; a file becomes a download, as MyST has it. A link to what
does not exist stays what MyST makes of it: a warning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform


class FoldersAsCode(SphinxPostTransform):
    """Replace links to folders, which no page stands for."""

    default_priority = 1  # before links are resolved

    def run(self, **kwargs: Any) -> None:
        """Look at every link that MyST left to be resolved."""
        from sphinx.addnodes import pending_xref

        here = Path(self.env.doc2path(self.env.docname)).parent
        for link in list(self.document.findall(pending_xref)):
            if link.get("refdomain") or link.get("reftype") != "myst":
                continue
            target = link["reftarget"].split("#")[0]
            if target and (here / target).is_dir():
                link.replace_self(nodes.inline("", "", *link.children))


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx."""
    app.add_post_transform(FoldersAsCode)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
