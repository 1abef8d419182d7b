"""Bounds on log p(x): exact on linear-Gaussian models, in nats, and what is refused."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from polygraph.models import ImageVAE, ImageVAEConfig, MeshAutoencoder, MeshAutoencoderConfig
from polygraph.models.mesh.mesh_autoencoder import OPERATORS
from polygraph.models.vae import (
    BernoulliLikelihood,
    GaussianLikelihood,
    Posterior,
    VariationalMixin,
    gaussian_kl,
)
from polygraph.models.vae.likelihood import GAUSSIANS

D, L, N = 7, 3, 60
TIGHT = {"rtol": 1e-10, "atol": 1e-9}
MESH = MeshAutoencoderConfig((4, 4), (4, 4, 3), latent_channels=3, variational=True)
IMAGE = ImageVAEConfig(size=8, channels=(4, 8), latent_channels=3)


class LinearVAE(VariationalMixin):
    """x = W z + b + σ ε, q(z|x) = N(A (x - b), S)."""

    def __init__(self, weight, bias, variance, inverse, spread):
        super().__init__()
        self.config = dataclasses.make_dataclass("Config", ["latent_channels"])(weight.shape[1])
        self.weight, self.bias = nn.Parameter(weight), bias
        self.inverse, self.spread = inverse, spread
        self.likelihood = GaussianLikelihood("fixed").double()
        self.likelihood.log_variance.fill_(math.log(variance))

    def observe(self, x):
        return x

    def infer(self, observed):
        mean = (observed - self.bias) @ self.inverse.T
        return Posterior(mean, self.spread.log().expand_as(mean))

    def expect(self, z):
        return z @ self.weight.T + self.bias

    decode = expect


def principal_components():
    """Data, and the maximum-likelihood model of them (Tipping and Bishop, 1999, appendix A)."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, D)) @ rng.standard_normal((D, D))
    x = torch.from_numpy(x)
    bias = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    values, vectors = values.flip(0), vectors.flip(1)
    variance = float(values[L:].mean())
    weight = vectors[:, :L] * (values[:L] - variance).sqrt()
    inner = weight.T @ weight + variance * torch.eye(L, dtype=torch.float64)  # diagonal
    model = LinearVAE(
        weight, bias, variance, torch.linalg.solve(inner, weight.T), variance / inner.diagonal()
    )
    # log p(x) of all data, by the eigenvalues alone (their equation 6).
    kept = values[:L].log().sum() + (D - L) * math.log(variance)
    total = -N / 2 * (D * math.log(2 * math.pi) + float(kept) + D)
    return x, model, total


def exact_elbo(model, x, monkeypatch):
    """`elbo` with 2 L points in the place of draws, of which quadratics have their exact mean."""
    state = {"at": 0}

    def point(posterior, generator=None):
        axis, sign = divmod(state["at"], 2)
        state["at"] += 1
        size = posterior.mean.shape[1]
        step = torch.zeros_like(posterior.mean)
        step[:, axis] = (1 - 2 * sign) * math.sqrt(size)
        return posterior.mean + step * torch.exp(0.5 * posterior.log_variance)

    with monkeypatch.context() as patch:
        patch.setattr(Posterior, "sample", point)
        return model.elbo(x, samples=2 * model.config.latent_channels)


def test_the_bound_of_a_linear_model_at_its_optimum_is_probabilistic_pca(monkeypatch):
    x, model, total = principal_components()
    found = exact_elbo(model, x, monkeypatch)
    assert found.value.dtype == torch.float64
    torch.testing.assert_close(float(found.value.sum()), total, **TIGHT)
    covariance = model.weight @ model.weight.T
    covariance = covariance + model.likelihood.log_variance.exp() * torch.eye(
        D, dtype=torch.float64
    )
    density = MultivariateNormal(model.bias, covariance).log_prob(x)
    torch.testing.assert_close(found.value, density, **TIGHT)
    # With the true posterior every draw's weight is log p(x).
    torch.testing.assert_close(model.importance_bound(x, 3), density.detach(), **TIGHT)


def test_the_optimum_has_the_mean_squared_error_as_variance(monkeypatch):
    """And is one: other weights and variances have a lower bound."""
    x, model, total = principal_components()
    likelihood = GaussianLikelihood("optimal").double()
    posterior = model.infer(x)
    spread = torch.exp(0.5 * posterior.log_variance) * math.sqrt(L)
    points = [
        posterior.mean + sign * spread * torch.eye(L, dtype=torch.float64)[axis]
        for axis in range(L)
        for sign in (1, -1)
    ]
    best = likelihood.adapt(model.expect(torch.cat(points)), x.repeat(2 * L, 1))
    torch.testing.assert_close(best, model.likelihood.log_variance, **TIGHT)
    torch.testing.assert_close(likelihood.log_variance, best, **TIGHT)
    for change in (0.9, 1.1):
        other = LinearVAE(
            model.weight.detach() * change, model.bias, math.exp(best), model.inverse, model.spread
        )
        assert float(exact_elbo(other, x, monkeypatch).value.sum()) < total - 0.1


