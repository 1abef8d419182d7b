"""Damaged mesh and point-cloud files: refused by name, or read as what they say.

    python tests/fuzz/files.py --cases 20000            so many files, each damaged in one way
    python tests/fuzz/files.py --cases 20000 --seed 1 --first 20000
    python tests/fuzz/files.py --case 123               one case alone, with the file it is made of

A case is made of (seed, number) and nothing else: a small valid file is made, damaged, and read.
It fails where anything but a MeshError that begins with the file's name is raised, where it takes
ten seconds or a gigabyte, where what was read is not what an independent reader finds, or where
the damage is one that can be noticed (a count changed, a line or the end lost, an index out of
range) and the file is read nevertheless. Exit status: 0, or 1 where a case failed.
"""

from __future__ import annotations

import argparse
import resource
import signal
import struct
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

PATIENCE = 10  # seconds
MEMORY = 1 << 30  # bytes beyond what the process has when it begins
QUADS = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
CUBE = np.array([[x, y, z] for x in (0.0, 1) for y in (0, 1) for z in (0, 1)])
PLY = (
    "ply\nformat {} 1.0\ncomment made to be damaged\nelement vertex {}\nproperty float x\n"
    "property float y\nproperty float z\nelement face {}\n"
    "property list uchar uchar vertex_indices\nend_header\n"
)
PCD = (
    "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {0}\nHEIGHT 1\n"
    "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {0}\nDATA {1}\n"
)

Array = Any


class File:
    """A valid file, and where what can be damaged on purpose stands in it."""

    def __init__(self, suffix: str, head: str, body: bytes, text: bool, counted: bool) -> None:
        self.suffix, self.head, self.body = suffix, head.encode(), body
        self.text, self.counted = text, counted

    @property
    def data(self) -> bytes:
        """All of it."""
        return self.head + self.body


def lines_of(rows: Array, word: str = "") -> str:
    """A line of numbers for each row."""
    return "".join(word + " ".join(map(repr, row)) + "\n" for row in rows)


def make(kind: str, rng: np.random.Generator) -> File:
    """A valid file: a cube, pushed out of shape, of quads, triangles or both."""
    points = (CUBE + rng.normal(size=(8, 3)) * 0.05).astype(np.float32).astype(float)
    faces: list[list[int]] = []
    style = int(rng.integers(3))
    for i, (a, b, c, d) in enumerate(QUADS):
        cut = style == 0 or (style == 1 and i % 2 == 1) or kind.startswith("stl")
        faces += [[a, b, c], [a, c, d]] if cut else [[a, b, c, d]]
    vertices, rows = points.tolist(), [[len(f), *f] for f in faces]
    if kind == "obj":
        text = lines_of(vertices, "v ") + lines_of([[i + 1 for i in f] for f in faces], "f ")
        return File(".obj", "# made to be damaged\n", text.encode(), True, False)
    if kind == "off":
        head = f"OFF\n{len(vertices)} {len(faces)} 0\n"
        return File(".off", head, (lines_of(vertices) + lines_of(rows)).encode(), True, True)
    if kind == "ply-ascii":
        text = lines_of(vertices) + lines_of(rows)
        return File(".ply", PLY.format("ascii", 8, len(faces)), text.encode(), True, True)
    if kind.startswith("ply"):
        order = kind[4:]
        body = np.asarray(points, "<f4" if order == "little" else ">f4").tobytes()
        body += b"".join(bytes(row) for row in rows)
        head = PLY.format(f"binary_{order}_endian", 8, len(faces))
        return File(".ply", head, body, False, True)
    if kind.startswith("stl"):
        return make_stl(kind, points[np.array(faces)])
    if kind == "xyz":
        return File(".xyz", "", lines_of(vertices).encode(), True, False)
    mode = kind[4:]
    body = lines_of(vertices).encode()
    if mode == "binary":
        body = points.astype("<f4").tobytes()
    elif mode == "binary_compressed":  # nothing is found twice: literals alone are valid, too
        columns = points.T.astype("<f4").tobytes()
        body = b"".join(bytes([31]) + columns[i : i + 32] for i in range(0, len(columns), 32))
        body = struct.pack("<II", len(body), len(columns)) + body
    return File(".pcd", PCD.format(8, mode), body, mode == "ascii", True)


def make_stl(kind: str, triangles: Array) -> File:
    """An .stl file."""
    if kind == "stl-text":
        facets = [
            f"facet normal 0 0 0\nouter loop\n{lines_of(t, 'vertex ')}endloop\nendfacet\n"
            for t in triangles.tolist()
        ]
        body = "".join(facets) + "endsolid cube\n"
        return File(".stl", "solid cube\n", body.encode(), True, True)
    body = struct.pack("<I", len(triangles))
    body += b"".join(bytes(12) + t.astype("<f4").tobytes() + bytes(2) for t in triangles)
    return File(".stl", "solid".ljust(80), body, False, True)


