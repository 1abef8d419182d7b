"""Whether a non-local part is used: planted layers, whose answers are known."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from polygraph.analysis import (
    ABLATIONS,
    ablated,
    ablations_of,
    chance_places,
    gradient_norms,
    measure_use,
    nonlocal_layers,
)
from polygraph.models.images.graph_gan import SelfAttention2d
from polygraph.nn import NonLocalGraphConv2d

FORMS = {
    "edge-sum": {},
    "edge-max": {},
    "edge-mean": {},
    "ecc": {"delta": 2.0, "metric": "cosine"},
    "light": {"delta": 2.0, "rank": 2, "replicas": 1},
}


def make(kind="edge-sum", **options):
    """From 3 to 4 features, with a bias that is not 0."""
    torch.manual_seed(0)
    layer = NonLocalGraphConv2d(3, 4, 3, kind, **{**FORMS[kind], **options})
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer.eval()


def images(count=2, channels=3, height=6, width=7):
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def weights_of_nonlocal(layer):
    return [p for n, p in layer.named_parameters() if not n.startswith(("local", "bias", "hidden"))]


@pytest.mark.parametrize("kind", FORMS)
def test_a_layer_that_ignores_its_neighbors(kind):
    """Weights 0: the ratio is 0, and other neighbors change nothing."""
    layer, x = make(kind), images()
    for weight in weights_of_nonlocal(layer):
        nn.init.zeros_(weight)
    (use,) = measure_use(layer, [x])
    assert (use.ratio, use.varying, use.kind, use.size) == (0.0, 0.0, kind, (6, 7))
    plain = layer(x)
    for ablation in ("zero", "random", "mean"):
        with ablated(layer, ablation):
            torch.testing.assert_close(layer(x), plain)
    assert gradient_norms(layer, lambda: layer(x).square().sum())[""][1] > 0


def test_parts_of_known_size():
    """Twice what comes in beside what comes in; norms and their merge."""
    for merge, wanted in (
        ("mean", 2.0),
        ("sum", 2.0),
        ("gate", 6.0),
        ("max", 2.0),
        ("concat", 1.0),
    ):
        layer = NonLocalGraphConv2d(3, 3, 2, "edge-mean", coordinates=False, merge=merge)
        with torch.no_grad():
            layer.lin.weight.copy_(torch.cat([2 * torch.eye(3), torch.zeros(3, 3)], 1))
            layer.local.weight.zero_()[:, :, 1, 1] = torch.eye(3)
            if merge == "gate":
                layer.gate.fill_(torch.tensor(3.0).log())  # g is 3/4
            if merge == "concat":
                both = torch.cat([torch.eye(3), 2 * torch.eye(3)], 1)
                layer.joint.weight.copy_(both[:, :, None, None])
        (use,) = measure_use(layer, [images()])
        assert use.ratio == pytest.approx(wanted), merge
        assert use.varying == pytest.approx(wanted), merge


def test_what_varies_over_several_batches():
    """Norms of all batches as one, with and without each feature's mean."""
    layer, x = make("edge-max"), images(5) + 3
    found, local = (part.detach() for part in layer.parts(x))
    varying = [part - part.mean((0, 2, 3), keepdim=True) for part in (found, local)]
    (use,) = measure_use(layer, [x[:2], x[2:]])
    assert use.ratio == pytest.approx(float(found.norm() / local.norm()), rel=1e-5)
    assert use.varying == pytest.approx(float(varying[0].norm() / varying[1].norm()), rel=1e-4)
    assert use.varying < use.ratio


def test_known_offsets():
    """Neighbours at fixed places, and chance with the window that the graph leaves out."""
    layer = NonLocalGraphConv2d(3, 4, 1, graph="dilated")
    (use,) = measure_use(layer, [images(height=9, width=9)])
    assert (use.places.near, use.places.entropy) == (1.0, 0.0)
    assert use.places.distance == pytest.approx(8**0.5)
    assert use.chance == chance_places(9, 9, exclude_radius=1)


