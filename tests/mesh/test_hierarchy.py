"""Hierarchies: sizes, tables that fit together, files that survive, a cache that can be trusted."""

import dataclasses
import errno
import itertools
import math
import multiprocessing
import pickle
import warnings

import numpy as np
import pytest
from support.mesh_shapes import grid, isolated, sphere, topology, torus, two_parts

from polygraph.mesh import (
    MeshError,
    MeshHierarchy,
    SpiralConfig,
    build_hierarchy,
    load_or_build,
    spiral_table,
)

LISTS = ("vertices", "faces", "spirals", "keep", "up_index", "up_weight")
TWO_RINGS = SpiralConfig(hops=(2, 2, 1), dilation=(2, 2, 1))


def same(a, b):
    """Bit for bit."""
    return a.hash == b.hash and all(
        x.dtype == y.dtype and np.array_equal(x, y)
        for name in LISTS
        for x, y in zip(getattr(a, name), getattr(b, name), strict=True)
    )


@pytest.fixture(scope="module")
def small():
    return build_hierarchy(*sphere(2), factors=(4, 4))


@pytest.mark.parametrize("upsampling", ["barycentric", "lstsq"])
@pytest.mark.parametrize("shape", [sphere, grid, torus, two_parts, isolated])
def test_levels_fit_together(shape, upsampling):
    v, f = shape()
    h = build_hierarchy(v + 0.1, f, factors=(3, 2), upsampling=upsampling)
    third = math.ceil(len(v) / 3)
    assert h.sizes == [len(v), third, math.ceil(third / 2)]
    values = np.random.default_rng(0).standard_normal((h.sizes[0], 5))
    for level, keep in enumerate(h.keep):
        np.testing.assert_array_equal(h.vertices[level + 1], h.vertices[level][keep])
        assert topology(h.faces[level + 1], h.sizes[level + 1]) == topology(f, len(v))
        down = values[keep]
        up = np.einsum("vt,vtc->vc", h.up_weight[level], down[h.up_index[level]])
        np.testing.assert_array_equal(up[keep], down)  # kept vertices come back exactly
        if upsampling == "barycentric":
            np.testing.assert_allclose(h.up_weight[level].sum(1), 1, rtol=0, atol=1e-15)
        values = down
    for size, spirals in zip(h.sizes, h.spirals, strict=True):
        np.testing.assert_array_equal(spirals[:, 0], np.arange(size))


def test_coma_template(coma_template):
    h = build_hierarchy(*coma_template)
    assert h.sizes == [5023, 1256, 314, 79, 20]
    lengths = [s.shape[1] for s in h.spirals]
    assert lengths[0] == 9
    # Published, with decimation by other edges: 9, 9, 9, 8.
    assert np.abs(np.array(lengths[1:]) - [9, 9, 9, 8]).max() <= 1
    assert h.settings["relaxed"] == [[], [], [], []]
    two = load_or_build(*coma_template, spiral=TWO_RINGS)
    assert two.spirals[0].shape[1] == 15
    assert abs(two.spirals[1].shape[1] - 14) <= 1
    assert [s.shape[1] for s in two.spirals[2:]] == lengths[2:]
    for level in range(4):
        np.testing.assert_array_equal(two.keep[level], h.keep[level])
        # Two eyeballs and a head with borders at the neck and within: all still there.
        assert topology(h.faces[level + 1], h.sizes[level + 1]) == topology(
            coma_template[1], len(coma_template[0])
        )


def test_spiralnet_lengths():
    h = build_hierarchy(
        *sphere(3), factors=(4,), spiral=SpiralConfig("spiralnet++", length=12, dilation=(2, 1))
    )
    assert [s.shape for s in h.spirals] == [(642, 12), (161, 12)]
    assert (h.spirals[0] >= 0).all()


def test_twins_map_to_themselves():
    v, f = sphere(2)
    both = build_hierarchy(np.concatenate([v, v]), np.concatenate([f, f + 162]), factors=(4,))
    for own, kept in enumerate(both.keep[0]):
        weight, index = both.up_weight[0][kept], both.up_index[0][kept]
        assert index[weight == 1].tolist() == [own]


