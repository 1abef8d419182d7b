"""Denoisers: sizes as published, values by their formulas, tiles and rows equal to the whole."""

import pytest
import torch
from torch.nn import functional

from polygraph import nn
from polygraph.models import GCDN, DnCNN, DnCNNConfig, GCDNConfig, create_model, denoise_tiles
from polygraph.models.denoiser import rows

TINY = {"width": 6, "blocks": 1, "layers": 2, "k": 3, "rank": 2, "search_radius": 3}


def tiny(**settings):
    """In float64 and evaluation mode, with numbers in all its parameters and statistics."""
    torch.manual_seed(0)
    model = GCDN(GCDNConfig(**TINY | settings)).double().eval()
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or name in ("alpha", "beta"):
                parameter.add_(torch.rand_like(parameter) / 5)
    return model


@pytest.mark.parametrize(
    ("name", "settings", "wanted"),
    [
        ("gcdn", {"compat": "gcdn"}, 5_991_489),
        ("gcdn", {}, 5_991_489),
        ("gcdn-33", {}, 130_289),
        ("dncnn", {}, 556_096),
        ("dncnn-10", {}, 116_600),
    ],
)
def test_parameters_are_those_published(name, settings, wanted):
    with torch.device("meta"):
        model = create_model(name, **settings)
    assert sum(p.numel() for p in model.parameters()) == wanted


def test_layers_have_their_published_sizes():
    """Replicas at the full width alone; one graph convolution has 306,647 parameters."""
    with torch.device("meta"):
        model = create_model("gcdn", compat="gcdn")
    layer = model.high_pass.graph.layers[0]
    assert sum(p.numel() for p in layer.parameters()) == 306_647
    assert layer.filter.replicas == (3, 3)
    assert model.branch_graphs[0].layers[0].filter.replicas == (1, 1)
    assert model.last.layers[0].filter.replicas == (1, 3)
    assert (layer.delta, layer.coordinates, layer.local.padding_mode) == (10, False, "reflect")
    norm = model.blocks[0].graph.norms[0]
    assert (norm.eps, norm.momentum) == (1e-3, 1e-3)


# ---- the formula, in plain PyTorch ----