@pytest.mark.parametrize("kind", FORMS)
def test_nothing_but_the_local_part(kind):
    layer, x = make(kind), images()
    local, bias = layer.parts(x)[1], layer.bias[:, None, None]
    for ablation, wanted in (("zero", local / 2 + bias), ("local", local + bias)):
        with ablated(layer, ablation):
            assert torch.equal(layer(x), wanted)
    gated = make(kind, merge="gate", bias=False)
    with ablated(gated, "zero"):
        torch.testing.assert_close(gated(x), gated.parts(x)[1] / 2)


@pytest.mark.parametrize("kind", FORMS)
def test_mean_neighbors_where_all_pixels_are_alike(kind):
    """Nothing changes there; elsewhere it does."""
    layer = make(kind, coordinates=False)
    alike = torch.tensor([0.5, -1.0, 2.0])[None, :, None, None].expand(2, 3, 6, 7)
    for x, same in ((alike, True), (images(), False)):
        plain = layer(x)
        with ablated(layer, "mean"):
            assert torch.allclose(layer(x), plain, atol=1e-5) == same


@pytest.mark.parametrize("kind", ["edge-sum", "ecc"])
def test_mean_neighbors_by_their_formula(kind):
    layer, x = make(kind), images()
    located = torch.cat([x, layer.pixel_coordinates(x)], 1)
    pixels = located.flatten(2).mT
    mean = pixels.mean(1, keepdim=True)
    if kind == "edge-sum":
        ends = torch.cat([pixels, mean - pixels], 2)
        wanted = 3 * functional.relu(ends @ layer.lin.weight.T)
    else:
        label = functional.leaky_relu(layer.hidden.lin(mean - pixels), 0.2)
        theta = layer.weight[-1] + torch.einsum("bnh,hcd->bncd", label, layer.weight[:-1])
        unit, average = functional.normalize(x, dim=1), x.mean((2, 3))
        apart = unit.flatten(2).mT - functional.normalize(average, dim=1)[:, None]
        gamma = torch.exp(-apart.square().sum(2) / 2)
        wanted = gamma[:, :, None] * torch.einsum("bc,bncd->bnd", mean[:, 0], theta)
    wanted = wanted.mT.view(2, 4, 6, 7)
    with ablated(layer, "mean"):
        torch.testing.assert_close(
            layer(x), (wanted + layer.parts(x)[1]) / 2 + layer.bias[:, None, None]
        )


def test_random_neighbors_lie_outside_of_the_window():
    """Read back from pixels that are told apart: their mean names them."""
    pixels = 20
    x = torch.eye(pixels).view(1, pixels, 4, 5)
    layer = NonLocalGraphConv2d(pixels, pixels, 64, "edge-mean", coordinates=False, merge="sum")
    with torch.no_grad():
        layer.lin.weight.copy_(torch.eye(pixels).repeat(1, 2))
        layer.local.weight.zero_()
    with pytest.raises(RuntimeError, match="candidates"):
        layer(x)  # 64 neighbors of 20 pixels; drawn ones may repeat
    before = torch.get_rng_state()
    with ablated(layer, "random", seed=3):
        first, second = layer(x), layer(x)
    assert torch.equal(torch.get_rng_state(), before)
    with ablated(layer, "random", seed=3):
        assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    chosen = first[0].flatten(1).T > 0  # [pixel, neighbor]
    place = torch.arange(pixels)
    row, column = place // 5, place % 5
    apart = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())
    assert not chosen[apart <= 1].any()
    assert chosen[apart > 1].float().mean() > 0.9


def attention(pooled=False):
    torch.manual_seed(0)
    layer = SelfAttention2d(8, pooled).eval()
    nn.init.ones_(layer.gamma)
    return layer


