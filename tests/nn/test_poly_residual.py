"""Polynomial residual blocks: each formula in plain lines, blocks of other libraries, degrees."""

import re
from typing import ClassVar

import pytest
import torch
from support.layer_calls import Case
from support.layer_contract import LayerContract
from support.residual_blocks import C, branch, made
from torch import nn
from torch.nn import functional as F

from polygraph.analysis import check_degree
from polygraph.nn import PolyResidual, SecondOrderNorm
from polygraph.nn.poly_residual import PRODUCT_NORMS, VARIANTS


def batch_norm(t, norm):
    """BatchNorm by its formula, with a batch's statistics or the running ones."""
    norm = norm.batch_norm if isinstance(norm, SecondOrderNorm) else norm
    mean, var = norm.running_mean, norm.running_var
    if norm.training:
        mean, var = t.mean((0, 2, 3)), t.var((0, 2, 3), correction=0)
    unit = (t - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    return norm.weight[:, None, None] * unit + norm.bias[:, None, None]


def mapped(t, conv):
    return torch.einsum("bchw,dc->bdhw", t, conv.weight[:, :, 0, 0])


def plain(block, x):
    """The formulas, order by order, with nothing of the block but its numbers."""
    o, s = block.branch(x), x
    y, p = o + s, o
    for n in range(block.order - 1):
        if block.variant == "prodpoly" and n == 0:
            p = p * batch_norm(mapped(s, block.before[0]), block.before[1])
        else:
            p = p * s
        t = p
        if block.variant == "face":
            t = torch.tanh(t)
        if block.variant in ("pinet-1x1", "face", "prodpoly", "r-polynet"):
            t = mapped(t, block.maps[n])
        if block.norm == "batch":
            t = batch_norm(t, block.norms[n])
        elif block.norm == "rms":
            mean = t.square().mean((2, 3), keepdim=True)
            t = block.norms[n].scale[:, None, None] * t / (1 + mean).sqrt()
        elif block.norm == "tanh":
            t = block.norms[n].scale[:, None, None] * t.tanh()
        y = y + (block.alpha[n] * t if block.variant == "r-polynet" else t)
    return F.relu(y) if isinstance(block.activation, nn.ReLU) else y


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_formula_of_each_variant(variant, order):
    torch.manual_seed(1)
    x = torch.randn(3, C, 5, 4).double()
    for activation in ("none", "relu"):
        block = made(order, variant, activation=activation)
        for training in (True, False):
            block.train(training)
            with torch.no_grad():
                torch.testing.assert_close(block(x), plain(block, x), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("norm", PRODUCT_NORMS)
@pytest.mark.parametrize("variant", ["pinet", "prodpoly"])
def test_other_normalisations(norm, variant):
    torch.manual_seed(1)
    x = torch.randn(3, C, 5, 4).double()
    block = made(3, variant, norm=norm)
    with torch.no_grad():
        torch.testing.assert_close(block(x), plain(block, x), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "variant", ["plain", "pinet", "pinet-1x1", "face", "prodpoly", "r-polynet", "rms"]
)
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_channels_last_in_memory_are_the_same(variant, activation, training):
    """The fused step too: values, gradients, also of BatchNorm's parameters."""
    variant, norm = ("pinet", "rms") if variant == "rms" else (variant, None)
    block = made(2, variant, norm=norm, activation=activation).train(training)
    torch.manual_seed(1)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, C, 5, 4, generator=torch.Generator().manual_seed(2)).double()
        x = x.contiguous(memory_format=layout).requires_grad_()
        y = block(x)
        assert y.is_contiguous(memory_format=layout)
        gradients = torch.autograd.grad(y.square().sum(), [x, *block.parameters()])
        found.append([y.detach(), *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_degree_is_what_it_says(variant, order):
    block = made(order, variant, activation="none").eval()
    assert block.degree == (None if variant == "face" and order > 1 else order)
    if block.degree is not None:
        assert check_degree(block, (C, 3, 3), order)
    assert made(2, "pinet", activation="relu").degree is None
    assert made(2, "pinet", norm="rms").degree is None
    assert PolyResidual(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), 2, "plain").degree is None


class TorchvisionBasic(nn.Module):
    """The parts of torchvision's BasicBlock, and what it does with them."""

    def __init__(self, before=C, after=C, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = None
        if stride > 1 or before != after:
            conv = nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(after))
        self.stride = stride

    def sides(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return out, x if self.downsample is None else self.downsample(x)


class TorchvisionBottleneck(TorchvisionBasic):
    def __init__(self, before=C, after=C, stride=1):
        super().__init__(before, after, stride)
        self.conv1 = nn.Conv2d(before, 3, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 3, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(3)
        self.conv3 = nn.Conv2d(3, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)

    def sides(self, x):
        out = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        out = self.bn3(self.conv3(out))
        return out, x if self.downsample is None else self.downsample(x)


class TimmBasic(nn.Module):
    """The parts of timm's BasicBlock; what is None there is None here."""

    def __init__(self, before=C, after=C, stride=1):
        super().__init__()
        own = TorchvisionBasic(before, after, stride)
        self.conv1, self.bn1 = own.conv1, own.bn1
        self.drop_block, self.act1, self.aa = nn.Identity(), nn.ReLU(inplace=True), nn.Identity()
        self.conv2, self.bn2 = own.conv2, own.bn2
        self.act2, self.se = nn.ReLU(inplace=True), nn.Hardtanh(-1, 1)
        self.downsample, self.drop_path = own.downsample, None

    def sides(self, x):
        out = self.se(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))))
        return out, x if self.downsample is None else self.downsample(x)


class TimmBottleneck(nn.Module):
    def __init__(self, before=C, after=C, stride=1):
        super().__init__()
        own = TorchvisionBottleneck(before, after, stride)
        self.conv1, self.bn1, self.act1 = own.conv1, own.bn1, nn.ReLU(inplace=True)
        self.conv2, self.bn2, self.drop_block = own.conv2, own.bn2, nn.Identity()
        self.act2, self.aa = nn.ReLU(inplace=True), nn.Identity()
        self.conv3, self.bn3, self.se = own.conv3, own.bn3, None
        self.act3, self.downsample, self.drop_path = nn.ReLU(), own.downsample, None

    def sides(self, x):
        out = self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))))
        out = self.bn3(self.conv3(out))
        return out, x if self.downsample is None else self.downsample(x)


