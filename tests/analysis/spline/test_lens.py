"""A x + b = f, for networks of every kind; codes, products, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch_geometric
from support.mesh_shapes import sphere
from torch import Tensor, nn
from torch.nn import functional as F

import polygraph.nn as pnn
from polygraph.analysis import SplineLens
from polygraph.mesh import build_hierarchy
from polygraph.models import MeshAutoencoder, MeshAutoencoderConfig, create_model
from polygraph.nn import NCP, knn_graph

D = torch.float64


class Residual(nn.Module):
    """Shared and in-place activations, functions without modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = F.relu_(x + self.norm(self.b(F.relu(self.a(x)))))
        x = torch.maximum(x, 0.3 * x + 0.1).clamp(max=2)
        x = torch.where(x > 1, x, 0.5 * x + 0.5)
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        return self.head(F.adaptive_max_pool2d(x, 2).flatten(1))


class Clouds(nn.Module):
    """An EdgeConv, and a maximum over points."""

    def __init__(self, layer: type, aggr: str, *more: nn.Module) -> None:
        super().__init__()
        self.conv = layer(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), *more), aggr=aggr)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.conv(x, edges).max(0).values


def shared_relu() -> nn.Module:
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), relu, nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), relu,
        nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, 3), nn.Hardtanh(-0.1, 0.2),
    )  # fmt: skip


def activations() -> nn.Module:
    kinds = (
        nn.ReLU6(), nn.LeakyReLU(0.1), nn.PReLU(6), nn.RReLU(), nn.Hardsigmoid(),
        nn.Softshrink(0.1), nn.Hardshrink(0.1), nn.Threshold(0.1, 0.3), nn.Dropout(),
    )  # fmt: skip
    layers = [layer for kind in kinds for layer in (nn.Linear(6, 6), kind)]
    return nn.Sequential(*layers, nn.Linear(6, 3))


def edges_of(x: Tensor) -> tuple[Tensor]:
    return (knn_graph(x, 4),)


BATCHED = {
    "MLP": (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)), (6,)),
    "activations": (activations, (6,)),
    "CNN": (shared_relu, (1, 14, 14)),
    "ResNet": (Residual, (3, 8, 8)),
    "DGCNN": (lambda: create_model("dgcnn-classifier", num_classes=3, k=4), (16, 3)),
}
GRAPHS = {
    "PyG EdgeConv": lambda: Clouds(torch_geometric.nn.EdgeConv, "max", nn.Linear(8, 3)),
    "EdgeConv": lambda: Clouds(pnn.EdgeConv, "max", nn.Linear(8, 3)),
    **{f"EdgeConv {a}": lambda a=a: Clouds(pnn.EdgeConv, a) for a in ("max", "min", "add", "mean")},
}


def make(name: str) -> tuple[SplineLens, Tensor]:
    """A lens, and inputs."""
    torch.manual_seed(0)
    if name in BATCHED:
        module, shape = BATCHED[name][0]().double().eval(), BATCHED[name][1]
        return SplineLens(module), torch.randn(3, *shape, dtype=D)
    x = torch.randn(12, 3, dtype=D)
    return SplineLens(GRAPHS[name]().double().eval(), edges_of(x), batched=False), x