@pytest.mark.parametrize("pooled", [False, True])
def test_attention(pooled):
    """To all positions alike: chance, the mean ablation, and shuffling, are what it is."""
    layer, x = attention(pooled), images(channels=8, width=4)
    plain = layer(x)
    (use,) = measure_use(layer, [x])
    assert use.kind == "attention"
    assert use.ratio == pytest.approx(float((plain - x).detach().norm() / x.norm()), rel=1e-5)
    assert use.chance == chance_places(6, 4)
    assert ablations_of(layer) == ["zero", "random", "mean"]
    with ablated(layer, "zero"):
        assert torch.equal(layer(x), x)
    for ablation in ("random", "mean"):
        with ablated(layer, ablation):
            assert not torch.allclose(layer(x), plain, atol=1e-6)
    nn.init.zeros_(layer.query.weight)
    (use,) = measure_use(layer, [x])
    assert use.places.distance == pytest.approx(use.chance.distance, rel=1e-5)
    assert use.places.entropy == pytest.approx(use.chance.entropy, rel=1e-5)
    plain = layer(x)
    for ablation in ("random", "mean"):
        with ablated(layer, ablation):
            torch.testing.assert_close(layer(x), plain)
    nn.init.zeros_(layer.gamma)
    assert measure_use(layer, [x])[0].ratio == 0


def test_gradients():
    """Norms as of backward, which leaves nothing behind; the local part of attention before it."""
    conv = nn.Conv2d(3, 8, 3, padding=1)
    model, x = (
        nn.Sequential(make("ecc"), nn.Conv2d(4, 3, 1), nn.Sequential(conv, attention())),
        images(),
    )
    loss = lambda: model(x).square().mean()  # noqa: E731
    found = gradient_norms(model, loss)
    assert all(weight.grad is None for weight in model.parameters())
    loss().backward()

    def norm(*weights):
        return pytest.approx(float(torch.cat([w.grad.flatten() for w in weights]).norm()), rel=1e-4)

    layer, attended = model[0], model[2][1]
    assert found["0"] == (norm(layer.weight, *layer.hidden.parameters()), norm(layer.local.weight))
    assert found["2.1"] == (norm(*attended.parameters()), norm(conv.weight))
    alone = gradient_norms(attended, lambda: attended(images(channels=8)).sum())[""]
    assert alone[0] > 0
    assert alone[1] != alone[1]  # nothing is before it
    assert gradient_norms(conv, loss) == {}


def test_networks_without_such_layers():
    model = nn.Conv2d(3, 3, 1)
    assert (nonlocal_layers(model), measure_use(model, [images()]), ablations_of(model)) == (
        {},
        [],
        [],
    )
    with pytest.raises(ValueError, match="'zero' is not for this network: no layer is non-local"):
        ablated(model, "zero").__enter__()
    with pytest.raises(ValueError, match="was never called"):
        measure_use(make(), [])


def test_what_a_layer_cannot_have():
    for ablation, model in (
        ("local", nn.Sequential(make(merge="concat"))),
        ("local", nn.Sequential(attention())),
        ("random", nn.Sequential(make(search_radius=3))),
    ):
        assert ablations_of(model) == [kind for kind in ABLATIONS if kind != ablation]
        with pytest.raises(ValueError, match="layer '0' has no such form"):
            ablated(model, ablation).__enter__()
    with pytest.raises(ValueError, match="did you mean 'zero'"):
        ablated(make(), "zeros").__enter__()


def test_nothing_is_left_behind():
    """Hooks and other forwards go, also after an error; a user's own comes back."""
    layer, x = make(), images()
    plain = layer(x)
    with pytest.raises(ZeroDivisionError), ablated(layer, "zero"):
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="must have shape"):
        measure_use(layer, [images(channels=5)])
    assert torch.equal(layer(x), plain)
    assert not layer._forward_pre_hooks
    own = lambda x: x + 1  # noqa: E731
    layer.forward = own
    with ablated(layer, "local"):
        assert layer(x).shape == plain.shape
    assert layer.forward is own


def test_drawn_graphs_have_a_seed():
    layer, x = make(graph="random"), images()
    before = torch.get_rng_state()
    first, again = measure_use(layer, [x]), measure_use(layer, [x])
    assert first == again != measure_use(layer, [x], seed=1)
    assert torch.equal(torch.get_rng_state(), before)
