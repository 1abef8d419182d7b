"""Denoisers of meshes and point clouds: noise, peers, runs, the command, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
import torch
from support.mesh_shapes import grid, sphere
from support.tiny import write_meshes
from support.tiny_vertices import QUICK_VERTICES

from polygraph.cli.main import main
from polygraph.data.vertex_sets import (
    VertexDataConfig,
    edges_of,
    noise_unit,
    open_vertices,
    vertices_of_clouds,
)
from polygraph.mesh import read_mesh, validate_mesh, write_mesh
from polygraph.mesh.cloud import read_cloud
from polygraph.tasks import denoise
from polygraph.tasks.denoise.arguments import parse_train_denoise
from polygraph.tasks.denoise.picture_training import DenoiseRunConfig
from polygraph.tasks.denoise.run import load_run
from polygraph.tasks.denoise.smoothing import LAPLACIAN, TAUBIN, best_steps, neighbour_mean, smooth
from polygraph.tasks.denoise.vertex_training import VertexRunConfig, VertexTask, noisy_shape
from polygraph.train.checkpoint import CheckpointError
from polygraph.train.config import TrainConfig
from polygraph.train.vertex_batches import VertexBatches, patch_of

QUICK = {name: value for name, value in QUICK_VERTICES.items() if name != "kind"}


def quiet(line):
    """Say nothing."""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYGRAPH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    return write_meshes(tmp_path_factory.mktemp("data") / "meshes", 24)


@pytest.fixture(scope="module")
def mesh_run(meshes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mesh"
    return denoise.train(meshes, folder, kind="mesh", say=quiet, **QUICK)


def clouds(count=6, points=60):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(points + n, 3)) * [3, 2, 1] + 1000 * n for n in range(count)]


@pytest.fixture(scope="module")
def cloud_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cloud"
    return denoise.train(clouds(), folder, kind="cloud", points=40, say=quiet, **QUICK)


# ---- noise, batches, peers ----


def test_units_of_noise():
    """A square with a diagonal: four sides of 2, and 2 sqrt 2; a box of 1 x 2 x 2."""
    square = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]])
    edges = edges_of(np.array([[0, 1, 2], [0, 2, 3]]))
    assert edges.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [2, 3]]
    assert noise_unit(square, edges) == pytest.approx((8 + 2 * 2**0.5) / 5)
    assert noise_unit(np.array([[0, 0, 0], [1, 2, 0], [0, 0, 2]])) == pytest.approx(0.03)
    clean, noisy = noisy_shape(square.astype(np.float32), edges, 0.5, 3, 1)
    drawn = np.random.default_rng([3, 1]).standard_normal((4, 3))
    np.testing.assert_allclose(noisy, square + 0.5 * noise_unit(square, edges) * drawn)
    assert np.array_equal(clean, square)


def test_batches_are_functions_of_the_step():
    shapes = [cloud.astype(np.float32) for cloud in clouds(4)]
    settings = {"sigma": (0.5, 2.0), "points": 20}
    config = TrainConfig(batch_size=4)
    clean, noise, unit = VertexBatches(shapes, range(4), config, **settings)(7)
    assert clean.shape == noise.shape == (4, 20, 3)
    again = VertexBatches(shapes, range(4), config, **settings)(7)
    assert torch.equal(again[1], noise)
    halves = [
        VertexBatches(shapes, range(4), config, **settings, rank=r, world=2)(7) for r in (0, 1)
    ]
    for n, whole in enumerate((clean, noise, unit)):
        assert torch.equal(torch.stack([half[n] for half in halves], 1).flatten(0, 1), whole)
    spread = (noise / unit).std((1, 2))
    assert 0.3 < spread.min() < spread.max() < 2.6
    np.testing.assert_allclose(clean.mean(1), 0, atol=1e-3)  # float32, 3,000 from the origin
    points = np.array([[0, 0, 0], [9, 0, 0], [1, 0, 0], [2, 0, 0]], np.float32)
    assert patch_of(points, 3, 0)[:, 0].tolist() == [0, 1, 2]


def test_peers_are_those_of_sparse_matrices():
    vertices, faces = sphere()
    vertices = np.asarray(vertices, np.float64)
    edges, count = edges_of(faces), len(vertices)
    ones = np.ones(len(edges))
    matrix = scipy.sparse.coo_matrix((ones, (edges[:, 0], edges[:, 1])), (count, count))
    matrix = (matrix + matrix.T).tocsr()
    mean = scipy.sparse.diags(1 / np.asarray(matrix.sum(1)).ravel()) @ matrix
    laplacian, taubin = vertices, vertices
    for _ in range(3):
        laplacian = laplacian + 0.5 * (mean @ laplacian - laplacian)
        taubin = taubin + 0.5 * (mean @ taubin - taubin)
        taubin = taubin - 0.53 * (mean @ taubin - taubin)
    ours = neighbour_mean(vertices, edges)
    np.testing.assert_allclose(smooth(vertices, ours, LAPLACIAN, 3), laplacian, atol=1e-12)
    np.testing.assert_allclose(smooth(vertices, ours, TAUBIN, 3), taubin, atol=1e-12)
    alone = neighbour_mean(np.concatenate([vertices, [[7.0, 7, 7]]]), edges)
    values = np.arange(3 * count + 3.0).reshape(-1, 3)
    assert np.array_equal(alone(values)[-1], values[-1])
    noisy = [noisy_shape(vertices.astype(np.float32), edges, 0.4, 0, n) for n in range(2)]
    steps = best_steps([y for _, y in noisy], [x for x, _ in noisy], edges)
    assert steps["taubin"] > 0
    assert best_steps([vertices], [vertices], edges) == {"laplacian": 0, "taubin": 0}


def test_clouds_have_neighbours_on_both_sides():
    points = np.random.default_rng(0).normal(size=(30, 3))
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    near = np.argsort(distance, 1)[:, 1:13]
    matrix = np.zeros((30, 30))
    np.put_along_axis(matrix, near, 1, 1)
    matrix = np.maximum(matrix, matrix.T)
    wanted = matrix @ points / matrix.sum(1, keepdims=True)
    np.testing.assert_allclose(neighbour_mean(points)(points), wanted, atol=1e-12)


# ---- runs ----


@pytest.mark.parametrize("name", ["mesh_run", "cloud_run"])
def test_a_run_says_what_it_is(name, request):
    run = request.getfixturevalue(name)
    mesh = name == "mesh_run"
    result = run.result
    assert result["kind"] == "denoise-vertices"
    for part in ("val", "test"):
        found = result[part]
        assert found["ratio"] == pytest.approx(found["error"] / found["noisy_error"])
        assert set(found["levels"]) == {"0.2" if mesh else "1"}
        assert found["unit"].startswith("mean edge length" if mesh else "hundredth")
        level = next(iter(found["levels"].values()))
        assert set(level["steps"]) == {"laplacian", "taubin"}
        assert found["taubin_error"] > 0
    number = run.dataset.parts["test"][0]
    shape = run.dataset.shapes[number]
    unit = noise_unit(shape, run.dataset.edges)
    sigma = run.sigma[0]
    # The length of three normal numbers is 2 sqrt(2 / pi) in the mean.
    assert result["test"]["noisy_error"] == pytest.approx(1.596 * sigma * unit, rel=0.2)
    tested = [run.dataset.shapes[n] for n in run.dataset.parts["test"]]
    assert run.evaluate(tested, sigma)["error"] == pytest.approx(result["test"]["error"])
    assert run.evaluate(tested, sigma, seed=1)["error"] != result["test"]["error"]
    loaded = denoise.load(run.folder)
    _, noisy = noisy_shape(shape, run.dataset.edges, sigma, 0, 0)
    made = loaded.denoise(noisy)
    assert made.dtype == np.float64
    middle = noisy.mean(0)
    with torch.no_grad():
        wanted = run.model(torch.from_numpy(noisy - middle).float()[None])[0].numpy() + middle
    np.testing.assert_allclose(made, wanted, atol=1e-5)
    assert np.array_equal(run.denoise(noisy), made)
    assert ("mesh" if mesh else "cloud") in repr(run)
    assert "VertexSet(" in repr(run.dataset)
    far = loaded.denoise(noisy + 1e7)
    np.testing.assert_allclose(far - 1e7, made, atol=1e-5)


def test_a_few_steps_take_noise_away(meshes, tmp_path):
    """Of one shape that hardly changes: below the noisy one, and below what is untrained."""
    settings = QUICK | {"steps": 60, "learning_rate": 1e-2, "width": 16, "eval_every": 30}
    run = denoise.train(meshes, tmp_path / "run", kind="mesh", sigma=0.3, say=quiet, **settings)
    assert run.result["test"]["ratio"] < 0.9


def test_resumed_is_as_never_stopped(meshes, mesh_run, tmp_path):
    calls, real = [], VertexTask.training_step

    class Stop(Exception):
        pass

    def step(self, number):
        calls.append(number)
        if len(calls) == 5:
            raise Stop
        return real(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VertexTask, "training_step", step)
        with pytest.raises(Stop):
            denoise.train(meshes, tmp_path / "run", kind="mesh", say=quiet, **QUICK)
        run = denoise.train(meshes, tmp_path / "run", kind="mesh", say=quiet, resume=True, **QUICK)
    assert calls[5] == 3, "from the checkpoint"
    assert run.result["test"] == mesh_run.result["test"]
    for a, b in zip(run.model.parameters(), mesh_run.model.parameters(), strict=True):
        assert torch.equal(a, b)
    # By the folder alone: it says of what it is.
    config, _, resume = parse_train_denoise(["--out", str(tmp_path / "run"), "--resume"])
    assert isinstance(config, VertexRunConfig)
    assert (config.model.width, resume) == (4, True)


def test_what_the_words_are_about():
    for words, kind in (
        (["DIR", "--kind", "mesh"], "mesh"),
        (["DIR", "--kind=cloud", "--sigma", "0.5", "2"], "cloud"),
        (["--preset", "vertex-edge"], "mesh"),
        (["DIR"], None),
    ):
        config, _, _ = parse_train_denoise([*words, "--out", "R"])
        if kind is None:
            assert isinstance(config, DenoiseRunConfig)
            continue
        assert config.data.kind == config.model.kind == kind
        assert config.sigma == ((0.5, 2.0) if "2" in words else (0.2,))
    assert parse_train_denoise(["D", "--kind", "cloud", "--out", "R"])[0].sigma == (1.0,)


# ---- the command ----


def test_the_command_on_a_mesh(mesh_run, tmp_path, capsys):
    faces = mesh_run.model.faces.numpy()
    source = validate_mesh(
        np.load(mesh_run.meta["config"]["data"]["path"] + "/vertices.npy")[3], faces
    )
    write_mesh(tmp_path / "body.ply", source)
    run = ["--run", str(mesh_run.folder)]
    assert main(["denoise", str(tmp_path / "body.ply"), str(tmp_path / "o/out.ply"), *run]) == 0
    assert f"{len(source.vertices)} vertices, moved by" in capsys.readouterr().out
    made = read_mesh(tmp_path / "o/out.ply")
    assert np.array_equal(made.vertices, mesh_run.denoise(source.vertices))
    assert np.array_equal(made.faces, faces)
    words = ["denoise", str(tmp_path / "body.ply"), str(tmp_path / "out.obj"), *run, "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "mesh"
    write_mesh(tmp_path / "turned.ply", replace(source, faces=faces[:, [1, 2, 0]]))
    write_mesh(tmp_path / "fewer.ply", replace(source, faces=faces[:-1]))
    vertices, other = grid(6, 5)
    write_mesh(tmp_path / "other.ply", validate_mesh(vertices, other))
    (tmp_path / "nan.obj").write_text("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    for name, message in (
        ("turned.ply", "another topology"),
        ("fewer.ply", "another topology"),
        ("other.ply", "vertices of the run's topology"),
        ("nan.obj", "nan"),
        ("none.ply", "none.ply"),
    ):
        assert main(["denoise", str(tmp_path / name), str(tmp_path / "bad.ply"), *run]) == 1, name
        assert message in capsys.readouterr().err, name
    for words, message in (
        (["out.png", *run], "out must end in .ply, .obj"),
        (["out.ply", *run, *run], "must be one, got 2"),
        (["out.ply", *run, "--sigma", "3"], "--sigma is of pictures"),
    ):
        assert main(["denoise", str(tmp_path / "body.ply"), *words]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "bad.ply").exists()
    assert main(["denoise", "photo.png", "out.png", *run]) == 1
    assert "holds a denoiser of meshes or point clouds" in capsys.readouterr().err


def test_the_command_on_a_cloud(cloud_run, tmp_path, capsys):
    points = clouds()[0]
    source = tmp_path / "scan.xyz"
    np.savetxt(source, points, fmt="%.17g")
    run = ["--run", str(cloud_run.folder)]
    for name in ("out.xyz", "out.ply"):
        assert main(["denoise", str(source), str(tmp_path / name), *run]) == 0
        assert np.array_equal(read_cloud(tmp_path / name), cloud_run.denoise(points))
    assert main(["denoise", str(source), str(tmp_path / "out.npy"), *run]) == 0
    assert np.array_equal(np.load(tmp_path / "out.npy"), cloud_run.denoise(points))
    capsys.readouterr()
    source.write_text("0 0 0\n1 1 1\n")
    assert main(["denoise", str(source), str(tmp_path / "two.xyz"), *run]) == 1
    assert "at least 7 vertices" in capsys.readouterr().err


def test_the_command_line_trains_on_files(tmp_path, capsys):
    """Clouds of .xyz files of several sizes, of which none is called a hidden one."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for n, points in enumerate(clouds(5)):
        np.savetxt(folder / f"{n}.xyz", points, fmt="%.17g")
    (folder / "._0.xyz").write_text("no cloud")
    words = ["train", "denoise", str(folder), "--kind", "cloud", "--out", str(tmp_path / "run")]
    words += ["--width", "4", "--points", "40", "--steps", "2", "--batch-size", "2"]
    assert main([*words, "--accelerator", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "mean vertex error" in said
    assert "noise 1 (hundredth of the bounding box's diagonal)" in said
    found = open_vertices(VertexDataConfig("cloud", str(folder)))
    assert sorted(found.names) == [f"{n}.xyz" for n in range(5)]
    assert max(np.abs(shape).max() for shape in found.shapes) < 20, "about their middle"


# ---- what is refused ----


def test_what_cannot_be_trained_on(meshes, tmp_path):
    out = tmp_path / "run"
    vertices, faces = np.load(meshes / "vertices.npy"), np.load(meshes / "faces.npy")
    broken = vertices.copy()
    broken[2, 5, 1] = np.nan
    few = [np.zeros((9, 3)), *clouds(4)]
    for data, settings, message in (
        ((vertices[:1], faces), {"kind": "mesh"}, "impossible with 1 mesh"),
        ((vertices[:2], faces), {"kind": "mesh"}, "to validate and to test, got 2"),
        ((broken, faces), {"kind": "mesh"}, "vertex 5 is not a finite"),
        ((vertices, faces + 1000), {"kind": "mesh"}, "outside"),
        (clouds(2), {"kind": "cloud"}, "to validate and to test, got 2"),
        ([], {"kind": "cloud"}, "got 0"),
        (few, {"kind": "cloud"}, "all 9 points coincide"),
        ([np.full((9, 3), np.inf)] * 4, {"kind": "cloud"}, "9 of 9 points are not finite"),
        ([np.zeros((9, 2))] * 4, {"kind": "cloud"}, r"real numbers \[V, 3\]"),
        (clouds(), {"kind": "cloud", "points": 400}, "must have at least 400 vertices"),
        (clouds(), {"kind": "cloud", "points": 5}, "points must be at least 7"),
        (meshes, {"kind": "mesh", "sigma": 0.0}, "sigma must be one number, or two"),
        (meshes, {"kind": "mesh", "sigma": [2, 1]}, "sigma must be one number, or two"),
        (meshes, {"kind": "mesh", "test": "other"}, "test is of pictures"),
        (meshes, {"kind": "mesh", "preset": "vertex-lite"}, "vertex-light"),
        (meshes, {"kind": "meshes"}, "mesh"),
        (tmp_path / "none", {"kind": "mesh"}, "no such file or folder"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            denoise.train(data, out, say=quiet, **{**QUICK, **settings})
    with pytest.raises(ValueError, match="path must name a folder of point clouds"):
        open_vertices(VertexDataConfig("cloud"))
    with pytest.raises(FileNotFoundError, match="want one with point clouds"):
        open_vertices(VertexDataConfig("cloud", str(tmp_path / "none")))
    assert not (out / "result.json").exists()


def test_other_topology_in_a_folder(tmp_path):
    vertices, faces = sphere()
    for n in range(4):
        mesh = validate_mesh(np.asarray(vertices) * (1 + n), faces if n != 2 else faces[:-1])
        write_mesh(tmp_path / f"{n}.ply", mesh)
    with pytest.raises(ValueError, match=r"2\.ply.*faces"):
        open_vertices(VertexDataConfig("mesh", str(tmp_path)))


def test_shapes_a_run_does_not_take(mesh_run, cloud_run, tmp_path):
    count = len(mesh_run.model.spirals)
    points = np.zeros((count, 3))
    points[3] = np.nan
    for call, message in (
        (lambda: mesh_run.denoise(points), "1 of .* vertices are not finite, first vertex 3"),
        (lambda: mesh_run.denoise(np.zeros((count, 3), complex)), "real numbers"),
        (lambda: mesh_run.evaluate([np.zeros((count, 3))], 0.0), "sigma must be above 0"),
        (lambda: mesh_run.evaluate([], 1.0), "at least one"),
        (lambda: cloud_run.denoise(np.zeros((3, 3))), "at least 7 vertices"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(CheckpointError, match="holds a denoiser of meshes or point clouds"):
        load_run(mesh_run.folder)
    with pytest.raises(ValueError, match="sigma must be"):
        replace(VertexRunConfig(), sigma=(float("nan"),))
    other = VertexDataConfig("cloud", split_seed=1)
    assert vertices_of_clouds(clouds(), other).parts != cloud_run.dataset.parts