def near_pixels(x, k, radius, dropped):
    """The nearest outside of 3 x 3 and within the radius; at borders some of them are dropped."""
    height, width = x.shape[1:]
    pixels = x.flatten(1).mT
    table = []
    for n in range(height * width):
        row, column = divmod(n, width)
        candidates, around = [], 0
        for m in range(height * width):
            far = max(abs(m // width - row), abs(m % width - column))
            around += far == 1
            if 1 < far <= radius:
                candidates.append(((pixels[m] - pixels[n]).square().sum().item(), m))
        first = 8 - around if dropped else 0
        table.append([m for _, m in sorted(candidates)[first : first + k]])
    return torch.tensor(table)


def graph_convolution(layer, x, table, local=None):
    """Edge by edge, of one picture ``[C, H, W]``."""
    pixels = x.flatten(1).mT
    left, right, kappa = layer.filter()
    out = []
    for n, row in enumerate(table):
        difference = pixels[row] - pixels[n]
        phi = functional.leaky_relu(layer.hidden.lin(difference), 0.2)
        phi = functional.pad(phi, (0, 1), value=1.0)
        gamma = torch.exp(-difference.square().sum(1) / 10)
        inner = torch.einsum("rch,eh,ec->er", right, phi, pixels[row]) * (phi @ kappa.t())
        out.append(torch.einsum("e,er,rdh,eh->d", gamma, inner, left, phi) / len(row))
    found = torch.stack(out).mT.view(-1, *x.shape[1:])
    padded = functional.pad((x if local is None else local)[None], (1, 1, 1, 1), mode="reflect")
    local = functional.conv2d(padded, layer.local.weight)[0]
    return (found + local) / 2 + layer.bias[:, None, None]


def by_formula(model, y):
    """The noise of ``y [1, H, W]``, from the paper."""

    def leaky(x):
        return functional.leaky_relu(x, 0.2)

    config = model.config

    def graph(shared, x, local=None):
        table = near_pixels(x, config.k, config.search_radius, config.compat is not None)
        for layer, norm in zip(shared.layers, shared.norms, strict=True):
            x = norm(graph_convolution(layer, x, table, local)[None])[0]
            x = leaky(x) if shared.activate else x
        return x

    def block(part, x):
        return graph(part.graph, leaky(part.norm(part.conv(x[None])))[0])

    branches = []
    for n, convolutions in enumerate(model.branches):
        other = branches[0] if n == 1 and config.compat else None
        branches.append(graph(model.branch_graphs[n], convolutions(y[None])[0], other))
    x = leaky(torch.cat(branches))
    high = block(model.high_pass, x)
    for n, part in enumerate(model.blocks):
        x = model.beta[n] * high + (1 - model.alpha[n]) * x
        x = x + block(part, x)
    return graph(model.last, x)


@pytest.mark.parametrize(
    "settings", [{"layers": 1, "search_radius": 12}, {"compat": "gcdn"}], ids=str
)
def test_formula(settings):
    model = tiny(**settings)
    y = torch.rand(2, 1, 6, 7).double()
    noise = model.noise(y)
    with torch.no_grad():
        for one, found in zip(y, noise, strict=True):
            torch.testing.assert_close(found, by_formula(model, one))
    torch.testing.assert_close(model(y, 25 / 255), y - noise)


def test_training_searches_the_whole_patch():
    model = tiny(search_radius=2)
    wide = tiny(search_radius=None)
    y = torch.rand(1, 1, 9, 9).double()
    assert not torch.equal(model(y), wide(y))
    for one in (model, wide):
        one.train()
    torch.testing.assert_close(model(y), wide(y))


def test_layers_share_a_graph_with_gradients():
    """Of one graph every layer takes its own differences, whose gradients are exact."""
    torch.manual_seed(0)
    first, second = (
        nn.NonLocalGraphConv2d(
            3, 3, 4, "light", rank=2, delta=3.0, coordinates=False, padding_mode="reflect"
        ).double()
        for _ in range(2)
    )
    x = torch.randn(2, 3, 6, 5).double().requires_grad_()
    near, _ = first.neighbors(x)
    torch.testing.assert_close(first(x, near), first(x))
    grad = torch.randn(2, 3, 6, 5).double()
    (found,) = torch.autograd.grad(second(first(x, near), near), x, grad)
    step = torch.randn_like(x) * 1e-6
    with torch.no_grad():
        ends = [(second(first(x + s, near), near) * grad).sum() for s in (step, -step)]
    torch.testing.assert_close((found * step).sum(), (ends[0] - ends[1]) / 2, rtol=1e-6, atol=1e-12)
    with pytest.raises(ValueError, match=r"near must have shape \[2, 30, k\], got \[2, 29, 4\]"):
        first(x, near[:, 1:])


# ---- rows and tiles ----


@pytest.mark.parametrize(
    "settings", [{}, {"compat": "gcdn", "search_radius": 3}, {"graph": "none"}], ids=str
)
def test_rows_and_tiles_are_the_whole(settings, monkeypatch):
    model = tiny(**{"layers": 1, "search_radius": 2} | settings)
    y = torch.rand(1, 1, 66, 16).double()
    with torch.no_grad():
        whole = model(y)
    assert whole.isfinite().all()
    torch.testing.assert_close(model(y), whole)  # with gradients: nothing by rows, nor in place
    monkeypatch.setattr(rows, "_PIXELS", 16)
    with torch.no_grad():
        torch.testing.assert_close(model(y), whole)
    shown = []
    model.train()
    tiles = denoise_tiles(
        model,
        y[0],
        tile=2 * model.reach + 13,
        overlap=model.reach,
        progress=lambda tiles: shown.extend(tiles) or tiles,
    )
    assert model.training
    torch.testing.assert_close(tiles, whole[0])
    assert len(shown) > 1
    near = denoise_tiles(model, y[0], tile=26, overlap=5)
    assert 0 < (near - whole[0]).abs().max() < 0.1


def test_reach_is_as_far_as_a_change_is_seen():
    for model in (tiny(), tiny(compat="gcdn"), tiny(graph="none"), DnCNN(DnCNNConfig(1, 4, 3))):
        model = model.double().eval()
        y = torch.rand(1, 1, 5, 60).double()
        other = y.clone()
        other[..., 0] = 1 - other[..., 0]
        changed = (model(y) - model(other)).abs().amax(2).flatten() > 1e-12
        seen = changed.nonzero().max()
        assert 1 <= seen <= model.reach
    assert tiny(search_radius=None).reach is None


def test_tiles_refuse():
    model = DnCNN(DnCNNConfig(1, 4, 3))
    y = torch.rand(1, 20, 20)
    with pytest.raises(ValueError, match=r"overlap must be .* below half of tile = 8, got 4"):
        denoise_tiles(model, y, tile=8, overlap=4)
    with pytest.raises(ValueError, match=r"y must have shape \[C, H, W\]"):
        denoise_tiles(model, y[0])
    y[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="y must be finite, got 1 values"):
        denoise_tiles(model, y)


# ---- what is refused, and what starts well ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 8}, "width must be a multiple of 3, got 8"),
        ({"replicas": 5}, "replicas must divide width = 132, got 5"),
        ({"search_radius": 3}, "search_radius must leave 16 candidates in a corner, got 3"),
        ({"compat": "gcdn", "graph": "ecc"}, "compat is for graph light"),
        ({"compat": "GCDN"}, "compat must be None or 'gcdn', got 'GCDN'"),
        ({"graph": "lite"}, "graph must be one of light, ecc"),
        ({"init": "zero"}, "init must be one of scaled, published"),
        ({"norm_momentum": 1.5}, r"norm_momentum must be in \(0, 1\], got 1.5"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        GCDNConfig(**settings)


def test_small_pictures():
    """The smallest go through, smaller ones are refused by their size."""
    for settings in ({}, {"compat": "gcdn"}, {"k": 8}, {"graph": "none"}):
        model = tiny(**{"k": 16, "search_radius": 24} | settings)
        least = model.smallest
        assert model(torch.rand(1, 1, least, least).double()).isfinite().all()
        with pytest.raises(ValueError, match=f"at least {least} rows and columns, got {least - 1}"):
            model(torch.rand(1, 1, least - 1, 50).double())


@pytest.mark.parametrize("graph", ["light", "none"])
def test_learns_a_patch(graph):
    torch.manual_seed(0)
    settings = {"layers": 1, "graph": graph, "norm_momentum": 0.1}
    model = GCDN(GCDNConfig(**TINY | settings))
    clean = torch.rand(2, 1, 1, 1).expand(2, 1, 8, 8)
    noise = torch.randn(2, 1, 8, 8) / 10
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        loss = functional.mse_loss(model(clean + noise), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 8


@pytest.mark.parametrize("graph", ["ecc", "edge-sum", "edge-max"])
def test_other_graphs(graph):
    """They differ from convolutions alone, and every parameter has a gradient."""
    model = tiny(layers=1, graph=graph)
    found = model(torch.rand(1, 1, 8, 8).double())
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_published_initialisation_has_smaller_weights_of_rank_one():
    found = {}
    for init in ("scaled", "published"):
        torch.manual_seed(0)
        layer = GCDN(GCDNConfig(width=33, blocks=1, init=init)).high_pass.graph.layers[0]
        found[init] = layer.filter.kappa_weight.std().item(), layer.local.weight.std().item()
    assert found["published"][0] == pytest.approx(11**-0.5, rel=0.15)
    assert found["scaled"][0] == pytest.approx((10 / 11) ** 0.5, rel=0.15)
    assert found["scaled"][1] == pytest.approx(found["published"][1], rel=0.05)