def test_no_coarser_levels():
    h = build_hierarchy(*sphere(1), factors=())
    assert h.sizes == [42]
    assert h.keep == h.up_index == h.up_weight == []


def test_reference_is_followed_down():
    v, f = sphere(2)
    v = v + 0.02 * np.random.default_rng(0).standard_normal(v.shape)
    h = build_hierarchy(v, f, factors=(4,), spiral=SpiralConfig(reference=50))
    nearest = np.argmin(np.linalg.norm(h.vertices[1] - v[50], axis=1))
    starts = h.spirals[1][:, 1]
    # Every way leads there: following the starts, all vertices arrive.
    for v0 in range(h.sizes[1]):
        w, steps = v0, 0
        while w != nearest:
            w, steps = starts[w], steps + 1
            assert steps <= h.sizes[1]


def test_hash_tells_content_and_settings_apart(small):
    v, f = sphere(2)
    assert same(build_hierarchy(v, f, factors=(4, 4)), small)
    moved = v.copy()
    moved[0, 0] = np.nextafter(moved[0, 0], 2)
    others = [
        build_hierarchy(moved, f, factors=(4, 4)),
        build_hierarchy(v, np.roll(f, 1, axis=0), factors=(4, 4)),
        build_hierarchy(v, f, factors=(4, 3)),
        build_hierarchy(v, f, factors=(4, 4), upsampling="lstsq"),
        build_hierarchy(v, f, factors=(4, 4), spiral=SpiralConfig(length=7)),
    ]
    hashes = [h.hash for h in (small, *others)]
    assert len(set(hashes)) == len(hashes)
    assert all(len(h) == 64 for h in hashes)


SPIRALNET = SpiralConfig(convention="spiralnet++")


@pytest.mark.parametrize(
    ("shape", "options", "version"),
    [
        (sphere, {}, 1),
        (sphere, {"upsampling": "lstsq"}, 2),
        (sphere, {"spiral": SPIRALNET}, 2),
        (grid, {}, 2),
        (grid, {"spiral": SpiralConfig(length=8)}, 1),
        (grid, {"spiral": SpiralConfig(length=8, hops=(2,))}, 2),
    ],
    ids=["closed", "lstsq", "spiralnet++", "open", "open, set length", "open, two rings"],
)
def test_version_rises_only_where_tables_changed(shape, options, version):
    """A cache holds no table of an old rule, and a run goes on with the hierarchy it knows."""
    assert build_hierarchy(*shape(), factors=(2,), **options).settings["version"] == version


def test_a_file_keeps_its_spirals(tmp_path):
    """Of whatever convention and version they were: a trained model goes on with its own."""
    new = build_hierarchy(*sphere(1), factors=(2,), spiral=SPIRALNET)
    spirals = [np.roll(s[:, 1:], 1, axis=1) for s in new.spirals]
    spirals = [np.insert(s, 0, np.arange(len(s)), axis=1) for s in spirals]
    old = dataclasses.replace(new, spirals=spirals, settings=new.settings | {"version": 1})
    assert old.hash != new.hash
    old.save(tmp_path / "old.npz")
    assert same(MeshHierarchy.load(tmp_path / "old.npz"), old)


def test_several_references_are_followed_down():
    v, f = two_parts()
    v = v + 0.03 * np.random.default_rng(0).standard_normal(v.shape)  # without ties
    spiral = SpiralConfig(reference=(len(v) - 1, 3))
    h = build_hierarchy(v, f, factors=(2,), spiral=spiral)
    assert h.settings["spiral"]["reference"] == [len(v) - 1, 3]
    for level, (points, faces) in enumerate(zip(h.vertices, h.faces, strict=True)):
        near = [int(np.argmin(np.linalg.norm(points - v[r], axis=1))) for r in spiral.reference]
        np.testing.assert_array_equal(h.spirals[level], spiral_table(points, faces, reference=near))
    with pytest.raises(
        ValueError, match=rf"reference must be a vertex in \[0, {len(v)}\), got 999"
    ):
        build_hierarchy(v, f, factors=(2,), spiral=SpiralConfig(reference=(3, 999)))