KINDS = (
    "obj off ply-ascii ply-little ply-big stl-text stl-binary "
    "pcd-ascii pcd-binary pcd-binary_compressed xyz"
).split()


# ---- damage: the new bytes, and whether they must be refused ----


def flip(file: File, rng: np.random.Generator) -> tuple[bytes, bool]:
    """Some bytes become others."""
    data = bytearray(file.data)
    for at in rng.integers(0, len(data), rng.integers(1, 5)):
        data[at] = rng.integers(256)
    return bytes(data), False


def cut(file: File, rng: np.random.Generator) -> tuple[bytes, bool]:
    """The end is lost; of a text, all but a part of its last word can be noticed."""
    data = file.data
    keep = int(rng.integers(len(data)))
    if rng.integers(2):
        keep = len(data) - 1 - int(rng.integers(min(60, len(data))))
    rest = data[keep:]
    noticed = file.counted and len(rest.split()) + rest[:1].isspace() > 1
    return data[:keep], noticed or (file.counted and not file.text and rest != b"\n")


def body_lines(file: File) -> list[bytes]:
    return file.body.splitlines(keepends=True)


def lose_line(file: File, rng: np.random.Generator) -> tuple[bytes, bool]:
    """A line of the body is gone."""
    lines = body_lines(file)
    at = int(rng.integers(len(lines)))
    lost = lines.pop(at)
    return file.head + b"".join(lines), file.counted or lost[:1] == b"v"


def double_line(file: File, rng: np.random.Generator) -> tuple[bytes, bool]:
    """A line of the body comes twice."""
    lines = body_lines(file)
    at = int(rng.integers(len(lines)))
    lines.insert(at, lines[at])
    return file.head + b"".join(lines), file.counted


def exchange_lines(file: File, rng: np.random.Generator) -> tuple[bytes, bool]:
    """Two lines of the body change places."""
    lines = body_lines(file)
    a, b = rng.integers(len(lines), size=2)
    lines[a], lines[b] = lines[b], lines[a]
    return file.head + b"".join(lines), False


def change_number(file: File, rng: np.random.Generator) -> tuple[bytes, bool]:
    """A number of the body becomes one that no mesh has there, or just another."""
    words = ["99", "-99", "1.5", "1e999", "nan", "1_0", "0x1", "1,5", "\u0661", "1-2", "300", "--1"]
    lines = body_lines(file)
    at = int(rng.integers(len(lines)))
    parts = lines[at].split()
    numbers = [i for i, part in enumerate(parts) if part[-1:].isdigit()]
    if not numbers or parts[0] == b"facet":
        return flip(file, rng)
    place = int(rng.choice(numbers))
    word = words[int(rng.integers(len(words)))]
    index = b"." not in parts[place]
    parts[place] = word.encode()
    lines[at] = b" ".join(parts) + b"\n"
    never = word not in ("99", "-99", "1.5", "300")
    return file.head + b"".join(lines), index or never


def change_count(file: File, rng: np.random.Generator) -> tuple[bytes, bool]:
    """A count of the header becomes another."""
    other = int(rng.choice([0, 1, 7, 9, 11, 13, 10**6, 10**12]))
    if file.suffix == ".stl" and not file.text:
        count = int.from_bytes(file.body[:4], "little")
        body = (other % 2**32).to_bytes(4, "little") + file.body[4:]
        return file.head + body, other % 2**32 != count
    words = {".ply": b"element vertex ", ".pcd": b"POINTS ", ".off": b"OFF\n"}
    word = words.get(file.suffix)
    if file.suffix == ".ply" and rng.integers(2):
        word = b"element face "
    if word is None:
        return double_line(file, rng)
    begin = file.head.index(word) + len(word)
    end = next(i for i in range(begin, len(file.head)) if not file.head[i : i + 1].isdigit())
    head = file.head[:begin] + str(other).encode() + file.head[end:]
    return head + file.body, int(file.head[begin:end]) != other


def join(file: File, rng: np.random.Generator) -> tuple[bytes, bool]:
    """The file, and again the file or its body."""
    again = file.data if rng.integers(2) else file.body
    return file.data + again, file.counted and file.head[:11] != b"solid cube\n"


TEXT_DAMAGE = (lose_line, double_line, exchange_lines, change_number)
DAMAGE = (flip, cut, change_count, join)


