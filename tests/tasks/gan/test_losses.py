"""Losses of adversarial pairs against closed forms; the penalty sample by sample."""

import numpy as np
import pytest
import torch
from torch import nn

from polygraph.models.images.dcgan import ConvCritic, ConvCriticConfig
from polygraph.models.images.graph_gan import GraphCritic, GraphCriticConfig
from polygraph.tasks.gan.losses import (
    LOSSES,
    CriticLoss,
    GanConfig,
    GeneratorLoss,
    critic_loss,
    generator_loss,
    gradient_penalty,
    mixes_samples,
)

REAL = np.array([-2.0, -0.5, 0.25, 3.0])
FAKE = np.array([1.5, -1.25, 0.0, -4.0])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


OF_CRITIC = {
    "minimax": -(np.log(sigmoid(REAL)) + np.log(1 - sigmoid(FAKE))).mean(),
    "wgan": FAKE.mean() - REAL.mean(),
    "hinge": (np.maximum(0, 1 - REAL) + np.maximum(0, 1 + FAKE)).mean(),
}
OF_CRITIC |= {"non-saturating": OF_CRITIC["minimax"], "wgan-gp": OF_CRITIC["wgan"]}
OF_GENERATOR = {
    "minimax": np.log(1 - sigmoid(FAKE)).mean(),
    "non-saturating": -np.log(sigmoid(FAKE)).mean(),
    **dict.fromkeys(("wgan", "wgan-gp", "hinge"), -FAKE.mean()),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_against_closed_forms(kind):
    """The formulas of the papers, and finite values where a sigmoid is 0 or 1."""
    real, fake = torch.from_numpy(REAL), torch.from_numpy(FAKE)
    assert float(critic_loss(kind, real, fake)) == pytest.approx(OF_CRITIC[kind], rel=1e-12)
    assert float(generator_loss(kind, fake)) == pytest.approx(OF_GENERATOR[kind], rel=1e-12)
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    total = critic_loss(kind, far, far) + generator_loss(kind, far)
    assert bool(total.isfinite())
    assert bool(torch.autograd.grad(total, far)[0].isfinite().all())


@pytest.mark.parametrize("kind", LOSSES)
def test_unequal_numbers_of_real_and_generated_images(kind):
    """Each side counts by its mean: to repeat one changes nothing."""
    real, fake = torch.randn(4), torch.randn(6)
    expected = critic_loss(kind, real.repeat(3), fake.repeat(2))
    torch.testing.assert_close(critic_loss(kind, real, fake), expected)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(9, 1), nn.Flatten(0))
    loss = CriticLoss(critic, GanConfig(loss=kind))
    images = torch.randn(4, 1, 3, 3), torch.randn(6, 1, 3, 3)
    found, gap, _ = loss(*images, None)
    values = [critic(part) for part in images]
    torch.testing.assert_close(found, critic_loss(kind, *values))
    torch.testing.assert_close(gap, values[0].mean() - values[1].mean())


def test_penalty_of_a_linear_critic():
    """(|w| - 1)², wherever the samples lie; also by the whole loss, times λ."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Flatten(0)).double()
    weight = critic[1].weight.detach()
    real, fake = torch.randn(2, 5, 3, 2, 2, dtype=torch.float64)
    mixed = torch.lerp(real, fake, 0.3).requires_grad_()
    wanted = (weight.norm() - 1) ** 2
    torch.testing.assert_close(gradient_penalty(critic, mixed), wanted)
    loss, gap, penalty = CriticLoss(critic, GanConfig(gradient_penalty=7.0))(real, fake, mixed)
    torch.testing.assert_close(penalty, wanted)
    torch.testing.assert_close(gap, critic(real).mean() - critic(fake).mean())
    torch.testing.assert_close(loss, 7 * wanted - gap)
    assert not penalty.requires_grad
    assert not gap.requires_grad


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("graph", ["none", "edge-sum", "ecc", "light", "attention"])
def test_penalty_has_no_terms_across_samples(graph, size):
    """A sample's slope and its derivatives do not change with the other samples of the batch."""
    torch.manual_seed(0)
    config = GraphCriticConfig(1, (4, 5, 6), graph=graph, graph_sizes=(size,), k=3, rank=2)
    critic = GraphCritic(config).double()
    with torch.no_grad():
        for name, parameter in critic.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(1.0)
    x = torch.randn(3, 1, 32, 32, dtype=torch.float64)
    other = torch.cat([x[:1], 5 * torch.randn(2, 1, 32, 32, dtype=torch.float64)])
    found = []
    for batch in (x, other, x[:1]):
        mixed = batch.clone().requires_grad_()
        (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        of_first = (slope[0].norm() - 1).square()
        rest = torch.autograd.grad(of_first, [mixed, *critic.parameters()], allow_unused=True)
        assert not rest[0][1:].any()
        found.append([slope[0], of_first, *(g for g in rest[1:] if g is not None)])
    for changed in found[1:]:
        for one, two in zip(found[0], changed, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
    alone = [gradient_penalty(critic, row[None].clone().requires_grad_()) for row in x]
    together = gradient_penalty(critic, x.clone().requires_grad_())
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-11, atol=1e-12)


def test_batch_normalisation_keeps_real_and_generated_images_apart():
    """Two calls then, so that neither half is in the other's statistics."""
    torch.manual_seed(0)
    config = GanConfig(loss="non-saturating")
    critic = ConvCritic(ConvCriticConfig(1, (3, 4, 5)))
    assert mixes_samples(critic)
    assert not mixes_samples(ConvCritic(ConvCriticConfig(1, (3, 4, 5), batch_norm=False)))
    real, fake = torch.randn(2, 4, 1, 32, 32)
    loss, _, penalty = CriticLoss(critic, config)(real, fake, None)
    wanted = critic_loss("non-saturating", critic(real), critic(fake))
    torch.testing.assert_close(loss, wanted)
    assert penalty == 0


def test_the_generators_loss_holds_the_generator_alone():
    """What Fabric wraps has no parameter of the critic."""
    generator, critic = nn.Linear(2, 3), nn.Linear(3, 1)
    loss = GeneratorLoss(generator, critic, GanConfig(loss="wgan"))
    assert {id(p) for p in loss.parameters()} == {id(p) for p in generator.parameters()}
    z = torch.randn(4, 2)
    torch.testing.assert_close(loss(z), -critic(generator(z)).mean())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "wgangp"}, "loss must be one of .* did you mean 'wgan-gp'"),
        ({"optimizer": "sgd"}, "optimizer must be one of adam, rmsprop"),
        ({"critic_steps": 0}, "critic_steps must be at least 1, got 0"),
        ({"generator_batch": 0}, "generator_batch must be at least 1, got 0"),
        ({"gradient_penalty": 0.0}, "gradient_penalty must be positive and finite, got 0.0"),
        ({"clip": float("inf")}, "clip must be positive and finite"),
        ({"critic_rate": float("nan")}, "critic_rate must be positive and finite"),
        ({"beta1": 1.0}, r"beta1 must be in \[0, 1\), got 1.0"),
        ({"beta2": -0.1}, r"beta2 must be in \[0, 1\)"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\)"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        GanConfig(**settings)


def test_unknown_losses():
    with pytest.raises(ValueError, match="kind must be one of"):
        critic_loss("mse", torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match="kind must be one of"):
        generator_loss("mse", torch.zeros(1))