@pytest.mark.parametrize("name", [*BATCHED, *GRAPHS])
class TestExactness:
    def test_is_the_network(self, name: str) -> None:
        lens, x = make(name)
        found = lens.affine(x)
        assert found.residual <= 1e-10
        want = lens.model(x, *lens.args).reshape(found.value.shape)
        linear = (found.A.flatten(2) @ x.reshape(len(found.A), -1, 1))[..., 0]
        torch.testing.assert_close(linear + found.b, want, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(linear, found.inner, rtol=1e-9, atol=1e-11)

    def test_holds_around_the_point(self, name: str) -> None:
        lens, x = make(name)
        found = lens.affine(x)
        near = x + 1e-9 * torch.randn_like(x)
        value = lens.model(near, *lens.args).reshape(found.value.shape)
        linear = (found.A.flatten(2) @ near.reshape(len(found.A), -1, 1))[..., 0]
        # PyTorch's hardsigmoid in float64 has constants of float32, forwards and backwards others.
        torch.testing.assert_close(linear + found.b, value, rtol=1e-10, atol=1e-11)

    def test_products_without_derivatives(self, name: str) -> None:
        lens, x = make(name)
        found, frozen = lens.affine(x), lens.frozen(x)
        assert torch.allclose(frozen(x), lens.model(x, *lens.args), rtol=1e-12, atol=1e-14)
        v = torch.randn_like(x)
        want = (found.A.flatten(2) @ v.reshape(len(found.A), -1, 1))[..., 0]
        torch.testing.assert_close(frozen.jvp(v).reshape(want.shape), want, rtol=1e-9, atol=1e-11)
        w = torch.randn_like(frozen.offset())
        back = torch.einsum("bk,bkd->bd", w.reshape(want.shape), found.A.flatten(2))
        torch.testing.assert_close(frozen.vjp(w), back.view(x.shape), rtol=1e-9, atol=1e-11)

    def test_codes_repeat(self, name: str) -> None:
        lens, x = make(name)
        codes = lens.codes(x)
        assert codes
        assert all(
            torch.equal(c, d) for c, d in zip(codes.values(), lens.codes(x).values(), strict=True)
        )
        assert not lens.distance(x, x).any()
        assert 0 < float(lens.distance(x, -x)[0]) < 1


def test_a_spiral_autoencoder_with_leaky_slopes() -> None:
    torch.manual_seed(0)
    vertices, faces = sphere()
    hierarchy = build_hierarchy(vertices, faces, factors=(4, 4))
    config = MeshAutoencoderConfig(
        encoder_channels=(4, 4), decoder_channels=(4, 4, 3), latent_channels=2,
        block="first_order", activation="leaky_relu",
    )  # fmt: skip
    model = MeshAutoencoder(config, hierarchy).double().eval()
    x = torch.randn(2, *vertices.shape, dtype=D)
    assert SplineLens(model).affine(x, range(5)).residual <= 1e-10


def test_a_generator_up_to_its_tanh() -> None:
    torch.manual_seed(0)
    generator = create_model("small/edge-k8/generator").double().eval()
    last = [name for name, _ in generator.named_modules()][-1]
    z = torch.randn(1, generator.config.latent_channels, dtype=D)
    with pytest.raises(ValueError, match=r"not piecewise affine: .*tanh"):
        SplineLens(generator).affine(z, [0])
    assert SplineLens(generator, layer=last).affine(z, [0, 7]).residual <= 1e-10


def test_codes_are_what_was_chosen() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.MaxPool2d(2))
    net[0].weight.data.fill_(1)
    x = torch.tensor([[[[1.0, -2.0], [3.0, -4.0]]]])
    codes = SplineLens(net).codes(x)
    assert codes["1:relu"].tolist() == [[[[True, False], [True, False]]]]
    assert codes["2:max_pool2d"].tolist() == [[[[2]]]]


def test_a_layer_in_between() -> None:
    lens, x = make("CNN")
    inner = SplineLens(lens.model, layer="4")
    found = inner.affine(x, [0, 5])
    want = lens.model[:5](x).flatten(1)[:, [0, 5]]
    torch.testing.assert_close(found.value, want)
    assert found.residual <= 1e-10


def test_terms_of_a_polynomial_behind_relus() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), NCP(nn.Linear, 6, 3, order=3, norm="none"))
    lens, x = SplineLens(net.double()), torch.randn(2, 4, dtype=D)
    found = lens.terms(x, 3)
    torch.testing.assert_close(found.terms.sum(0), net(x))
    with pytest.raises(ValueError, match=r"not piecewise affine: 2"):
        lens.affine(x)


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.ELU(), r"1 elu \(ELU\)"),
        (nn.Tanh(), r"1 tanh \(Tanh\)"),
        (nn.Softmax(-1), r"1 softmax \(Softmax\)"),
        (nn.GELU(), r"1 gelu \(GELU\)"),
        (nn.LayerNorm(5), r"1 layer_norm \(LayerNorm\)"),
    ],
)
def test_what_is_not_affine_is_named(layer: nn.Module, named: str) -> None:
    torch.manual_seed(0)
    lens = SplineLens(nn.Sequential(nn.Linear(5, 5), layer, nn.Linear(5, 3)).double())
    x = torch.randn(3, 5, dtype=D)
    with pytest.raises(ValueError, match=named):
        lens.affine(x)
    found = lens.affine(x, tangent=True)
    assert found.residual > 1e-6
    jacobian = torch.func.vmap(torch.func.jacrev(lens.model))(x)
    torch.testing.assert_close(found.A, jacobian)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: x.norm(dim=1, keepdim=True), "norm"),
        (lambda x: x.std(1, keepdim=True), "std"),
        (lambda x: (x[:, :1].abs() * x[:, 1:2].abs()).sqrt(), "mul"),
        (lambda x: x * x.norm(dim=1, keepdim=True), "norm"),
        (torch.tanh, "tanh"),
    ],
    ids=["norm", "std", "geometric mean", "odd", "tanh"],
)
def test_homogeneous_functions_are_not_taken_for_affine(function: Any, named: str) -> None:
    """Of degree 1 their gradient times x is their value, with a bias of 0."""
    torch.manual_seed(0)
    lens, x = SplineLens(function), torch.randn(3, 5, dtype=D)
    with pytest.raises(ValueError, match=f"not piecewise affine: {named}"):
        lens.affine(x)
    frozen = lens.frozen(x)
    for product in (lambda: frozen.jvp(x), lambda: frozen.vjp(function(x))):
        with pytest.raises(ValueError, match=f"not piecewise affine: {named}"):
            product()


