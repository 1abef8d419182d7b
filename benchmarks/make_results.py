"""The pages of docs/results, and the table of README.md, from the rows of benchmarks/results.

    python benchmarks/make_results.py      # or make results

``pages/NAME.md`` is the template of ``docs/results/NAME.md`` (``index.md`` of its README.md, and
``why.md`` of the table in the first README.md): Markdown, in which Jinja puts a value
for each ``{{ ... }}``:

- ``row("knn", workload="8 x 1024, C 66, k 8")`` is the one row of ``knn.json`` that has these
  values, ``rows(...)`` all that do: dictionaries, so ``.seconds.ours.median`` reads a number;
- ``| n(2)`` writes a number with two digits behind the point;
- ``kernels``, ``meshes``, ``images``, ``classifiers``, ``lens`` have tables, such as
  ``kernels.knn()``: see ``pages/*.py``;
- ``origin("knn")`` is the note below a table: command, commits, machine, versions, seeds;
- ``holds(...)`` writes nothing, and stops when what a sentence says is not true of the rows.
"""

from __future__ import annotations

from pathlib import Path

import jinja2
from pages import classifiers, images, kernels, lens, mesh_claims, meshes
from pages.rows import LINK, number, origin, row, rows, span

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = Path(__file__).with_name("pages")
PAGES = {
    "index": "README",
    "kernels": "kernels",
    "meshes": "meshes",
    "images": "images",
    "classifiers": "classifiers",
    "lens": "lens",
}
BEGIN, END = "<!-- made by `make results` -->", "<!-- end of what `make results` makes -->"
FIXED = "the benchmark's own, for inputs and weights"  # seeds that are written in its source


class ClaimError(AssertionError):
    """A sentence says what the rows do not."""


def holds(claim: bool) -> str:
    """Nothing, where a claim is true."""
    if not claim:
        raise ClaimError("the sentence before this `holds` is not true of the rows any more")
    return ""


def environment() -> jinja2.Environment:
    """What templates can use."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    made.filters |= {"n": number, "span": span}
    made.globals |= {
        "row": row,
        "rows": rows,
        "origin": origin,
        "holds": holds,
        "kernels": kernels,
        "meshes": meshes,
        "claims": mesh_claims,
        "images": images,
        "classifiers": classifiers,
        "lens": lens,
        "FIXED": FIXED,
        "LINK": LINK,
    }
    return made


def render(name: str) -> str:
    """A page. An error in a template names the file and the line."""
    template = environment().get_template(f"{name}.md")
    try:
        return template.render()
    except (ClaimError, LookupError, jinja2.UndefinedError) as error:
        raise SystemExit(f"benchmarks/pages/{name}.md:{_line(error)}: {error}") from error


def _line(error: BaseException) -> int:
    """The line of the template, from the trace that Jinja leaves."""
    found, trace = 0, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).suffix == ".md":
            found = trace.tb_lineno
        trace = trace.tb_next
    return found


def readme() -> str:
    """README.md with its table of results made anew."""
    text = (ROOT / "README.md").read_text()
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise SystemExit(f"README.md: {BEGIN} and {END} must enclose the table of results")
    return f"{before}{BEGIN}\n{render('why')}{END}{after}"


def contents() -> dict[Path, str]:
    """Every file that is made, with its text."""
    folder = ROOT / "docs" / "results"
    made = {folder / f"{page}.md": render(template) for template, page in PAGES.items()}
    made[folder / "kernels_times.svg"] = kernels.chart_of_times()
    made[folder / "kernels_memory.svg"] = kernels.chart_of_memory()
    return made | {ROOT / "README.md": readme()}


def main() -> None:
    """Write what has changed."""
    for path, text in contents().items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
