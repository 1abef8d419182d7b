"""Residual networks: published counts, one batch learnt by heart, degrees, stems, regularisers."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from polygraph.analysis import affine_map, check_degree
from polygraph.models import ResNet, ResNetConfig, create_model
from polygraph.models.resnet import RESNETS
from polygraph.models.resnet.regularize import DropBlock2d, InstanceBatchNorm2d

SMALL = {"width": 6, "depths": (1, 1, 1, 1)}


def parameters(config):
    with torch.device("meta"):
        return sum(p.numel() for p in ResNet(config).parameters())


# Millions, of 10 classes: Deep polynomial neural networks, T-PAMI 2021, tables 5 and 6; torchvision
# for ResNet-50; megabytes / 4 of table 8 for faces, whose files have running statistics as well.
@pytest.mark.parametrize(
    ("name", "settings", "published", "rounding"),
    [
        ("resnet18", {}, 11.2, 0.05),
        ("resnet34", {}, 21.3, 0.05),
        ("prodpoly-2211", {}, 6.0, 0.05),
        ("prodpoly-3322", {}, 13.0, 0.05),
        ("prodpoly-3432", {"num_classes": 100}, 14.7, 0.05),
        ("resnet50", {}, 25.557032, 1e-9),
        ("ir50", {"embedding_only": True}, 174.5 / 4, 0.05),
        ("prodpoly-ir50", {"embedding_only": True}, 181.8 / 4, 0.07),
    ],
)
def test_published_counts(name, settings, published, rounding):
    assert abs(parameters(replace(RESNETS[name], **settings)) / 1e6 - published) < rounding


def test_counts_that_fit_no_variant():
    """Of the speech network (13.2) and of ImageNet's (34.4, half of 68.81 MB): see the docs."""
    speech = replace(RESNETS["prodpoly-3332"], num_classes=35, in_channels=1)
    found = [
        round(parameters(replace(speech, variant=variant)) / 1e6, 2)
        for variant in ("plain", "pinet-1x1", "prodpoly")
    ]
    assert found == [12.74, 13.52, 14.31]
    with_maps = replace(RESNETS["prodpoly-resnet50"], variant="pinet-1x1")
    assert parameters(RESNETS["prodpoly-resnet50"]) / 1e6 < 26 < 45 < parameters(with_maps) / 1e6


@pytest.mark.parametrize("name", RESNETS)
def test_one_batch_is_learnt_by_heart(name):
    torch.manual_seed(0)
    settings = {**SMALL, "dropout": 0.0, "size": 16, "num_classes": 10, "embedding_channels": 16}
    if RESNETS[name].block == "bottleneck":
        settings["width"] = 4
    model = create_model(name, **settings, drop_block=0.0)
    images, labels = torch.rand(8, 3, 16, 16) * 2 - 1, torch.arange(8)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(20):
        logits = model(images)
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logits.shape == (8, 10)
    assert loss.item() < 0.5  # from about 2.5


@pytest.mark.parametrize("name", ["resnet18", "pinet18-1x1", "prodpoly-resnet50", "ir50"])
def test_any_size_and_any_channels(name):
    model = create_model(name, width=4, depths=(1, 1), in_channels=2, num_classes=3, size=24)
    for size in ((24, 24), (17, 30), (40, 9)):
        assert model.eval()(torch.rand(2, 2, *size)).shape == (2, 3)
        assert model.embed(torch.rand(2, 2, *size)).dim() == 2