def test_a_sign_is_a_choice() -> None:
    x, v = torch.tensor([[2.0, -3.0]]), torch.tensor([[-1.0, 1.0]])
    lens = SplineLens(lambda x: x * x.sign())
    assert lens.frozen(x).jvp(v).tolist() == [[-1.0, -1.0]]
    assert lens.affine(x).A.tolist() == [[[1.0, 0.0], [0.0, -1.0]]]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"stride": 2, "padding": (0, 2)},
        {"stride": (2, 1), "dilation": 2},
        {"padding": "same", "kernel_size": 3},
        {"padding": 2, "padding_mode": "circular", "bias": False},
    ],
)
def test_narrow_convolutions_have_their_gradient(channels: int, options: dict[str, Any]) -> None:
    net = nn.Sequential(
        nn.Conv2d(channels, 6, **{"kernel_size": (3, 2)} | options), nn.ReLU(), nn.Flatten()
    )
    x = torch.randn(5, channels, 11, 9)
    lens = SplineLens(net)
    found = lens.affine(x, outputs=[0, 7, 40])
    wanted = SplineLens(net.double()).affine(x.double(), outputs=[0, 7, 40])
    torch.testing.assert_close(found.A.double(), wanted.A, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.b.double(), wanted.b, rtol=1e-4, atol=1e-5)


class Rows(nn.Module):
    """Views its images as they are in memory; some networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return self.head(x.view(len(x), -1))


def test_images_may_be_viewed_as_they_are() -> None:
    net, x = Rows(), torch.randn(70, 3, 8, 8)  # more than a chunk
    lens = SplineLens(net)
    found = lens.affine(x)
    assert not lens.channels_last
    torch.testing.assert_close((found.A * x[:, None]).flatten(2).sum(-1) + found.b, net(x))
    broken = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3))
    with pytest.raises(RuntimeError, match="expected input"):
        SplineLens(broken).affine(x)


def test_outputs_that_are_zero_all_around() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    nn.init.zeros_(net[0].weight)
    nn.init.constant_(net[0].bias, -1.0)
    found = SplineLens(net).affine(torch.randn(4, 2))
    assert (found.residual, float(found.A.abs().max())) == (0, 0)


def test_samples_that_see_each_other() -> None:
    x = torch.randn(3, 5, dtype=D)
    with pytest.raises(ValueError, match="samples see each other"):
        SplineLens(lambda x: x - x.mean(0)).affine(x)
    with pytest.raises(ValueError, match=r"1 \(BatchNorm1d\) is in training mode"):
        SplineLens(nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)).double()).affine(x)


def test_parameters_keep_their_gradients() -> None:
    lens, x = make("MLP")
    lens.affine(x)
    lens.frozen(x).vjp(torch.ones(3, 3, dtype=D))
    assert all(p.requires_grad and p.grad is None for p in lens.model.parameters())


def test_bad_input() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU()).double()
    lens, x = SplineLens(net), torch.ones(1, 2, dtype=D)
    with pytest.raises(TypeError, match="model must be callable"):
        SplineLens(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no module named 'head'"):
        SplineLens(net, layer="head")
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        lens.affine(torch.ones(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="batched=False takes one sample"):
        lens.affine(torch.ones(2, dtype=D))
    with pytest.raises(ValueError, match="not finite"):
        lens.affine(x / 0)
    with pytest.raises(ValueError, match=r"outputs must lie in \[0, 3\), got 3"):
        lens.affine(x, [3])
    with pytest.raises(ValueError, match="v must have shape"):
        lens.frozen(x)(torch.ones(2, 2, dtype=D))
    with pytest.raises(ValueError, match="sites must be among 1:relu, got 2:relu"):
        lens.distance(x, x, ["2:relu"])
    with pytest.raises(TypeError, match="must return one floating-point tensor"):
        SplineLens(lambda x: (x, x)).affine(x)
