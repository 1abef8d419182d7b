"""External links of documentation, docstrings and metadata: `make links` asks each for an answer.

    python scripts/links.py [--offline]

Offline, which the tests do, only their shape is checked: an address without a host, a DOI or arXiv
identifier that is none or not in docs/sources.md. Needs nothing but the standard library; the exit
status is 1 when a link is bad. A server that refuses programs (401, 403, 405, 429) is alive.
"""

from __future__ import annotations

import argparse
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
SOURCES = "docs/sources.md"
FILES = (
    *("*.md", "*.cff", "pyproject.toml", "docs/*.md", "docs/[!t_]*/**/*.md", "datasets/*.md"),
    *("benchmarks/**/*.md", "examples/*.py", "polygraph/**/*.py"),
)
ADDRESS = re.compile(r"https?:/*[^\s<>\"'`)\]}]*")
IDENTIFIER = re.compile(r"\b(?:arXiv|doi):\s?(\S*\d)", re.IGNORECASE)
SHAPES = {
    "arxiv.org": re.compile(r"/abs/\d{4}\.\d{4,5}"),
    "doi.org": re.compile(r"/10\.\d{4,9}/\S+"),
    "openreview.net": re.compile(r"/forum\?id=[\w-]{10,}"),
}
ALIVE = (401, 403, 405, 429)


def pages(root: Path) -> Iterator[tuple[str, str]]:
    """The name and the text of every file that is looked at."""
    for pattern in FILES:
        for path in sorted(root.glob(pattern)):
            yield path.relative_to(root).as_posix(), path.read_text()


def links(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Every address, and the file that has it."""
    for where, text in pages(root):
        for address in ADDRESS.findall(text):
            yield address.rstrip(".,;:"), where


def fault(address: str) -> str | None:
    """What is wrong with the shape of an address; None if nothing is."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    if not re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", host):
        return "has no host"
    shape = SHAPES.get(host.removeprefix("www."))
    rest = parts.path + (f"?{parts.query}" if parts.query else "")
    if shape and not shape.fullmatch(rest):
        return f"is no address of {host}: {rest or 'empty'} is not like {shape.pattern}"
    return None


def faults(root: Path = ROOT) -> list[str]:
    """A sentence for each link that is bad by itself, or is a paper that is not in the sources."""
    known = (root / SOURCES).read_text()
    found = [f"{where}: {link} {why}" for link, where in links(root) if (why := fault(link))]
    papers = [(a, where) for a, where in links(root) if urlsplit(a).hostname in SHAPES]
    papers += [(n, where) for where, text in pages(root) for n in IDENTIFIER.findall(text)]
    found += [f"{where}: {name} is not in {SOURCES}" for name, where in papers if name not in known]
    return found


def answer(address: str, timeout: float = 20) -> str | None:
    """What goes wrong when the address is opened; None if nothing does."""
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (links.py)"})
    try:
        with urllib.request.urlopen(request, timeout=timeout):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code in ALIVE else f"answers {error.code}"
    except OSError as error:
        return f"does not answer: {getattr(error, 'reason', error)}"


def main() -> int:
    """Check shapes, and unless told otherwise answers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--offline", action="store_true", help="check the shapes alone")
    found = faults()
    addresses = sorted({address for address, _ in links()})
    if not parser.parse_args().offline and not found:
        with ThreadPoolExecutor(8) as pool:
            answers = dict(zip(addresses, pool.map(answer, addresses), strict=True))
        places = dict(links())
        found = [f"{places[a]}: {a} {why}" for a, why in answers.items() if why]
    print("\n".join(found) or f"{len(addresses)} links, none bad")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
