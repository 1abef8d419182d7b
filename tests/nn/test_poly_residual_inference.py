"""Polynomial residual blocks in evaluation mode: BatchNorms in maps, buffers overwritten."""

import copy

import pytest
import torch
from support.residual_blocks import C, made
from torch import nn

from polygraph.nn import PolyResidual
from polygraph.nn.poly_residual import VARIANTS


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shortcut", ["identity", "map"])
def test_inference_writes_over_nothing(variant, shortcut):
    """Without gradients what is made within is overwritten: x and weights are not."""
    block = made(2, variant, activation="relu").eval()
    if shortcut == "map":
        block.shortcut = nn.Conv2d(C, C, 1).double()
    x = torch.randn(3, C, 5, 4, generator=torch.Generator().manual_seed(2)).double()
    x = x.contiguous(memory_format=torch.channels_last)
    kept, weights = x.clone(), copy.deepcopy(block.state_dict())
    expected = block(x).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(block(x), expected)
            assert torch.equal(block(x), expected)
    assert torch.equal(x, kept)
    for name, value in block.state_dict().items():
        assert torch.equal(value, weights[name]), name


def composed(block, x):
    """The block without its fused step."""
    plain = copy.deepcopy(block)
    plain._fused = lambda *sides: None
    with torch.no_grad():
        return plain(x)


def channels_last(*shape, dtype=torch.float32):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def test_autocast_makes_what_it_makes_of_the_parts():
    """The identity as the branch: both sides are float32 under autocast."""
    block = PolyResidual(nn.Identity(), 2, "prodpoly", channels=C).eval()
    x = channels_last(2, C, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        one, other = block(x), composed(block, x)
    assert one.dtype == other.dtype == torch.float32
    torch.testing.assert_close(one, other, rtol=0.02, atol=0.05)


def test_sides_of_two_dtypes():
    """A branch that ends in float64, beside the shortcut in float32: PyTorch promotes the sum."""

    class Wide(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).double()

    block = PolyResidual(Wide(C, C, 1), 2, "pinet-1x1", norm="none").eval()
    block.maps.double()
    x = channels_last(2, C, 4, 4)
    assert block(x).dtype == torch.float64
    torch.testing.assert_close(block(x), composed(block, x))


class Doubled(nn.Sequential):
    """A sequence whose own forward does more."""

    def forward(self, x):
        return 2 * super().forward(x)


def replaced(name):
    """A block of order 2 in evaluation mode in which a part is another one."""
    torch.manual_seed(3)
    block = made(2, "prodpoly", activation="relu").eval()
    if name == "one map":
        block.before = nn.Conv2d(C, C, 1)
    elif name == "a sequence of three":
        block.before = nn.Sequential(*block.before, nn.Tanh())
    elif name == "a sequence of its own":
        block.before = Doubled(*block.before)
    elif name == "without affine":
        block.norms[0].batch_norm = nn.BatchNorm2d(C, affine=False)
        block.before[1].batch_norm = nn.BatchNorm2d(C, affine=False)
    elif name == "without statistics":
        block.norms[0].batch_norm = nn.BatchNorm2d(C, track_running_stats=False)
    elif name == "a map with a bias":
        block.maps[0] = nn.Conv2d(C, C, 1)
    elif name == "a map of 3 x 3":
        block.maps[0] = nn.Conv2d(C, C, 3, padding=1, bias=False)
    elif name == "a map of groups":
        block.maps[0] = nn.Conv2d(C, C, 1, groups=C, bias=False)
    elif name == "a map of the width":
        block.maps[0] = nn.Linear(C, C, bias=False)
    elif name == "a hook":
        block.maps[0].register_forward_hook(lambda module, given, out: 2 * out)
    elif name == "a weight that is computed":
        nn.utils.parametrizations.weight_norm(block.maps[0])
    return block.double().eval()


@pytest.mark.parametrize(
    "name",
    [
        "one map",
        "a sequence of three",
        "a sequence of its own",
        "without affine",
        "without statistics",
        "a map with a bias",
        "a map of 3 x 3",
        "a map of groups",
        "a map of the width",
        "a hook",
        "a weight that is computed",
    ],
)
def test_parts_that_are_others_are_called(name):
    block = replaced(name)
    x = channels_last(3, C, 5, C, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(block(x), composed(block, x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.BatchNorm2d])
def test_a_class_with_another_forward(monkeypatch, kind):
    block, x = made(2, "prodpoly").eval(), channels_last(3, C, 5, 4, dtype=torch.float64)
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: 2 * forward(self, x))
    with torch.no_grad():
        torch.testing.assert_close(block(x), composed(block, x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_images(variant):
    block = made(2, variant, activation="relu").eval()
    assert block(channels_last(0, C, 3, 5, dtype=torch.float64)).shape == (0, C, 3, 5)


def test_vmap_over_what_the_branch_alone_is_given():
    class Scaled(nn.Module):
        out_channels = C

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(C, C)

        def forward(self, x, scale):
            return self.linear(x) * scale

    block = PolyResidual(Scaled(), 2, "prodpoly", layout="vertices").eval()
    x, scales = torch.randn(2, 5, C), torch.randn(3)
    with torch.no_grad():
        found = torch.func.vmap(block, in_dims=(None, 0))(x, scales)
        torch.testing.assert_close(found, torch.stack([block(x, scale) for scale in scales]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_rounded_as_composed(dtype):
    """Large means and small variances: the folded maps lose no more than twice as much."""
    torch.manual_seed(0)
    wide = made(2, "prodpoly")
    x = 0.5 + channels_last(8, C, 6, 6, dtype=torch.float64)
    for _ in range(50):
        wide(x)
    wide.eval()
    half = copy.deepcopy(wide).to(dtype)
    expected = wide(x).detach()
    ours = (half(x.to(dtype)).double() - expected).square().mean().sqrt()
    theirs = (composed(half, x.to(dtype)).double() - expected).square().mean().sqrt()
    assert ours < 2 * theirs
