"""Arithmetic on codes against its definition, and the command that walks through a trained run."""

import json

import numpy as np
import pytest
import torch
from tiny import tiny_run

from polygraph.analysis import CodeGaussian, analogy, decode_codes, encode_meshes, line
from polygraph.cli import main
from polygraph.mesh import read_mesh
from polygraph.models import MeshAutoencoder
from polygraph.tasks.mesh.latent import LatentRun
from polygraph.tasks.mesh.run import load_run
from polygraph.tasks.mesh.training import train_mesh


class Doubling:
    """Codes are twice the first three numbers of a mesh of two vertices."""

    mean = torch.zeros(2, 3, dtype=torch.float64)

    def encode(self, x):
        return 2 * x.flatten(1)[:, :3]

    def decode(self, z):
        return torch.stack([z / 2, -z / 2], 1)


def test_codes_in_batches():
    x = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32)
    codes = encode_meshes(Doubling(), x, [5, 1, 3], batch_size=2)
    np.testing.assert_array_equal(codes.numpy(), 2.0 * x[[5, 1, 3], 0])
    assert codes.dtype == torch.float64
    back = decode_codes(Doubling(), codes, batch_size=2)
    np.testing.assert_array_equal(back[:, 0], x[[5, 1, 3], 0])
    with pytest.raises(ValueError, match="indices is empty"):
        encode_meshes(Doubling(), x, [])
    x[1] = np.nan
    with pytest.raises(ValueError, match=r"mesh 1 is not finite \(1 of 3"):
        encode_meshes(Doubling(), x, [5, 1, 3])
    with pytest.raises(ValueError, match="the mesh of code 0 is not finite"):
        decode_codes(Doubling(), torch.full((1, 3), torch.inf))


def test_lines_hit_their_ends_and_go_beyond():
    start, end = torch.tensor([0.1, 1e8, -3.0]), torch.tensor([0.7, 1e-8, 5.0])
    codes = line(start, end, [-0.5, 0, 0.25, 1, 1.5])
    assert torch.equal(codes[1], start)
    assert torch.equal(codes[3], end)
    torch.testing.assert_close(codes[:, 2], torch.tensor([-7.0, -3, -1, 5, 9]))
    for bad in ([], [np.nan], 0.5):
        with pytest.raises(ValueError, match="positions must be"):
            line(start, end, bad)
    with pytest.raises(ValueError, match=r"got \[3\] and \[2\]"):
        line(start, end[:2], [0])


def test_analogies():
    a, b, c = torch.randn(3, 5)
    torch.testing.assert_close(analogy(a, b, c) - c, b - a)
    torch.testing.assert_close(analogy(a, b, a), b)


@pytest.mark.parametrize("num", [3, 400])
def test_the_gaussian_has_the_moments_of_the_codes(num):
    codes = torch.randn(num, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 3
    gaussian = CodeGaussian.fit(codes)
    torch.testing.assert_close(gaussian.mean, codes.mean(0))
    torch.testing.assert_close(gaussian.covariance, torch.cov(codes.T))
    drawn = gaussian.sample(50_000, seed=1)
    # Five standard errors of the entries of a covariance matrix of 50,000 draws.
    bound = 5 * float(gaussian.covariance.diagonal().max()) * (2 / 50_000) ** 0.5
    assert float((torch.cov(drawn.T) - torch.cov(codes.T)).abs().max()) < bound
    assert torch.equal(gaussian.sample(4, seed=2), gaussian.sample(4, seed=2))
    assert not torch.equal(gaussian.sample(4, seed=2), gaussian.sample(4, seed=3))
    assert torch.equal(gaussian.sample(2, spread=0), gaussian.mean.expand(2, -1))
    if num < 6:  # samples stay in the span of the codes
        assert torch.linalg.matrix_rank(drawn - gaussian.mean, rtol=1e-9) == num - 1


def test_axes_are_the_principal_ones():
    codes = torch.randn(500, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1])
    gaussian = CodeGaussian.fit(codes)
    step = gaussian.along(0, [1.0])[0] - gaussian.mean
    assert abs(float(step[1])) > 0.99 * float(step.norm())
    assert float(step.norm()) == pytest.approx(float(codes.std(0)[1]), rel=0.01)
    with pytest.raises(ValueError, match=r"axis must lie in \[0, 3\), got 3"):
        gaussian.along(3, [0.0])


