"""Residual blocks fused with a batch's statistics: what BatchNorm promises of them."""

import copy

import pytest
import torch
from torch import nn

from polygraph.nn import PolyResidual, batch_step, poly_residual

C = 4
VARIANTS = ("pinet", "pinet-1x1", "face", "prodpoly", "r-polynet")


def branch():
    return nn.Sequential(nn.Conv2d(C, C, 3, padding=1, bias=False), nn.BatchNorm2d(C))


def made(variant="pinet", **settings):
    torch.manual_seed(0)
    block = PolyResidual(branch(), 2, variant, activation="relu", **settings)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block.to(memory_format=torch.channels_last)


def pictures(count=3, size=(5, 4), dtype=torch.float32):
    x = torch.randn(count, C, *size, generator=torch.Generator().manual_seed(count))
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def steps(monkeypatch):
    """How often the fused step has been taken."""
    taken, plain = [], batch_step.with_statistics
    counted = lambda *args, **kw: taken.append(1) or plain(*args, **kw)  # noqa: E731
    monkeypatch.setattr(batch_step, "with_statistics", counted)
    return taken


def trained(block, *batches):
    """Outputs, gradients, and all buffers after the batches."""
    found = []
    for x in batches:
        x = x.clone().requires_grad_()
        y = block(x)
        found += [
            y.detach(),
            *torch.autograd.grad(y.float().square().sum(), [x, *block.parameters()]),
        ]
    return [*found, *(b.clone() for b in block.buffers())]


def require_same_as_composed(block, batches, monkeypatch, steps, fused, tolerance=1e-5):
    """The block does what it does where nothing is fused."""
    other = copy.deepcopy(block)
    found = trained(block, *batches)
    assert len(steps) == fused
    monkeypatch.setattr(poly_residual, "can_fuse", lambda *_: False)
    expected = trained(other, *batches)
    assert len(steps) == fused
    for one, wanted in zip(found, expected, strict=True):
        assert one.dtype == wanted.dtype
        scale = max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(one, wanted, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_values_gradients_and_running_statistics(variant, dtype, monkeypatch, steps):
    block, batches = made(variant).to(dtype), (pictures(3, dtype=dtype), pictures(2, dtype=dtype))
    block.norms[0].batch_norm.momentum = 0.3
    fused = 4 if variant == "prodpoly" else 2
    digits = 1e-4 if dtype == torch.float32 else 1e-11
    require_same_as_composed(block, batches, monkeypatch, steps, fused, digits)
    assert block.norms[0].batch_norm.num_batches_tracked == 2


@pytest.mark.parametrize("training", [True, False])
def test_without_running_statistics(training, monkeypatch, steps):
    """Those of the batch in both modes, and nothing is kept."""
    block = made().train(training)
    block.norms[0].batch_norm = nn.BatchNorm2d(C, track_running_stats=False)
    require_same_as_composed(block, (pictures(),), monkeypatch, steps, 1, 1e-4)


def test_without_factors(monkeypatch, steps):
    block = made("r-polynet")
    block.norms[0].batch_norm = nn.BatchNorm2d(C, affine=False)
    require_same_as_composed(block, (pictures(),), monkeypatch, steps, 1, 1e-4)


def test_a_mean_over_all_batches_is_pytorchs(monkeypatch, steps):
    block = made()
    block.norms[0].batch_norm.momentum = None
    require_same_as_composed(block, (pictures(3), pictures(2)), monkeypatch, steps, 0)


def test_what_is_frozen_or_hooked_is_pytorchs(monkeypatch, steps):
    block = made("prodpoly")
    block.before[1].eval()
    require_same_as_composed(block, (pictures(),), monkeypatch, steps, 0)
    block, seen = made(), []
    block.norms[0].batch_norm.register_forward_hook(lambda *_: seen.append(1))
    monkeypatch.undo()
    block(pictures())
    assert seen


def test_one_row_is_an_error():
    block = PolyResidual(nn.Identity(), 2, "pinet", channels=C).train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        block(pictures(1, (1, 1)))


def test_autocast_is_pytorchs(monkeypatch, steps):
    block, x = made(), pictures()
    with torch.autocast("cpu", torch.bfloat16):
        found = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        monkeypatch.setattr(poly_residual, "can_fuse", lambda *_: False)
        expected = copy.deepcopy(block)(x)
    assert not steps
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected)


def test_half_types_keep_statistics_in_their_dtype(steps):
    block = made().bfloat16()
    y = block(pictures(dtype=torch.bfloat16))
    assert len(steps) == 1
    assert y.dtype == torch.bfloat16
    assert block.norms[0].batch_norm.running_mean.dtype == torch.bfloat16


def test_compiled_training_keeps_the_statistics():
    block, x = made(), pictures()
    other = copy.deepcopy(block)
    torch.compiler.reset()
    found = torch.compile(block, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(found, other(x), rtol=1e-5, atol=1e-5)
    kept, wanted = (b.norms[0].batch_norm for b in (block, other))
    torch.testing.assert_close(kept.running_var, wanted.running_var)
    assert kept.num_batches_tracked == 1