def dense(model, numbers):
    """The affine map of a decoder without activations: matrix and offset, by probing it."""
    offset = model.expect(torch.zeros(1, L, dtype=torch.float64)).flatten()
    columns = model.expect(torch.eye(L, dtype=torch.float64)).flatten(1) - offset
    assert columns.shape == (L, numbers)
    return columns.T, offset


def test_the_bound_of_a_mesh_autoencoder_is_exact_where_its_decoder_is_affine(tiny, monkeypatch):
    """ELBO = log p(x) - KL(q ‖ p(z|x)), all of it in closed form."""
    config = dataclasses.replace(MESH, block="first_order", activation="none", order=1)
    torch.manual_seed(0)
    model = MeshAutoencoder(config, tiny).double().eval()
    size = 3 * model.num_vertices
    model.likelihood.log_variance.fill_(-1.3)
    x = torch.randn(5, model.num_vertices, 3, dtype=torch.float64)
    with torch.no_grad():
        weight, offset = dense(model, size)
        found = exact_elbo(model, x, monkeypatch).value
        posterior = model.posterior(x)
    variance = math.exp(-1.3)
    flat = x.flatten(1)
    identity = torch.eye(size, dtype=torch.float64)
    density = MultivariateNormal(offset, weight @ weight.T + variance * identity).log_prob(flat)
    inner = weight.T @ weight / variance + torch.eye(L, dtype=torch.float64)
    truth = MultivariateNormal(
        (flat - offset) @ torch.linalg.solve(inner, weight.T).T / variance, precision_matrix=inner
    )
    ours = MultivariateNormal(posterior.mean, torch.diag_embed(posterior.log_variance.exp()))
    gap = kl_divergence(ours, truth)
    assert float(gap.min()) > 1e-3
    torch.testing.assert_close(found, density - gap, **TIGHT)
    bound = model.importance_bound(x, 400, generator=torch.Generator().manual_seed(0))
    assert bool((bound > found).all())
    torch.testing.assert_close(bound, density, rtol=0, atol=0.1)


def test_divergence_and_likelihoods_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    q = Normal(mean, torch.exp(0.5 * log_variance))
    expected = kl_divergence(q, Normal(torch.zeros(()).double(), torch.ones(()).double()))
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected, **TIGHT)
    posterior = Posterior(mean, log_variance)
    z = posterior.sample(torch.Generator().manual_seed(1))
    torch.testing.assert_close(posterior.log_density(z), q.log_prob(z).sum(-1), **TIGHT)
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    for kind in GAUSSIANS:
        likelihood = GaussianLikelihood(kind, 2.5).double()
        found = -Normal(mean, math.sqrt(2.5)).log_prob(x).sum(-1)
        torch.testing.assert_close(likelihood(mean, x), found, rtol=1e-6, atol=1e-6)
    bits = (x > 0).double()
    found = -Bernoulli(logits=mean).log_prob(bits).sum(-1)
    torch.testing.assert_close(BernoulliLikelihood()(mean, bits), found, **TIGHT)


def test_small_divergences_keep_their_digits():
    """exp(v) - 1 - v of float32 would be 0."""
    value = gaussian_kl(torch.zeros(1), torch.full((1,), 1e-3))
    assert float(value) == pytest.approx(2.5e-7, rel=0.3)


def test_the_optimal_variance_is_a_running_average_of_the_batches():
    likelihood = GaussianLikelihood("optimal")
    for error in (1.0, 2.0, 3.0):
        likelihood.adapt(torch.zeros(2, 5), torch.full((2, 5), error))
    assert likelihood.sigma**2 == pytest.approx((1 + 4 + 9) / 3, rel=1e-5)
    likelihood.batches.fill_(10_000)
    before = likelihood.sigma**2
    likelihood.adapt(torch.zeros(1, 1), torch.full((1, 1), 10.0))
    assert likelihood.sigma**2 == pytest.approx(0.99 * before + 0.01 * 100, rel=1e-5)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("block", ["first_order", "simple", "full", "skip"])
def test_every_operator_and_polynomial_is_variational(tiny, operator, block):
    config = dataclasses.replace(MESH, operator=operator, block=block)
    model = MeshAutoencoder(config, tiny)
    x = torch.randn(4, model.num_vertices, 3)
    loss = -model.elbo(x).value.mean()
    loss.backward()
    for head in (model.to_latent, model.to_log_variance):
        assert float(head.weight.grad.abs().sum()) > 0
    assert model.sample(3).shape == (3, model.num_vertices, 3)