def test_bad_gaussians():
    with pytest.raises(ValueError, match=r"at least two rows, got \[1, 4\]"):
        CodeGaussian.fit(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="mesh 1 is not finite"):
        CodeGaussian.fit(torch.tensor([[0.0], [torch.nan]]))
    gaussian = CodeGaussian.fit(torch.randn(4, 2))
    with pytest.raises(ValueError, match="spread 0 or more, got 3 and -1"):
        gaussian.sample(3, spread=-1)
    with pytest.raises(ValueError, match="count must be positive"):
        gaussian.sample(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent")
    train_mesh(tiny_run(folder, steps=4), folder / "run")
    return folder / "run"


def test_interpolation_of_a_run(run):
    latent = LatentRun(load_run(run))
    made = latent.interpolate("test:0", "val:0", 5)
    model = latent.run.model
    with torch.no_grad():
        x = torch.from_numpy(latent.mesh("test:0")[None]).float()
        expected = model(x)[0].double().numpy()
    np.testing.assert_allclose(made.meshes[0][0], expected, atol=1e-6)  # another batch size
    np.testing.assert_array_equal(made.meshes[1][-1], latent.mesh("val:0"))
    assert made.labels[0] == ["0", "0.25", "0.5", "0.75", "1"]
    with pytest.raises(ValueError, match="needs two steps"):
        latent.interpolate("test:0", "test:1", 1)
    with pytest.raises(ValueError, match="test has 2 meshes, 0 to 1"):
        latent.mesh("test:2")


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["interpolate", "test:0", "test:1", "--steps", "3"], {"codes": 3, "vertices": 3}),
        (["extrapolate", "test:0", "test:1", "--high", "2"], {"codes": 9, "vertices": 9}),
        (["sample", "--count", "12", "--spread", "0.5"], {"samples": 13}),
        (["axes", "--count", "2", "--steps", "3"], {"axis-0": 3, "axis-1": 3}),
        (["analogy", "test:0", "test:1", "train:4"], {"analogy": 4}),
    ],
)
def test_the_command_writes_meshes_and_a_picture(run, tmp_path, capsys, words, rows):
    out = tmp_path / "out"
    assert main(["latent", *words, "--run", str(run), "--out", str(out)]) == 0
    assert "picture.png" in capsys.readouterr().out
    faces = load_run(run).hierarchy.faces[0]
    for name, count in rows.items():
        files = sorted(path.name for path in (out / name).iterdir())
        assert files == [f"{n:04d}.ply" for n in range(count)]
        np.testing.assert_array_equal(read_mesh(out / name / "0000.ply").faces, faces)
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "codes.json").read_text())["kind"] == words[0].replace(
        "extra", "inter"
    )


def test_a_sequence_written_goes_in_again(run, tmp_path):
    words = ["--run", str(run), "--no-picture"]
    out = str(tmp_path / "out")
    assert main(["latent", "interpolate", "test:0", "test:1", *words, "--out", out]) == 0
    assert not (tmp_path / "out" / "picture.png").exists()
    file = str(tmp_path / "out" / "codes" / "0000.ply")
    assert main(["latent", "analogy", file, file, "val:0", *words, "--out", out]) == 0
    same = [read_mesh(tmp_path / "out" / "analogy" / f"000{n}.ply").vertices for n in (2, 3)]
    np.testing.assert_allclose(*same, atol=1e-5)  # c + (a - a), rounded to float32


def test_faults_of_the_command(run, tmp_path, capsys):
    words = ["--run", str(run), "--out", str(tmp_path / "out")]
    assert main(["latent", "interpolate", "none.ply", "test:0", *words]) == 1
    assert "none.ply: no such file" in capsys.readouterr().err
    assert main(["latent", "dance", *words]) == 2
    assert "invalid choice: 'dance'" in capsys.readouterr().err
    assert main(["latent", "sample", *words, "--data", str(tmp_path / "gone")]) == 1
    assert "gone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_export_makes_a_pretrained_folder(run, tmp_path):
    assert main(["export", "--run", str(run), "--out", str(tmp_path / "m")]) == 0
    model, trained = MeshAutoencoder.from_pretrained(tmp_path / "m"), load_run(run).model
    x = torch.randn(2, 162, 3)
    with torch.no_grad():
        assert torch.equal(model(x), trained(x))
    card = (tmp_path / "m" / "README.md").read_text()
    assert "| test.mean mm |" in card
    assert "| split.sha256 |" in card
