"""Notebooks of the tutorials: their words in Markdown, and what `make notebooks` executes.

    python docs/_extensions/notebooks.py FOLDER [NAME...]

writes the notebooks of `examples/` with their output into FOLDER; a cell that fails ends it with
status 1. Under Sphinx it only translates what the gallery's own notebooks, which have no output,
leave as reStructuredText. Needs the extras docs and notebooks.
"""

from __future__ import annotations

import copy
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from sphinx_gallery import gen_gallery, notebook
from sphinx_gallery.py_source_parser import split_code_and_text_blocks

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PAGE = re.compile(r":doc:`([^`<]+?)\s*</([^`>]+)>`")
SECONDS = 900  # of one cell


def translate_roles(text: str) -> str:
    """A link to a page of the site becomes its words and the file that the page is made from."""
    return PAGE.sub(r"\1 (\2.md)", text)


def to_markdown(text: str, *arguments: Any, **settings: Any) -> str:
    """The gallery's translation, of what it would leave as it is."""
    found: str = _rst2md(translate_roles(text), *arguments, **settings)
    return found


_rst2md = notebook.rst2md
notebook.rst2md = to_markdown


def execute(example: Path, folder: Path) -> None:
    """Write the notebook of an example, with output.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised; the message has its traceback.
    """
    import nbformat
    from nbclient import NotebookClient

    _, blocks = split_code_and_text_blocks(str(example))
    settings = copy.deepcopy(gen_gallery.DEFAULT_GALLERY_CONF)
    cells = notebook.jupyter_notebook(blocks, settings, folder)
    book = nbformat.reads(json.dumps(cells), as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(book, timeout=SECONDS, kernel_name="python3", resources=place).execute()
    nbformat.write(book, folder / f"{example.stem}.ipynb")


def main(folder: str, *names: str) -> int:
    """Execute the notebooks of these names, or all; the exit status."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for example in sorted(EXAMPLES.glob("[0-9]_*.py")):
        if names and example.stem not in names:
            continue
        began = time.monotonic()
        try:
            execute(example, Path(folder))
        except Exception as error:
            print(f"{example.name}: {error}", file=sys.stderr)
            return 1
        print(f"{folder}/{example.stem}.ipynb: {time.monotonic() - began:.0f} s", flush=True)
    return 0


def setup(app: Any) -> dict[str, bool]:
    """Tell Sphinx, for which importing this was enough."""
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
