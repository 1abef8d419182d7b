"""The directive of the API pages: names of a module, as a table and then in full.

```{api} polygraph.ops
knn
edge_conv
```
"""

from __future__ import annotations

import importlib
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def kind(thing: Any) -> str:
    """Which directive of autodoc documents it."""
    if isinstance(thing, type):
        return "autoexception" if issubclass(thing, BaseException) else "autoclass"
    return "autofunction" if callable(thing) else "autodata"


class Api(SphinxDirective):
    """Document the names in the content, which are of the module in the argument."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Write what autosummary and autodoc read."""
        module = importlib.import_module(self.arguments[0])
        names = [name for line in self.content for name in line.split()]
        text = [f".. currentmodule:: {module.__name__}", "", ".. autosummary::"]
        text += ["   :nosignatures:", "", *(f"   {name}" for name in names), ""]
        for name in names:
            text += [f".. {kind(getattr(module, name))}:: {name}", ""]
        # MyST's own parser reads Markdown; autodoc's text is reStructuredText.
        block = "\n".join(["```{eval-rst}", *text, "```"])
        content = StringList(block.splitlines(), source=self.get_source_info()[0])
        holder = nodes.Element()
        self.state.nested_parse(content, self.content_offset, holder)
        return holder.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx."""
    app.add_directive("api", Api)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