@pytest.mark.parametrize("before", [C, 6])
@pytest.mark.parametrize(
    "kind", [TorchvisionBasic, TorchvisionBottleneck, TimmBasic, TimmBottleneck]
)
def test_blocks_of_other_libraries(kind, before):
    """Taken apart by their parts: what they compute, plus the product; parameters are shared."""
    torch.manual_seed(0)
    theirs = kind(before, C, 2 if before != C else 1).double().eval()
    x = torch.randn(2, before, 6, 6).double()
    with torch.no_grad():
        o, s = theirs.sides(x)
        torch.testing.assert_close(PolyResidual(theirs, 1)(x), F.relu(o + s))
        ours = PolyResidual(theirs, 2, "plain")
        torch.testing.assert_close(ours(x), F.relu(o + s + o * s))
        assert isinstance(ours.activation, nn.ReLU)
        bare = PolyResidual(theirs, 2, "plain", activation="none")
        linear = kind is not TimmBasic  # whose se is none
        assert bare.degree == (2 if linear else None)
        assert bool(check_degree(bare, (before, 6, 6), 2)) == linear
    assert {id(p) for p in ours.parameters()} == {id(p) for p in theirs.parameters()}


def test_a_branch_of_vectors_and_of_graphs():
    """Any layout; further arguments go to the branch."""
    from polygraph.nn import EdgeConv

    torch.manual_seed(0)
    x = torch.randn(7, C)
    block = PolyResidual(nn.Linear(C, C), 2, "prodpoly", layout="vectors").eval()
    o = block.branch(x)
    factor = block.before[0](x) / (1 + 1e-5) ** 0.5
    want = o + x + block.maps[0](o * factor) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(block(x), want)
    edges = torch.randint(7, (2, 30))
    graph = PolyResidual(
        EdgeConv(nn.Linear(2 * C, C)), 2, "pinet", channels=C, norm="rms", layout="vertices"
    )
    o = graph.branch(x, edges)
    torch.testing.assert_close(graph(x, edges), o + x + graph.norms[0](o * x))


class Alien(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.shortcut = nn.Conv2d(C, C, 1), nn.Identity()


def surprise():
    """A known block with a part more, which would be left out."""
    block = TorchvisionBasic()
    block.attention = nn.Conv2d(C, C, 1)
    return block


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PolyResidual(branch(), 0), "order must be a positive integer, got 0"),
        (lambda: PolyResidual(branch(), 6), "order must be at most 5, got 6"),
        (lambda: PolyResidual(branch(), 2, "pinett"), "did you mean 'pinet'"),
        (lambda: PolyResidual(branch(), norm="layer"), "norm must be one of none, batch, rms"),
        (lambda: PolyResidual(branch(), activation="elu"), "activation must be one of none, relu"),
        (lambda: PolyResidual(branch(), layout="pixels"), "layout must be one of vectors"),
        (lambda: PolyResidual(branch(), channels=0), "channels must be a positive integer"),
        (lambda: PolyResidual(nn.ReLU()), "which channels ReLU gives cannot be told"),
        (lambda: PolyResidual(Alien()), "Alien has not the parts of torchvision's or timm's"),
        (lambda: PolyResidual(surprise()), "or has others"),
        (
            lambda: PolyResidual(nn.Conv2d(C, 2 * C, 1))(torch.ones(1, C, 2, 2)),
            r"one shape, got [1, 8, 2, 2] and [1, 4, 2, 2]: give a shortcut",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_a_branch_is_a_module():
    with pytest.raises(TypeError, match="branch must be a module, got function"):
        PolyResidual(lambda x: x)


def images(size=3):
    x = torch.randn(size, C, 5, 3, generator=torch.Generator().manual_seed(1)).double()
    return (x.contiguous(memory_format=torch.channels_last),)


def case(variant, **settings):
    return Case(lambda: made(variant=variant, **settings).float(), images)


class TestPolyResidual(LayerContract):
    kinds = (PolyResidual,)
    cases: ClassVar = {
        "pinet": case("pinet", activation="relu"),
        "evaluated": Case(lambda: made(2, "pinet", activation="relu").float().eval(), images),
        "prodpoly": case("prodpoly", order=3, activation="relu"),
        "r-polynet": case("r-polynet"),
    }
    compiled = ("pinet",)  # exported in evaluation mode
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    sizes = (7, 12, 9, 13)  # from 16 on torch's convolution compiles again

    @staticmethod
    def sized(size):
        return images(size)
