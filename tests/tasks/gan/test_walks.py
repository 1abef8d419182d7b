"""Walks between latent vectors: straight, along the sphere, and which of them a run takes."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_gan import narrowed, random_images, tiny_gan

from polygraph.cli import main
from polygraph.models.images.families import build, is_polynomial
from polygraph.tasks.gan.latent import (
    generate,
    interpolations,
    latent_vectors,
    principal_directions,
)
from polygraph.tasks.gan.presets import GAN_PRESETS
from polygraph.tasks.gan.run import Run, sample_run
from polygraph.tasks.gan.training import train_gan


def test_straight_walks():
    """``(1 - t) a + t b``: the ends to the bit, the mean in the middle, equal steps."""
    ends = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    found = interpolations(ends, 5).view(2, 5, 16)
    assert torch.equal(found[:, 0], ends[0::2])
    assert torch.equal(found[:, -1], ends[1::2])
    torch.testing.assert_close(found[:, 2], (ends[0::2] + ends[1::2]) / 2)
    torch.testing.assert_close(
        found.diff(dim=1), ((ends[1::2] - ends[0::2]) / 4)[:, None].expand(2, 4, 16)
    )


def test_the_middle_of_the_sphere():
    """``(a + b) sin(θ / 2) / sin θ``, with the angle by arc cosine."""
    one, other = torch.randn(2, 16, generator=torch.Generator().manual_seed(1)).double()
    angle = torch.acos(one @ other / (one.norm() * other.norm()))
    middle = (one + other) * torch.sin(angle / 2) / torch.sin(angle)
    found = interpolations(torch.stack([one, other]), 3, "sphere")
    torch.testing.assert_close(found[1], middle)


def test_interpolations_stay_on_the_sphere():
    """Ends are ends, equal steps of the angle, the radius between; equal and opposite ends too."""
    ends = torch.randn(6, 16, generator=torch.Generator().manual_seed(0)).double()
    ends[3] = ends[2]
    ends[5] = -ends[4]
    found = interpolations(ends, 5, "sphere").view(3, 5, 16)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found[:2, 0], ends[[0, 2]], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[:2, -1], ends[[1, 3]], rtol=1e-6, atol=1e-6)
    unit = torch.nn.functional.normalize(ends[:2], dim=1)
    walk = interpolations(unit, 5, "sphere")
    torch.testing.assert_close(walk.norm(dim=1), torch.ones(5, dtype=torch.float64))
    cosines = [float(a @ b) for a, b in pairwise(walk)]
    assert cosines == pytest.approx([cosines[0]] * 4)
    for bad in (ends[:3], ends[:2][:1]):
        with pytest.raises(ValueError, match="needs pairs and at least 2 steps"):
            interpolations(bad)
    with pytest.raises(ValueError, match="got 2 ends, 1 steps"):
        interpolations(ends[:2], 1)
    with pytest.raises(ValueError, match="did you mean 'linear'"):
        interpolations(ends[:2], kind="liner")


def test_polynomials_walk_straight():
    """The presets that are polynomials of z, and no others."""
    names = {name for name, preset in GAN_PRESETS.items() if is_polynomial(preset.generator)}
    assert {name.partition("/")[2].removesuffix("-residual") for name in names} == {
        "ccp", "ncp", "ncp-skip", "prodpoly", "ncp-mapping", "sngan-ncp", "sngan-prodpoly",
        "prodpoly-sn",
    }  # fmt: skip
    assert {f"linear/{name}" for name in ("ccp", "ncp", "ncp-skip", "prodpoly")} <= names


@pytest.mark.parametrize(
    ("preset", "kind"), [("small/ncp", "linear"), ("digits", "sphere"), ("pi/dcgan", "linear")]
)
def test_which_way_a_run_goes(tmp_path, preset, kind):
    torch.manual_seed(0)
    model = build(narrowed(GAN_PRESETS[preset].generator)).eval()
    run = Run(tmp_path, model, {})
    z = latent_vectors(2, model.config, 3)
    assert torch.equal(run.interpolate(1, 3, seed=3), generate(model, interpolations(z, 3, kind)))
    for along in ("linear", "sphere"):
        found = run.interpolate(1, 3, seed=3, along=along)
        assert torch.equal(found, generate(model, interpolations(z, 3, along)))


def test_the_command_takes_either_way(tmp_path, capsys):
    train_gan(tiny_gan(steps=1), tmp_path / "run", dataset=random_images())
    words = ["sample", "--run", str(tmp_path / "run"), "--count", "2", "--columns", "3"]
    words += ["--scale", "1", "--out", str(tmp_path / "a.png")]
    for more, along in (([], None), (["--along", "linear"], "linear")):
        assert main([*words, "--interpolate", *more]) == 0
        walk = sample_run(tmp_path / "run", 2, interpolate=3, along=along)
        picture = np.asarray(Image.open(tmp_path / "a.png"))
        assert np.array_equal(picture[1:33, 34:66], walk[1, 0].numpy())
    capsys.readouterr()
    assert main([*words, "--along", "linear"]) == 2
    assert "--along is of walks: it needs --interpolate" in capsys.readouterr().err


class _Linear(torch.nn.Module):
    """Images ``A z`` of two pixels by two, A with singular values 0.4, 0.2 and 0.1."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(latent_channels=3, latent_distribution="uniform")
        random = torch.Generator().manual_seed(0)
        left, right = (torch.linalg.qr(torch.randn(n, 3, generator=random))[0] for n in (4, 3))
        self.right = right
        self.weight = torch.nn.Parameter(left @ torch.diag(torch.tensor([0.4, 0.2, 0.1])) @ right.T)

    def forward(self, z):
        return (z @ self.weight.T).view(-1, 1, 2, 2)


