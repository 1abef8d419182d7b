"""Readers of point clouds: what is damaged is refused by line and count."""

import struct
import warnings

import numpy as np
import pytest
from support.mesh_files import ply_head, put, refused

from polygraph.mesh import read_mesh
from polygraph.mesh.cloud import read_cloud
from polygraph.mesh.formats.pcd import lzf_decompress

POINTS = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32).astype(np.float64)


def lzf_compress(data):
    """Literals, and references to where the last three bytes stood before; no more."""
    out, seen, at, literal = bytearray(), {}, 0, bytearray()

    def flush():
        for i in range(0, len(literal), 32):
            out.extend([len(literal[i : i + 32]) - 1, *literal[i : i + 32]])
        literal.clear()

    while at < len(data):
        key = data[at : at + 3]
        back, seen[key] = at - seen.get(key, -10000), at
        if len(key) < 3 or back > 8000:
            literal.append(data[at])
            at += 1
            continue
        flush()
        length = 3
        while (
            length < 264 and data[at + length : at + length + 1] == data[at + length - back :][:1]
        ):
            length += 1
        offset, short = back - 1, min(length - 2, 7)
        out.append(short << 5 | offset >> 8)
        if short == 7:
            out.append(length - 9)
        out.append(offset & 255)
        at += length
    flush()
    return bytes(out)


def pcd(mode, points=POINTS, count=None, size=4, more=""):
    kind = f"<f{size}"
    count = len(points) if count is None else count
    head = (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS x y z _ rgb\nSIZE {size} {size} {size} 1 4\n"
        f"TYPE F F F U U\nCOUNT 1 1 1 3 1\nWIDTH {count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {count}\nDATA {mode}\n"
    ).encode()
    rows = np.zeros(len(points), [("p", kind, 3), ("_", "u1", 3), ("rgb", "<u4")])
    rows["p"] = points
    if mode == "ascii":
        return (
            head + "".join(f"{x!r} {y!r} {z!r} 1 2 3 9\n" for x, y, z in points.tolist()).encode()
        )
    if mode == "binary":
        return head + rows.tobytes()
    columns = b"".join(rows["p"][:, i].tobytes() for i in range(3))
    columns += rows["_"].tobytes() + rows["rgb"].tobytes()
    packed = lzf_compress(columns)
    assert len(packed) < len(columns)
    return head + struct.pack("<II", len(packed), len(columns)) + packed


@pytest.mark.parametrize("mode", ["ascii", "binary", "binary_compressed"])
@pytest.mark.parametrize("size", [4, 8])
def test_pcd(mode, size, tmp_path):
    points = POINTS if size == 4 else POINTS / 3
    np.testing.assert_array_equal(
        read_cloud(put(tmp_path, "a.pcd", pcd(mode, points, size=size))), points
    )


@pytest.mark.parametrize("mode", ["ascii", "binary", "binary_compressed"])
def test_damaged_pcd(mode, tmp_path):
    def fault(data, words):
        refused(put(tmp_path, "a.pcd", data), words, read_cloud)

    whole = pcd(mode)
    if mode == "binary_compressed":
        fault(pcd(mode, count=52), "52 points have 988 bytes, its data announce 950")
        fault(whole[:-9], r"it ends after \d+ of \d+ compressed bytes")
        at = whole.index(b"compressed\n") + 19
        fault(whole[:at] + b"\xff\xff\xff" + whole[at + 3 :], "compressed data are damaged")
    else:
        fault(pcd(mode, POINTS[:1], count=5), "it ends after 1 of 5 points")
        fault(pcd(mode, count=49), "follow")
        fault(whole[: len(whole) // 2], r"it ends after \d+ of 50 points|a point has 7 numbers")
    fault(whole + b"more", "follow|not a number")
    spoiled = POINTS.copy()
    spoiled[7, 1] = np.nan
    fault(pcd(mode, spoiled), "1 of 50 points are not finite, first point 7")
    for old, new, words in (
        (b"POINTS 50", b"POINTS 51", "POINTS is 51, WIDTH x HEIGHT is 50 x 1"),
        (b"WIDTH 50", b"WIDTH 5_0", "WIDTH must be a whole number, got '5_0'"),
        (b"x y z", b"x y w", "its fields must be x, y, z"),
        (b"TYPE F", b"TYPE Q", "field x has the unknown type Q of size 4"),
        (b"COUNT 1", b"COUNT 2", "field x has the count 2"),
        (b"TYPE F ", b"TYPE ", "must be as many, got 5, 5, 4, 5"),
        (b"DATA ", b"DATA x", "DATA must be ascii"),
        (b"DATA", b"# DATA", r"is not valid in a header|no line DATA|not finite"),
    ):
        fault(whole.replace(old, new, 1), words)


def test_text_of_clouds(tmp_path):
    assert lzf_decompress(b"\x00a\xe0\xff\x00", 265) == b"a" * 265
    assert lzf_decompress(b"\x00a\x20\x05", 4) is None
    path = put(tmp_path, "a.xyz", b"\xef\xbb\xbf# a comment\n1 2 3 255 0 0\r\n\n4 5 6 0 0 0")
    assert read_cloud(path).tolist() == [[1, 2, 3], [4, 5, 6]]
    for text, words in (
        ("1 2 3\n4 5\n", "line 2: a point has 3 numbers, got 2"),
        ("2\n1 2 3\n", "line 1: a point has 3 numbers or more, got 1"),
        ("1 2 3\n4;5;6\n", "line 2: '4;5;6' is not a number"),
        ("1 2 3\nnan 5 6\n", "1 of 2 points are not finite, first point 1"),
        ("# nothing\n", "it holds no points"),
    ):
        refused(put(tmp_path, "a.xyz", text), words, read_cloud)
    refused(put(tmp_path, "a.xyz", "1 2 3\n".encode("utf-16")), "UTF-16", read_cloud)


def test_signaling_nans_are_told_without_a_warning(tmp_path):
    nan = np.array([0x7F800001], "<u4").tobytes()
    head = ply_head("binary_little_endian", 3, 0)
    for name, data in (
        ("a.ply", head.encode() + nan * 9),
        ("a.stl", bytes(80) + struct.pack("<I", 1) + nan * 12 + bytes(2)),
        (
            "a.pcd",
            pcd("binary").partition(b"binary\n")[0] + b"binary\n" + (nan * 3 + bytes(7)) * 50,
        ),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read = read_cloud if name == "a.pcd" else read_mesh
            refused(put(tmp_path, name, data), "are not finite", read)