def test_an_autoencoder_stays_what_it_was(tiny):
    """The same names, and a variational one of the same seed begins with the same weights."""
    plain = dataclasses.replace(MESH, variational=False)
    torch.manual_seed(3)
    ours = MeshAutoencoder(plain, tiny)
    torch.manual_seed(3)
    variational = MeshAutoencoder(MESH, tiny)
    more = set(variational.state_dict()) - set(ours.state_dict())
    assert more == {
        *("to_log_variance.weight", "to_log_variance.bias"),
        *("likelihood.log_variance", "likelihood.batches"),
    }
    assert set(ours.state_dict()) <= set(variational.state_dict())
    for name, value in ours.state_dict().items():
        assert torch.equal(value, variational.state_dict()[name]), name
    count = [sum(p.numel() for p in model.parameters()) for model in (ours, variational)]
    assert count[1] - count[0] == variational.to_latent.weight.numel() + 3
    assert not {"variational", "likelihood", "variance"} & set(plain.semantics())
    x = torch.randn(2, ours.num_vertices, 3)
    assert torch.equal(ours.encode(x), variational.encode(x))
    assert torch.equal(variational.posterior(x).mean, variational.encode(x))


def test_image_network_is_the_published_size():
    """Convolutions of 32, 64, 128 features with kernels 3, 4, 5, and back."""
    model = ImageVAE(ImageVAEConfig())
    count = sum(p.numel() for p in model.parameters())
    body = 32 * 9 + 32 + 64 * 32 * 16 + 64 + 128 * 64 * 25 + 128
    back = 128 * 64 * 25 + 64 + 64 * 32 * 16 + 32 + 32 * 9 + 1
    heads = 2 * 20 * (128 * 64 + 1) + 128 * 64 * 21
    assert count == body + back + heads == 975_785
    for channels in ((4, 8), (4, 8, 8), (4, 8, 8, 8)):
        small = ImageVAE(ImageVAEConfig(3, 24, channels, 5))
        assert small(torch.zeros(2, 3, 24, 24)).shape == (2, 3, 24, 24)


def test_bits_are_pixels_brighter_than_the_middle():
    model = ImageVAE(dataclasses.replace(IMAGE, likelihood="bernoulli"))
    x = torch.rand(4, 1, 8, 8) * 2 - 1
    bits = torch.where(x > 0, 1.0, -1.0)
    assert torch.equal(model.observe(x), (bits + 1) / 2)
    assert torch.equal(model.encode(x), model.encode(bits))
    z = model.encode(x)
    mean = torch.sigmoid(model.expect(z)) * 2 - 1
    torch.testing.assert_close(model.decode(z), mean)


def test_samples_repeat_and_are_of_eval_mode():
    model = ImageVAE(IMAGE).train()
    few = model.sample(5, seed=1, batch_size=2)
    torch.testing.assert_close(few, model.sample(5, seed=1))
    assert torch.equal(model.sample(5, seed=1), model.sample(5, seed=1))
    assert not torch.equal(model.sample(5, seed=1), model.sample(5, seed=2))
    assert model.training
    still = model.sample(2, spread=0.0)
    assert torch.equal(still[0], still[1])


@pytest.mark.parametrize(
    ("config", "change", "words"),
    [
        (MESH, {"latent_channels": 0}, "latent_channels must be"),
        (MESH, {"likelihood": "bernoulli"}, "likelihood must be|unknown likelihood"),
        (MESH, {"variance": 0.0}, "variance must be from"),
        (IMAGE, {"latent_channels": 0}, "latent_channels must be"),
        (IMAGE, {"size": 9}, "size must be a multiple of 2"),
        (IMAGE, {"in_channels": 2}, "in_channels must be 1 or 3"),
        (IMAGE, {"channels": (4,)}, "channels must be two"),
        (IMAGE, {"likelihood": "laplace"}, "likelihood"),
    ],
)
def test_what_cannot_be_built_is_refused(config, change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(config, **change)


def test_what_has_no_bound_is_refused(tiny):
    plain = MeshAutoencoder(dataclasses.replace(MESH, variational=False), tiny)
    x = torch.zeros(2, plain.num_vertices, 3)
    for call in (plain.elbo, plain.importance_bound, plain.posterior):
        with pytest.raises(ValueError, match=r"not variational.*variational=True"):
            call(x)
    with pytest.raises(ValueError, match="not variational"):
        plain.sample(2)
    model = MeshAutoencoder(MESH, tiny)
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="elbo: x holds NaN or infinity"):
            model.elbo(x + value)
    with pytest.raises(ValueError, match="std must not be negative, and not zero everywhere"):
        model.set_normalization(x[0], torch.zeros_like(x[0]))  # of one mesh
    with pytest.raises(ValueError, match="samples must be"):
        model.elbo(x, samples=0)
    with pytest.raises(ValueError, match="spread must be"):
        model.sample(2, spread=-1.0)
    image = ImageVAE(dataclasses.replace(IMAGE, likelihood="bernoulli"))
    with pytest.raises(ValueError, match="NaN or infinity"):
        image.elbo(torch.full((1, 1, 8, 8), float("nan")))
