"""Pictures of dictionaries, of images and of meshes."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.mesh_shapes import grid, sphere

from polygraph.mesh import spiral_table
from polygraph.models import MultiLayerSparseCoder
from polygraph.nn import SpiralConv
from polygraph.report.atom_pictures import atom_figure, mesh_atom_figure


def coder(channels=1):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(channels, 5, 4, stride=2), torch.nn.Conv2d(5, 6, 3)]
    return MultiLayerSparseCoder(layers, (channels, 14, 14), 0)


def mesh_coder(shape=sphere):
    vertices, faces = shape()
    torch.manual_seed(0)
    layers = [SpiralConv(3, 4, table := spiral_table(vertices, faces)), SpiralConv(4, 6, table)]
    return MultiLayerSparseCoder(layers, (len(vertices), 3), 0), vertices, faces


def seen(path):
    """The colours of a picture."""
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.parametrize("channels", [1, 3])
def test_atoms_of_images(tmp_path, channels):
    """An atom that is a line of light is a red line, or a bright one, and nothing else is."""
    made = coder(channels)
    path = atom_figure(tmp_path / "made" / "atoms.png", made)
    assert path.stat().st_size > 5000
    with torch.no_grad():
        made.dictionaries[0].weight.zero_()
        made.dictionaries[0].weight[2, :, 1] = 1.0
    colors = seen(atom_figure(tmp_path / "line.png", made, layers=[1], shown=1))
    warm = (colors[..., 0] > colors[..., 2] + 60) if channels == 1 else (colors == 255).all(-1)
    cool = colors[..., 2] > colors[..., 0] + 60
    assert warm.mean() > 0.05
    assert not cool.any()
    assert atom_figure(tmp_path / "atoms.svg", made, shown=4).stat().st_size > 5000


def test_atoms_of_a_mesh(tmp_path):
    """The colours of near and far vertices differ; another place is another picture."""
    made, vertices, faces = mesh_coder()
    path = mesh_atom_figure(tmp_path / "atoms.png", made, vertices, faces, shown=2)
    colors = seen(path)
    assert (colors.max(-1) - colors.min(-1) > 60).mean() > 0.005
    other = mesh_atom_figure(
        tmp_path / "other.png", made, vertices, faces, layers=[2], shown=1, places=[30]
    )
    assert other.stat().st_size > 5000
    flat, vertices, faces = mesh_coder(lambda: grid(4, 5))  # open
    assert mesh_atom_figure(
        tmp_path / "flat.png", flat, vertices, faces, layers=[1], shown=1
    ).is_file()


def test_what_cannot_be_drawn(tmp_path):
    out, (made, vertices, faces) = tmp_path / "a.png", mesh_coder()
    for call, message in (
        (lambda: atom_figure(out, made), r"signals must be \[1 or 3, H, W\], got \[162, 3\]"),
        (lambda: atom_figure(out, coder(2)), r"got \[2, 14, 14\]"),
        (lambda: atom_figure(out, coder(), layers=[3]), r"layers must be some of 1 to 2, got \[3"),
        (lambda: atom_figure(out, coder(), layers=[]), "layers must be some of 1 to 2"),
        (lambda: atom_figure(out, coder(), shown=0), "shown must be at least 1, got 0"),
        (lambda: mesh_atom_figure(out, made, vertices[:5], faces), r"vertices must be \[V, 3\]"),
        (lambda: mesh_atom_figure(out, coder(), vertices, faces), r"vertices must be \[V, 3\]"),
        (lambda: mesh_atom_figure(out, made, vertices, faces + 1), r"faces must be .* \[0, 162\)"),
        (
            lambda: mesh_atom_figure(out, made, vertices, faces, places=[1]),
            "places must be one for each of 2 layers, got 1",
        ),
        (
            lambda: mesh_atom_figure(out, made, vertices, faces, places=[1, 162]),
            r"place must be in \[0, \[162\]\) for layer 2, got 162",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert not out.exists()