@pytest.mark.parametrize("training", [True, False])
def test_compiles(training):
    torch.manual_seed(0)
    model = create_model("pinet18", width=4, depths=(1, 1)).train(training)
    images = torch.rand(4, 3, 8, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


def trained(name, **settings):
    """In float64, evaluation mode, with statistics as training leaves them."""
    torch.manual_seed(0)
    model = create_model(name, size=8, **settings).double()
    with torch.no_grad():
        for _ in range(30):
            model(torch.randn(8, settings.get("in_channels", 3), 8, 8).double())
    return model.eval()


def test_the_degree_of_four_blocks_is_16():
    model = trained("pinet18-noact", width=4, depths=(1, 1, 1, 1))
    assert model.degree == 16
    assert check_degree(model, (3, 8, 8), 16, lines=2)
    one_by_one = trained("pinet18-1x1-noact", width=4, depths=(1, 1), order=3)
    assert one_by_one.degree == 9
    assert check_degree(one_by_one, (3, 8, 8), 9, lines=2)


def test_a_linear_network_is_one_affine_map():
    model = trained("linear-resnet18", width=4)
    found = affine_map(model, (3, 8, 8))
    x = torch.randn(6, 3, 8, 8).double()
    with torch.no_grad():
        wanted = model(x)
    assert (found.matrix.shape, found.bias.shape) == ((10, 192), (10,))
    assert (found(x) - wanted).abs().max() <= 1e-10 * wanted.abs().max()


@pytest.mark.parametrize(
    ("name", "degree"),
    [
        ("resnet18", None),
        ("linear-resnet18", 1),
        ("pinet18-noact", 2**8),
        ("prodpoly-2211", None),
        ("r-polynet18", None),
        ("ir50", None),
    ],
)
def test_degrees_of_presets(name, degree):
    with torch.device("meta"):
        assert create_model(name).degree == degree
        assert create_model(name, stem="imagenet").degree is None


def test_drop_block_zeroes_squares():
    torch.manual_seed(0)
    x = torch.ones(64, 3, 20, 20)
    layer = DropBlock2d(0.1, 5)
    y = layer(x)
    dropped = (y == 0).float().mean()
    assert 0.05 < dropped < 0.15  # squares overlap
    torch.testing.assert_close(y.mean(), torch.tensor(1.0))
    assert torch.equal(y[:, :1].expand(-1, 3, -1, -1), y), "the same places for all channels"
    runs = (y[0, 0] == 0).int()
    assert all((row.sum() >= 3) or not row.sum() for row in runs), "squares, cut by the border"
    assert layer.eval()(x) is x
    assert DropBlock2d(0.9, 7).train()(torch.ones(2, 1, 2, 2)).isfinite().all()


def test_instance_norm_of_a_share():
    torch.manual_seed(0)
    layer = InstanceBatchNorm2d(5, 0.8)
    x = 3 * torch.randn(4, 5, 6, 6) + 1
    y = layer(x)
    assert (layer.split, y.shape) == (4, x.shape)
    torch.testing.assert_close(y[:, :4].mean((2, 3)), torch.zeros(4, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y[:, 4].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_r_polynets_have_their_parts():
    model = create_model("r-polynet18", width=8)
    kinds = [type(part).__name__ for part in model.blocks]
    two = ["PolyResidual"] * 2
    assert kinds == [
        *(*two, "MaxPool2d", "DropBlock2d", *two, "MaxPool2d", "DropBlock2d"),
        *(*two, "MaxPool2d", *two),
    ]
    norms = [
        isinstance(part.branch[1], InstanceBatchNorm2d)
        for part in model.blocks
        if hasattr(part, "branch")
    ]
    assert norms == [True] * 6 + [False] * 2
    assert all(p.item() == 0 for n, p in model.named_parameters() if n.endswith("alpha"))
    conv = create_model("r-polynet18").blocks[0].branch[0]
    assert abs(conv.weight.std() * 24 / 4 - 1) < 0.02  # fan_in is 576


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depths": ()}, "depths must name at least one stage"),
        ({"depths": (2, 0)}, "depths[1] must be a positive integer, got 0"),
        ({"order": 6}, "order must be at most 5, got 6"),
        ({"block": "basik"}, "did you mean 'basic'"),
        ({"stem": "cifar10"}, "did you mean 'cifar'"),
        ({"variant": "prodpol"}, "did you mean 'prodpoly'"),
        ({"activation": "elu"}, "activation must be one of relu, prelu, none"),
        ({"norm": "layer"}, "norm must be one of none, batch, rms, tanh"),
        ({"dropout": 1.0}, "dropout must be in [0, 1), got 1.0"),
        ({"drop_block": float("nan")}, "drop_block must be in [0, 1), got nan"),
        ({"instance_share": 0.8, "block": "ir"}, "instance_share is of basic blocks"),
        ({"instance_share": 0.1, "width": 4}, "instance_share 0.1 of width 4 is no channel"),
        ({"num_classes": 1}, "num_classes must be at least 2"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ResNetConfig(**settings)


def test_a_list_of_depths_is_a_tuple():
    assert ResNetConfig(depths=[1, 2]).depths == (1, 2)
    assert isinstance(create_model("ir50", width=4, depths=(1,)).stem[2], nn.PReLU)
