"""LeNet: its shapes, its parameters, bad input."""

import pytest
import torch

from polygraph.models.images.lenet import LeNet, LeNetConfig


@pytest.mark.parametrize(
    ("config", "count"),
    [
        # Convolutions 416 + 12,832, hidden 2,048 x 120 + 120 and 120 x 84 + 84, last 84 x 10 + 10.
        (LeNetConfig(), 416 + 12832 + 245880 + 10164 + 850),
        (LeNetConfig(3, 16, 2, (4, 6), 12, 5), 304 + 606 + 96 * 12 + 12 + 65 + 12),
    ],
)
def test_shapes_and_parameters(config, count):
    model = LeNet(config)
    assert sum(p.numel() for p in model.parameters()) == count
    images = torch.rand(3, config.in_channels, config.size, config.size) * 2 - 1
    features, logits = model.extract(images)
    assert features.shape == (3, config.num_features)
    assert logits.shape == (3, config.num_classes)
    assert torch.equal(model(images), logits)
    assert features.min() >= 0


def test_scale_is_of_the_features_alone():
    model = LeNet(LeNetConfig(size=8))
    images = torch.rand(3, 1, 8, 8)
    features, logits = model.extract(images)
    model.feature_scale.fill_(0.5)
    assert torch.equal(model.extract(images)[0], 0.5 * features)
    assert torch.equal(model(images), logits)
    again = LeNet(LeNetConfig(size=8))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.extract(images)[0], 0.5 * features)


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 3, 32, 32), (2, 1, 28, 28), (2, 1, 32, 28)])
def test_wrong_images(shape):
    with pytest.raises(ValueError, match=r"LeNet, x: images must have shape \[B, 1, 32, 32\], got"):
        LeNet(LeNetConfig(), "LeNet, x")(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 30}, "size must be a multiple of 4, got 30"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"channels": (4,)}, r"channels must be two numbers, got \[4\]"),
        ({"channels": (4, 0)}, r"channels\[1\] must be"),
        ({"in_channels": 0}, "in_channels must be"),
    ],
)
def test_bad_config(arguments, message):
    with pytest.raises(ValueError, match=message):
        LeNetConfig(**arguments)