def test_file_round_trip(small, tmp_path):
    path = tmp_path / "h.npz"
    small.save(path)
    loaded = MeshHierarchy.load(str(path))
    assert same(loaded, small)
    assert loaded.settings == small.settings
    assert [p.name for p in tmp_path.iterdir()] == ["h.npz"]


def test_damaged_files(small, tmp_path):
    path = tmp_path / "h.npz"
    small.save(path)
    good = path.read_bytes()
    for size in (0, 10, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(MeshError, match=r"h\.npz: not a readable mesh hierarchy"):
            MeshHierarchy.load(path)
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(good), 100).tolist():
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        loaded, message = None, ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zip headers with odd flags may warn
                loaded = MeshHierarchy.load(path)
        except MeshError as refused:
            message = str(refused)
        # Either refused, or the bit was one that no reader looks at.
        assert "h.npz" in message if loaded is None else same(loaded, small)
    path.unlink()
    with pytest.raises(MeshError, match=r"h\.npz: no such file"):
        MeshHierarchy.load(path)


def test_other_content_under_the_old_hash(small, tmp_path):
    path = tmp_path / "h.npz"
    small.save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["up_weight_0"] = arrays["up_weight_0"] + 1e-9
    np.savez(path, **arrays)
    with pytest.raises(MeshError, match="damaged: the content has hash"):
        MeshHierarchy.load(path)
    del arrays["keep_1"]
    np.savez(path, **arrays)
    with pytest.raises(MeshError, match="keep_1"):
        MeshHierarchy.load(path)


