"""The style generator: its step is the NCP's, its formula, bad settings."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from polygraph.models.images.style_gan import StyleGenerator, StyleGeneratorConfig, StyleStep
from polygraph.nn import NCP

TINY = StyleGeneratorConfig(latent_channels=5, out_channels=1, channels=(6, 5, 4, 3))


def test_steps_without_shift_and_activation_are_an_ncp():
    """x_n = (A_n w) * (S_n x_{n-1}) over convolutions, A_n of images that are constant."""
    torch.manual_seed(0)
    config = replace(TINY, shift=False, activation=False, norm="none")
    steps = [StyleStep(config, 6, 6).double() for _ in range(3)]

    def conv(i, o, bias=True):
        return nn.Conv2d(i, o, 3, padding=1, bias=bias)

    # One input more, always 1, carries what A_n w has of a bias.
    block = NCP(conv, 6, 6, order=4, rank=6, norm="none").double()
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    latent = 5
    with torch.no_grad():
        wide = block.wide.weight.view(4, 6, 6, 3, 3)
        first = torch.randn(6, latent + 1, dtype=torch.float64)
        wide[0, :, :, 1, 1] = first
        for n, step in enumerate(steps):
            wide[n + 1, :, :latent, 1, 1] = step.scale.weight
            wide[n + 1, :, latent, 1, 1] = step.scale.bias
            block.nested[n].weight.copy_(step.conv.weight)
            block.norms[n].scale.fill_(1.0)
            block.offsets[n].fill_(-1.0)  # b_n = 0
        block.output.weight[:, :, 1, 1] = torch.eye(6, dtype=torch.float64)
    w = torch.randn(2, latent, dtype=torch.float64)
    ones = torch.cat([w, torch.ones(2, 1, dtype=torch.float64)], 1)
    h = (ones @ first.T)[:, :, None, None].expand(-1, -1, 4, 4)
    for step in steps:
        h = step(w, h)
    torch.testing.assert_close(block(ones[:, :, None, None].expand(-1, -1, 4, 4)), h)


@pytest.mark.parametrize("mapping", ["layers", "ncp"])
def test_first_images_depend_on_z(mapping):
    """Eight layers of torch's own initial weights leave a two-thousandth of what z does to w."""
    torch.manual_seed(0)
    config = replace(TINY, mapping=mapping, latent_channels=64, channels=(16, 16, 8, 8))
    generator = StyleGenerator(replace(config, mapping_depth=8 if mapping == "layers" else 4))
    z = torch.randn(64, 64)
    with torch.no_grad():
        assert 0.2 < generator.styles(z).std(0).mean() < 2
        assert generator(z).std(0).mean() > 0.1


def test_a_step_of_a_slow_mapping():
    """What it computes is the same at first, and changes by a hundredth of Adam's steps."""
    outputs = []
    z = torch.randn(8, 5)
    for rate in (1.0, 0.01):
        torch.manual_seed(0)
        generator = StyleGenerator(replace(TINY, mapping_depth=1, mapping_rate=rate))
        optimizer = torch.optim.Adam(generator.mapping.parameters(), 1e-3)
        before = generator.styles(z)
        before.sum().backward()
        optimizer.step()
        outputs.append((before, generator.styles(z) - before))
    (first, usual), (same, slow) = outputs
    torch.testing.assert_close(same, first)
    torch.testing.assert_close(slow, 0.01 * usual, rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize("mapping", ["layers", "ncp"])
def test_formula(mapping):
    torch.manual_seed(0)
    config = replace(TINY, mapping=mapping, mapping_depth=3)
    generator = StyleGenerator(config).double()
    z = torch.randn(2, 5, dtype=torch.float64)
    w = generator.mapping(z / z.square().mean(1, keepdim=True).sqrt())
    torch.testing.assert_close(generator.styles(z), w, rtol=1e-6, atol=1e-6)
    h = generator.constant[None].expand(2, -1, -1, -1)
    for n, step in enumerate(generator.steps):
        h = h.repeat_interleave(2, 2).repeat_interleave(2, 3) if n in (2, 4, 6) else h
        c = nn.functional.leaky_relu(step.conv(h), 0.2)
        c = (c - c.mean((2, 3), keepdim=True)) / (
            c.var((2, 3), correction=0, keepdim=True) + 1e-5
        ).sqrt()
        h = step.scale(w)[:, :, None, None] * c + step.shift(w)[:, :, None, None]
    torch.testing.assert_close(generator(z), generator.output(h).tanh(), rtol=1e-6, atol=1e-6)


def test_only_the_mapping_differs():
    def count(**changes):
        config = StyleGeneratorConfig(**changes)
        return sum(
            p.numel()
            for name, p in StyleGenerator(config).named_parameters()
            if not name.startswith("mapping")
        )

    assert count() == count(mapping="ncp", mapping_depth=4)
    layers = StyleGenerator(StyleGeneratorConfig()).mapping
    assert sum(p.numel() for p in layers.parameters()) == 8 * (128 * 128 + 128)


def test_noise_in_training_alone():
    torch.manual_seed(0)
    generator = StyleGenerator(replace(TINY, noise=True))
    with torch.no_grad():
        for step in generator.steps:
            step.noise.fill_(1.0)
    z = torch.randn(2, 5)
    assert not torch.equal(generator(z), generator(z))
    generator.eval()
    assert torch.equal(generator(z), generator(z))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mapping": "layer"}, "did you mean 'layers'"),
        ({"mapping_depth": 0}, "mapping_depth"),
        ({"mapping_rate": 0.0}, r"mapping_rate must be in \(0, 1\]"),
        ({"mapping_rate": 0.01, "mapping": "ncp"}, "with mapping ncp it must be 1"),
        ({"norm": "rms"}, "norm"),
        ({"channels": (3, 3)}, "4 numbers"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)
