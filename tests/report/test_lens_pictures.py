"""Pictures of templates and of regions."""

import pytest
import torch
from torch import nn

from polygraph.analysis import SplineLens
from polygraph.report.lens_pictures import plane_through, slice_figure, template_figure, top_names


def test_templates_and_a_plane(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)).double()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    lens = SplineLens(net)
    found = lens.affine(x)
    path = template_figure(tmp_path / "made" / "templates.png", x, found, list("abcd"))
    assert path.stat().st_size > 5000
    best = int(found.value[0].argmax())
    assert top_names(found, list("abcd"), 0)[0].startswith("abcd"[best] + ":")
    origin, u, v = plane_through(*x)
    torch.testing.assert_close(origin - 0.5 * u + 0.5 * v, x[2])
    plane = lens.slice(origin, u, v)
    path = slice_figure(tmp_path / "plane.svg", plane, classes=list("abcd"), points=[(0, 0, "x")])
    assert "regions" in path.read_text()
    with pytest.raises(ValueError, match="the images are"):
        template_figure(tmp_path / "a.png", x[:2], found)
    with pytest.raises(ValueError, match="images must be"):
        template_figure(tmp_path / "a.png", x[0], found)
