"""`SplineCNN`: the layers that its source describes, sizes; that it is affine around an image."""

import pytest
import torch
from torch import nn

from polygraph.models import SplineCNN, SplineCNNConfig, create_model
from polygraph.train.orthogonality import templates


def widths(model):
    return [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]


def test_layers_are_those_of_the_source():
    small, large = create_model("spline/small-cnn"), create_model("spline/large-cnn")
    assert widths(small) == [32, 64, 128]
    assert widths(large) == [96] * 3 + [192] * 5
    for model in (small, large):
        kinds = [type(m) for m in model.layers]
        relus = [n for n, kind in enumerate(kinds) if kind is nn.ReLU]
        assert all(kinds[n - 1] is nn.BatchNorm2d for n in relus)
        assert kinds.count(nn.MaxPool2d) == 2
        assert model.output.bias is None
    plain = create_model("spline/small-cnn", batch_norm=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    convolutions = 3 * 32 * 9 + 32 + 32 * 64 * 9 + 64 + 64 * 128 + 128
    assert sum(p.numel() for p in plain.parameters()) == convolutions + 1280


@pytest.mark.parametrize(("body", "least"), [("small", 10), ("large", 30)])
def test_the_smallest_size_works(body, least):
    config = SplineCNNConfig(in_channels=1, size=least, body=body, num_classes=3)
    assert SplineCNN(config).eval()(torch.zeros(1, 1, least, least)).shape == (1, 3)
    with pytest.raises(ValueError, match=f"size must be at least {least} for {body}, got"):
        SplineCNNConfig(size=least - 1, body=body)
    with pytest.raises(ValueError, match="body must be one of small, large, got 'wide'"):
        SplineCNNConfig(body="wide")
    with pytest.raises(ValueError, match="batch_norm must be true or false, got 1"):
        SplineCNNConfig(batch_norm=1)


def test_it_is_affine_around_an_image():
    """Logits near by are those of the templates, to rounding."""
    torch.manual_seed(0)
    model = SplineCNN(SplineCNNConfig(in_channels=1, size=12, num_classes=3)).double().eval()
    x = torch.randn(4, 1, 12, 12, dtype=torch.float64, requires_grad=True)
    step = 1e-7 * torch.randn_like(x)  # no further than to the region's border
    slopes = templates(model(x), x)
    with torch.no_grad():
        moved = model(x + step) - model(x)
        wanted = torch.einsum("bcijk,bijk->bc", slopes, step)
    torch.testing.assert_close(moved, wanted, rtol=1e-6, atol=1e-14)