class Bomb:
    """Leaves a trace when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_unpickled(small, tmp_path):
    path, trace = tmp_path / "h.npz", tmp_path / "trace"
    small.save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["meta"] = np.array(Bomb(trace), dtype=object)
    np.savez(path, allow_pickle=True, **arrays)
    with pytest.raises(MeshError, match="not a readable mesh hierarchy"):
        MeshHierarchy.load(path)
    path.write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(MeshError, match="not a readable mesh hierarchy"):
        MeshHierarchy.load(path)
    assert not trace.exists()


def test_full_disk_leaves_the_old_file(small, tmp_path, monkeypatch):
    path = tmp_path / "h.npz"
    small.save(path)

    def full(file, **_):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    other = build_hierarchy(*sphere(1), factors=(4,))
    with pytest.raises(OSError, match="No space left"):
        other.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["h.npz"]
    assert same(MeshHierarchy.load(path), small)


def test_cache_builds_once(tmp_path, monkeypatch):
    v, f = sphere(2)
    cache = tmp_path / "not" / "yet"
    first = load_or_build(v, f, factors=(4, 4), cache_dir=cache)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setitem(load_or_build.__globals__, "build_hierarchy", None)
    assert same(load_or_build(v, f, factors=(4.0, 4), cache_dir=cache), first)
    with pytest.raises(TypeError):  # other settings are not in the cache
        load_or_build(v, f, factors=(4,), cache_dir=cache)


def test_cache_heals(tmp_path):
    v, f = sphere(2)
    first = load_or_build(v, f, factors=(4, 4), cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    for bad in (b"", good[:5000], b"x" * 100):
        path.write_bytes(bad)
        with pytest.warns(UserWarning, match="rebuilding"):
            assert same(load_or_build(v, f, factors=(4, 4), cache_dir=tmp_path), first)
        assert path.read_bytes() == good
    build_hierarchy(*sphere(1), factors=(2,)).save(path)  # a sound file of something else
    with pytest.warns(UserWarning, match="made with other settings"):
        assert same(load_or_build(v, f, factors=(4, 4), cache_dir=tmp_path), first)
    assert path.read_bytes() == good


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot keep the mesh hierarchy"):
        h = load_or_build(*sphere(1), factors=(2,), cache_dir=tmp_path / "file")
    assert h.sizes == [42, 21]


def _fill_cache(cache):
    return load_or_build(*sphere(2), factors=(4, 4), cache_dir=cache).hash


def test_cache_is_shared_by_processes(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(_fill_cache, [tmp_path] * 4))) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_summary(small):
    lines = small.summary().splitlines()
    assert small.hash[:12] in lines[0]
    assert [line.split()[1] for line in lines[2:]] == ["162", "41", "11"]
    relaxed = build_hierarchy(*isolated(), factors=(33,))
    assert relaxed.summary().splitlines()[-1] == "level 1 gave up: isolated"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": 4}, "factors must be a sequence of numbers"),
        ({"factors": (4, 0.5)}, "factors must be finite numbers >= 1, got 0.5"),
        ({"factors": (float("nan"),)}, "factors must be finite numbers >= 1, got nan"),
        ({"factors": (float("inf"),)}, "factors must be finite numbers >= 1, got inf"),
        ({"factors": ("4",)}, "factors must be finite numbers >= 1, got '4'"),
        ({"upsampling": "nearest"}, r"upsampling must be one of \['barycentric', 'lstsq'\]"),
        ({"factors": (4,), "spiral": TWO_RINGS}, "spiral hops names 3 levels, the hierarchy has 2"),
        ({"spiral": SpiralConfig(reference=162)}, r"reference must be a vertex in \[0, 162\)"),
        ({"factors": (4, 100)}, "hierarchy level 2 .*cannot reduce 41 vertices to 1"),
    ],
)
@pytest.mark.parametrize("build", [build_hierarchy, load_or_build])
def test_bad_settings(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(*sphere(2), **options)


@pytest.mark.parametrize("far", [1e120, 1e200, 1e306])
def test_a_coarse_mesh_that_is_far_too_small(far):
    """What is far away was dropped, and its distance to the rest has no square."""
    v, f = sphere(1)
    with pytest.raises(MeshError, match=r"^hierarchy level 1 .* is 0\.\d+ large, .* overflow$"):
        build_hierarchy(np.concatenate([v * 0.1, [[far, 0, 0]]]), f, factors=(10.75,))


def test_bad_template():
    v, f = sphere(1)
    with pytest.raises(MeshError, match="template: face"):
        build_hierarchy(v, f + 10)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("spirals", lambda a: a + 1, r"spirals\[0\] must hold integers in \[-1, 162\)"),
        ("spirals", lambda a: a[:-1], r"spirals\[0\] must have shape \[162, 'S'\]"),
        ("spirals", lambda a: a.astype(float), r"spirals\[0\] must hold integers"),
        ("keep", lambda a: a + 160, r"keep\[0\] must hold integers in \[0, 162\)"),
        ("keep", lambda a: a[1:], r"keep\[0\] must have shape \[41\]"),
        ("up_index", lambda a: a - 1, r"up_index\[0\] must hold integers in \[0, 41\)"),
        ("up_index", lambda a: a[:, :2], r"up_index\[0\] must have shape \[162, 3\]"),
        ("up_weight", lambda a: a * np.nan, r"up_weight\[0\] must be finite"),
        ("faces", lambda a: a + 1, "hierarchy level 0: face"),
        ("vertices", lambda a: a * np.inf, "hierarchy level 0: .* not finite"),
    ],
)
def test_tables_are_checked(small, name, change, message):
    lists = {n: list(getattr(small, n)) for n in LISTS}
    with np.errstate(invalid="ignore"):
        lists[name][0] = change(lists[name][0])
    with pytest.raises(MeshError, match=message):
        MeshHierarchy(**lists)


@pytest.mark.parametrize("name", LISTS)
def test_numbers_of_tables_are_checked(small, name):
    lists = {n: list(getattr(small, n)) for n in LISTS}
    lists[name] = list(itertools.islice(lists[name], 1))
    with pytest.raises(MeshError, match=r"want \d arrays"):
        MeshHierarchy(**lists)
