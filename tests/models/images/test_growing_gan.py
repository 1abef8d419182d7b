"""Growing networks: sizes and blending, formulas of the layers, what a checkpoint keeps."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from polygraph.models.images.families import build
from polygraph.models.images.growing_gan import (
    GrowingCritic,
    GrowingCriticConfig,
    GrowingGeneratorConfig,
    _Equalized,
    _PixelNorm,
    growth_at,
)
from polygraph.tasks.gan.losses import gradient_penalty, mixes_samples

GENERATOR = GrowingGeneratorConfig(latent_channels=5, out_channels=1, channels=(6, 5, 4, 3))
CRITIC = GrowingCriticConfig(in_channels=1, channels=(3, 4, 5, 6))


def pair(dtype=torch.float64):
    torch.manual_seed(0)
    return build(GENERATOR).to(dtype), build(CRITIC).to(dtype)


def noise(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def blocks(images, size):
    """Whether images are constant over blocks of 32 / size pixels."""
    return torch.equal(F.interpolate(images[:, :, :: 32 // size, :: 32 // size], (32, 32)), images)


def test_growth_stands_and_rises_by_turns():
    """Six phases: at 4, on to 8, at 8, on to 16, at 16, on to 32; then all is there."""
    values = [growth_at(step, 60) for step in range(0, 75, 5)]
    assert values == [1, 1, 1, 1.5, 2, 2, 2, 2.5, 3, 3, 3, 3.5, 4, 4, 4]
    assert growth_at(0, 0) == growth_at(9, 0) == 4
    assert growth_at(11, 60) == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("growth", "size"), [(1, 4), (1.3, 8), (2, 8), (2.75, 16), (3, 16), (3.5, 32), (4, 32)]
)
def test_sizes(growth, size):
    """The generator repeats the pixels of its size, the critic sees their means."""
    generator, critic = pair()
    generator.grow_to(growth)
    critic.grow_to(growth)
    images = generator(noise(3, 5))
    assert images.shape == (3, 1, 32, 32)
    assert blocks(images, size)
    assert size == 4 or not blocks(images, size // 2)
    x = noise(3, 1, 32, 32)
    means = F.interpolate(F.avg_pool2d(x, 32 // size), (32, 32))
    torch.testing.assert_close(critic(x), critic(means))
    if size > 4:
        coarser = F.interpolate(F.avg_pool2d(x, 64 // size), (32, 32))
        assert not torch.allclose(critic(x), critic(coarser))


@pytest.mark.parametrize("level", [1, 2, 3])
def test_new_layers_are_blended_in(level):
    """From nothing to everything, linearly: halfway is the mean of both ends."""
    generator, critic = pair()
    for network, x in ((generator, noise(3, 5)), (critic, noise(3, 1, 32, 32))):
        network.grow_to(level)
        before = network(x)
        network.grow_to(level + 2**-20)
        torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-4)
    z, found = noise(3, 5), []
    for growth in (level, level + 0.5, level + 1):
        generator.grow_to(growth)
        found.append(generator(z))
    torch.testing.assert_close(found[1], (found[0] + found[2]) / 2)


def test_layers_by_their_formulas():
    torch.manual_seed(0)
    layer = _Equalized(6, 4, 3)
    x = noise(2, 6, 5, 5).float()
    weight = layer.weight * math.sqrt(2 / 54)
    torch.testing.assert_close(layer(x), F.conv2d(x, weight, layer.bias, padding=1))
    assert float(_Equalized(64, 64, 3).weight.detach().std()) == pytest.approx(1, rel=0.02)
    normal = _PixelNorm()(x)
    torch.testing.assert_close(normal.square().mean(1), torch.ones(2, 5, 5), rtol=1e-4, atol=0)
    torch.testing.assert_close(normal * x.square().mean(1, keepdim=True).sqrt(), x)


@pytest.mark.parametrize("growth", [1, 1.5, 3, 4])
def test_every_parameter_has_a_gradient_and_those_not_in_use_zero(growth):
    generator, critic = pair()
    generator.grow_to(growth)
    critic.grow_to(growth)
    critic(generator(noise(2, 5))).sum().backward()
    for network, in_use in ((generator, "outputs"), (critic, "inputs")):
        gradients = {name: p.grad for name, p in network.named_parameters()}
        assert all(g is not None for g in gradients.values())
        levels = {0, 1, 2, 3} & {math.ceil(growth) - 1, math.ceil(growth) - 2}
        if growth in (3, 4):  # the size before has a weight of 0
            levels = {math.ceil(growth) - 1}
        moved = {n for n in range(4) if bool(gradients[f"{in_use}.{n}.weight"].any())}
        assert moved == levels


def test_a_checkpoint_keeps_the_growth():
    generator, _ = pair()
    generator.grow_to(2.25)
    other = build(GENERATOR).double()
    other.load_state_dict(generator.state_dict())
    assert (other.levels, float(other.growth)) == (3, 2.25)
    z = noise(2, 5)
    assert torch.equal(other(z), generator(z))
    assert torch.equal(copy.deepcopy(generator)(z), generator(z))
    broken = {**generator.state_dict(), "growth": torch.tensor(float("nan"))}
    with pytest.raises(ValueError, match=r"growth must be in \[1, 4\], got nan"):
        other.load_state_dict(broken)


@pytest.mark.parametrize("growth", [1, 2.5, 4])
def test_gradient_penalty(growth):
    """Against differences in float64, and its own gradient too."""
    critic = pair()[1]
    critic.grow_to(growth)
    mixed = noise(2, 1, 32, 32).requires_grad_()
    penalty = gradient_penalty(critic, mixed)
    direction, step = noise(2, 1, 32, 32), 1e-6
    (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed)
    wanted = (critic(mixed + step * direction) - critic(mixed - step * direction)) / (2 * step)
    torch.testing.assert_close((slope * direction).flatten(1).sum(1), wanted, rtol=1e-5, atol=1e-6)
    norm = slope.flatten(1).norm(dim=1)
    torch.testing.assert_close(penalty, (norm - 1).square().mean())
    weight = critic.last[0].weight
    (of_weight,) = torch.autograd.grad(penalty, weight)
    direction, found = noise(*weight.shape), []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
        found.append(float(gradient_penalty(critic, mixed)))
        with torch.no_grad():
            weight -= sign * step * direction
    wanted = (found[0] - found[1]) / (2 * step)
    assert float((of_weight * direction).sum()) == pytest.approx(wanted, rel=1e-4, abs=1e-7)


def test_mapping_is_a_polynomial_of_z():
    """Its order is a setting; without it z goes in as it is."""
    torch.manual_seed(0)
    mapped = build(GrowingGeneratorConfig(5, 1, (6, 5, 4, 3), mapping_order=2)).double()
    plain = copy.deepcopy(mapped)
    plain.mapping = None
    z = noise(2, 5)
    assert torch.equal(mapped(z), plain(mapped.mapping(z)))


def test_bad_settings():
    generator, critic = pair()
    for growth in (0.9, 4.1):
        with pytest.raises(ValueError, match=r"growth must be in \[1, 4\]"):
            generator.grow_to(growth)
    with pytest.raises(ValueError, match="channels must be 4 numbers"):
        GrowingGeneratorConfig(channels=(3, 4))
    with pytest.raises(ValueError, match="mapping_order must be 0 or more"):
        GrowingGeneratorConfig(mapping_order=-1)
    with pytest.raises(ValueError, match="in_channels must be 1 or 3"):
        GrowingCriticConfig(in_channels=2)
    with pytest.raises(ValueError, match=r"z must have shape \[B, 5\]"):
        generator(noise(2, 4))
    with pytest.raises(ValueError, match=r"x must have shape \[B, 1, 32, 32\]"):
        critic(noise(2, 1, 16, 16))


def test_deviation_over_the_batch():
    """One feature more at 4 x 4, the mean deviation; a batch of one image has none."""
    torch.manual_seed(0)
    config = GrowingCriticConfig(1, (3, 4, 5, 6), minibatch_deviation=True)
    critic, seen = GrowingCritic(config).double(), []
    critic.last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    critic(torch.randn(4, 1, 32, 32, dtype=torch.float64))
    features, added = seen[0][:, :-1], seen[0][:, -1]
    wanted = (features.var(0, correction=0) + 1e-8).sqrt().mean()
    torch.testing.assert_close(added, wanted.expand(4, 4, 4))
    critic(torch.randn(1, 1, 32, 32, dtype=torch.float64))
    assert float(seen[1][:, -1].detach().abs().max()) < 1e-3
    plain = GrowingCritic(GrowingCriticConfig(1, (3, 4, 5, 6)))
    count = [sum(p.numel() for p in model.parameters()) for model in (critic, plain)]
    assert count[0] - count[1] == 6 * 9
    assert mixes_samples(critic)
    assert not mixes_samples(plain)