# ---- what an independent reader finds ----


def plain_reading(file: File, data: bytes, kind: str) -> Array | None:
    """The vertices, word by word; None where nothing can be said."""
    if not file.text:
        same = len(data) == len(file.data) and data.startswith(file.head)
        if kind.startswith("ply") and same:
            return np.frombuffer(data, ">f4" if kind == "ply-big" else "<f4", 24, len(file.head))
        if kind == "pcd-binary" and same:
            return np.frombuffer(data, "<f4", 24, len(file.head))
        return None
    if not data.startswith(file.head):
        return None
    lines = data[len(file.head) :].split(b"\n")
    if kind in ("obj", "off", "xyz"):
        lines = [line.partition(b"#")[0] for line in lines]
    rows = [line.split() for line in lines if line.split()]
    if kind == "obj":
        rows = [row[1:] for row in rows if row[0] == b"v"] if b"\\" not in data else []
    elif kind == "stl-text":
        return None
    elif kind != "xyz":
        rows = rows[:8]
    return np.array([[float(word) for word in row[:3]] for row in rows]) if rows else None


# ---- one case ----


def case_of(seed: int, number: int) -> tuple[str, str, File, bytes, bool]:
    """Kind, damage, the valid file, the damaged one, and whether it must be refused."""
    rng = np.random.default_rng([seed, number])
    kind = KINDS[number % len(KINDS)]
    file = make(kind, rng)
    possible = DAMAGE + TEXT_DAMAGE if file.text else DAMAGE
    damage = possible[int(rng.integers(len(possible)))]
    data, refuse = damage(file, rng)
    return kind, damage.__name__, file, data, refuse


def run_case(seed: int, number: int, folder: Path) -> tuple[str, str | None]:
    """What became of a case (``refused`` or ``read``), and what is wrong, if anything is."""
    from polygraph.mesh import MeshError, read_mesh, validate_mesh
    from polygraph.mesh.cloud import read_cloud

    kind, damage, file, data, refuse = case_of(seed, number)
    path = folder / f"case{file.suffix}"
    path.write_bytes(data)
    cloud = file.suffix in (".pcd", ".xyz")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* faces ", UserWarning)
            warnings.filterwarnings("error", category=RuntimeWarning)
            if cloud:
                vertices = read_cloud(path)
            else:
                mesh = read_mesh(path)
                vertices = validate_mesh(mesh.vertices, mesh.faces).vertices
    except MeshError as error:
        named = str(error).startswith(f"{path}: ")
        return "refused", None if named else f"{damage}: the file is not named: {error}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "failed", f"{damage}: raised {type(error).__name__}: {error}"
    if refuse:
        return "read", f"{damage} was not noticed"
    if not np.isfinite(vertices).all():
        return "read", f"{damage}: not finite"
    try:
        found = plain_reading(file, data, kind)
    except ValueError as error:
        return "read", f"{damage}: what is no number was read: {error}"
    if found is not None and not np.array_equal(found.reshape(-1, 3), vertices):
        return "read", f"{damage}: other vertices than the file's"
    return "read", None


def limits() -> None:
    """No case may take more time or memory than this."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"{PATIENCE} seconds")

    signal.signal(signal.SIGALRM, late)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def run(seed: int, first: int, cases: int) -> int:
    """Run cases and print what came of them; the exit status."""
    came: Counter[tuple[str, str]] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        run_case(seed, first, Path(folder))  # what is imported does not count
        limits()
        for number in range(first, first + cases):
            signal.alarm(PATIENCE)
            outcome, fault = run_case(seed, number, Path(folder))
            signal.alarm(0)
            kind = KINDS[number % len(KINDS)]
            came[kind, outcome] += 1
            if fault is not None:
                failed += 1
                print(f"FAILED case {number}, {kind}: {fault}", flush=True)
    for kind in KINDS:
        print(f"    {kind:22} {came[kind, 'refused']:6} refused, {came[kind, 'read']:6} read")
    print(f"{cases} cases from {first} with seed {seed}, {failed} failed")
    return int(failed > 0)


def main() -> int:
    """Run; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20000, metavar="N")
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER", help="begin here")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, metavar="NUMBER", help="run this one alone")
    options = parser.parse_args()
    if options.case is None:
        return run(options.seed, options.first, options.cases)
    kind, damage, _, data, refuse = case_of(options.seed, options.case)
    print(f"{kind}, {damage}, {'must be refused' if refuse else 'may be read'}\n{data!r}")
    return run(options.seed, options.case, 1)


if __name__ == "__main__":
    sys.exit(main())