def test_principal_directions():
    """Of a linear generator its right singular vectors, the largest first."""
    generator = _Linear()
    found = principal_directions(generator, 2, draws=1)
    assert found.shape == (2, 3)
    torch.testing.assert_close((found @ generator.right).abs(), torch.eye(3)[:2], rtol=0, atol=1e-4)
    assert (found.sum(1) > 0).all()
    for count, draws in ((0, 1), (4, 1), (1, 0)):
        with pytest.raises(
            ValueError, match=rf"count must be in \[1, 3\].*got {count} and {draws}"
        ):
            principal_directions(generator, count, draws=draws)


def test_walks_from_one_image():
    run = Run(Path(), _Linear().eval(), {})
    start = latent_vectors(1, run.model.config, 7)
    images = run.walk(2, 5, seed=7, reach=3.0).view(2, 5, 1, 2, 2)
    for row in images:
        assert torch.equal(row[2], generate(run.model, start)[0])
    ahead = start + 3 / 3**0.5 * principal_directions(run.model, 1)
    assert torch.equal(images[0, 4], generate(run.model, ahead)[0])
    for steps, reach in ((1, 1.0), (3, 0.0), (3, float("nan")), (3, float("inf"))):
        with pytest.raises(ValueError, match="steps must be at least 2 and reach positive"):
            run.walk(1, steps, reach=reach)


def test_the_command_walks(tmp_path, capsys):
    train_gan(tiny_gan("small/ncp", steps=1), tmp_path / "run", dataset=random_images())
    words = ["sample", "--run", str(tmp_path / "run"), "--columns", "3", "--scale", "1"]
    words += ["--out", str(tmp_path / "a.png"), "--walk"]
    assert main([*words, "2", "--seed", "4"]) == 0
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape == (2 * 33 + 1, 3 * 33 + 1)
    start = sample_run(tmp_path / "run", 1, 4)[0, 0].numpy()
    assert np.array_equal(picture[34:66, 34:66], start)
    capsys.readouterr()
    for wrong, message in (
        (["0"], "--walk must be at least 1"),
        (["2", "--interpolate"], "is not for --interpolate"),
        (["2", "--reach", "-1"], "--reach must be positive"),
        (["2", "--columns", "1"], "columns must be at least 2"),
    ):
        assert main([*words, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main([*words[:-1], "--reach", "1"]) == 2
    assert "needs --walk" in capsys.readouterr().err
