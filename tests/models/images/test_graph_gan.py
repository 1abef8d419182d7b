"""Generators and critics with graph convolutions: shapes, penalties, compilation, bad settings."""

from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from support.tolerances import assert_close

from polygraph.models.images.dcgan import ConvCriticConfig
from polygraph.models.images.families import CRITICS, GENERATORS, build, config_of, family_of
from polygraph.models.images.graph_gan import (
    GRAPH_KINDS,
    GraphCritic,
    GraphCriticConfig,
    GraphGenerator,
    GraphGeneratorConfig,
    SelfAttention2d,
)
from polygraph.nn import NonLocalGraphConv2d
from polygraph.tasks.gan.losses import CriticLoss, GanConfig, GeneratorLoss, gradient_penalty

TINY = GraphGeneratorConfig(latent_channels=5, channels=(6, 5, 4, 3), k=3, rank=2)
TINY_CRITIC = GraphCriticConfig(channels=(4, 5, 6), k=3, rank=2)


@pytest.mark.parametrize("graph", GRAPH_KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(graph, channels):
    """Of images and values; a graph layer at each size that was asked for."""
    torch.manual_seed(0)
    generator = GraphGenerator(replace(TINY, graph=graph, out_channels=channels))
    sizes = (32, 16)
    critic = GraphCritic(replace(TINY_CRITIC, graph=graph, in_channels=channels, graph_sizes=sizes))
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, channels, 32, 32)
    assert images.abs().max() < 1
    assert critic(images).shape == (2,)
    graphs = [m for m in generator.modules() if isinstance(m, NonLocalGraphConv2d)]
    assert len(graphs) == (0 if graph in ("none", "attention") else 2)


def test_published_widths():
    """The features, layer by layer, of the published generator."""
    generator = GraphGenerator(GraphGeneratorConfig(graph="edge-sum"))
    assert generator.input.weight.shape == (528 * 16, 132)
    kinds = [type(stage[4]).__name__ for stage in generator.stages]
    assert kinds == ["Conv2d", "NonLocalGraphConv2d", "NonLocalGraphConv2d"]
    widths = [(stage[1].in_channels, stage[1].out_channels) for stage in generator.stages]
    assert widths == [(528, 264), (264, 132), (132, 66)]
    assert generator.output.weight.shape == (3, 66, 1, 1)


@pytest.mark.parametrize("family", ["graph", "polynomial", "residual", "deconv"])
def test_config_rebuilds_generator(family):
    """What a checkpoint stores, lists for tuples, gives the same network."""
    cls = GENERATORS[family][0]
    narrow = {"channels": 4 if family == "residual" else [4, 4, 4, 4], "latent_channels": 3}
    config = config_of(GENERATORS, family, narrow)
    assert family_of(config) == family
    assert type(config) is cls
    assert isinstance(build(config), GENERATORS[family][1])
    assert hash(config) == hash(cls(**narrow))


@pytest.mark.parametrize("pooled", [False, True])
def test_attention_starts_as_identity_and_is_attention(pooled):
    torch.manual_seed(0)
    layer = SelfAttention2d(8, pooled).double()
    x = torch.randn(2, 8, 6, 4, dtype=torch.float64)
    assert torch.equal(layer(x), x)
    with torch.no_grad():
        layer.gamma.fill_(0.7)
    query, key, value = layer.query(x), layer.key(x), layer.value(x)
    if pooled:
        key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
    weight = torch.einsum("bchw,bcij->bhwij", query, key).flatten(3).softmax(-1)
    found = torch.einsum("bhwn,bcn->bchw", weight, value.flatten(2))
    expected = x + 0.7 * layer.output(found)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


class PlainGraphConv(torch.nn.Module):
    """`NonLocalGraphConv2d` with its weights, written with gathers and einsum alone."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        layer, (batch, _, height, width) = self.layer, x.shape
        pixels = height * width
        flat = x.detach().flatten(2).transpose(1, 2)
        distance = (flat[:, :, None] - flat[:, None]).square().sum(-1)
        row, column = torch.arange(pixels) // width, torch.arange(pixels) % width
        near = ((row[:, None] - row).abs() <= 1) & ((column[:, None] - column).abs() <= 1)
        table = distance.masked_fill(near, torch.inf).topk(layer.k, largest=False).indices
        if layer.coordinates:
            lines = [torch.linspace(-1, 1, size, dtype=x.dtype) for size in (height, width)]
            grid = torch.stack(torch.meshgrid(*lines, indexing="ij")).expand(batch, -1, -1, -1)
            x = torch.cat([x, grid], 1)
        local = layer.local(x)
        nodes = x.flatten(2).transpose(1, 2)
        at = torch.arange(batch)[:, None, None]
        neighbor, centre = nodes[at, table], nodes[:, :, None]
        difference = neighbor - centre
        if layer.kind.startswith("edge"):
            ends = torch.cat([centre.expand_as(neighbor), difference], -1)
            messages = layer.lin(ends).relu()
            found = messages.sum(2) if layer.kind == "edge-sum" else messages.amax(2)
        else:
            phi = F.leaky_relu(layer.hidden.lin(difference), layer.hidden.slope)
            phi = torch.cat([phi, torch.ones_like(phi[..., :1])], -1)
            found = self.of_neighbors(phi, neighbor).mean(2)
        out = found.transpose(1, 2).unflatten(2, (height, width))
        return (out + local) / 2 + layer.bias[:, None, None]

    def of_neighbors(self, phi, neighbor):
        if self.layer.kind == "ecc":
            return torch.einsum("bnkh,bnkc,hcd->bnkd", phi, neighbor, self.layer.weight)
        left, right, kappa = self.layer.filter()
        factor = torch.einsum("bnkh,rch,bnkc->bnkr", phi, right, neighbor) * (phi @ kappa.T)
        return torch.einsum("bnkr,bnkh,rdh->bnkd", factor, phi, left)


@pytest.mark.parametrize("graph", ["edge", "light", "attention"])
def test_checkpoints_of_before(graph):
    """What a checkpoint without replicas computed, its network still computes."""
    fields = {"latent_channels": 5, "channels": [6, 6, 3, 3], "k": 3, "rank": 2, "graph": graph}
    config = config_of(GENERATORS, "graph", fields)
    assert (config.replicas, config.pooled_keys) == (1, graph == "attention")
    assert config.graph == ("edge-mean" if graph == "edge" else graph)
    again = config_of(GENERATORS, "graph", asdict(config))
    assert again == config
    assert config_of(GENERATORS, "graph", asdict(GraphGeneratorConfig())) == GraphGeneratorConfig()
    generator = build(config)
    if graph == "light":
        state = {}
        for name, value in generator.state_dict().items():
            if ".filter.left." in name or ".filter.right." in name:
                side, part = name.rsplit(".", 1)
                if part == "weight":
                    tail = generator.state_dict().get(f"{side}.tail")
                    value = value if tail is None else torch.cat([value, tail], 1)
                    value = value.flatten(0, 1)
                if part == "tail":
                    continue
                name = f"{side}_{part}"
                value = value if part == "weight" else value[..., None]
            state[name] = value
        other = build(config)
        other.load_state_dict(state)
        for a, b in zip(generator.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)


def batch(critic, seed=0):
    """Real images, generated ones, points between them that require a gradient."""
    dtype = next(critic.parameters()).dtype
    generator = torch.Generator().manual_seed(seed)
    real, fake = torch.rand(2, 2, 3, 32, 32, generator=generator, dtype=dtype) * 2 - 1
    share = torch.rand(2, 1, 1, 1, generator=generator, dtype=dtype)
    return real, fake, torch.lerp(fake, real, share).requires_grad_()


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("graph", ["edge-sum", "edge-max", "ecc", "light"])
def test_gradient_penalty_against_plain_pytorch(graph, size):
    """Loss and its gradient through first and second derivatives of each graph layer."""
    torch.manual_seed(0)
    shape = replace(TINY_CRITIC, graph=graph, graph_sizes=(size,), coordinates=size == 16)
    critic = GraphCritic(shape).double()
    names = [n for n, m in critic.named_modules() if isinstance(m, NonLocalGraphConv2d)]
    assert len(names) == 1
    arguments = batch(critic)
    config = GanConfig()
    loss, gap, penalty = CriticLoss(critic, config)(*arguments)
    loss.backward()
    found = {name: p.grad.clone() for name, p in critic.named_parameters()}
    critic.zero_grad()
    (place,) = names
    layer = critic.get_submodule(place)
    critic.set_submodule(place, PlainGraphConv(layer))
    wanted, wanted_gap, wanted_penalty = CriticLoss(critic, config)(*arguments)
    wanted.backward()
    for one, other in ((loss, wanted), (gap, wanted_gap), (penalty, wanted_penalty)):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    for name, parameter in critic.named_parameters():
        ours = found[name.replace(f"{place}.layer", place)]
        # Sums of thousands of terms of both signs, twice: 1e-16 each, and what they cancel.
        assert_close(ours, parameter.grad, 1e-10, name)
    float32 = CriticLoss(GraphCritic(critic.config), config)
    critic.set_submodule(place, layer)
    float32.critic.load_state_dict(critic.state_dict())
    rounded, _, _ = float32(*(x.detach().float().requires_grad_() for x in arguments))
    torch.testing.assert_close(rounded.double(), loss, rtol=1e-4, atol=1e-4)


def test_gradient_penalty_is_per_sample():
    """Of a critic whose slope differs from sample to sample: the mean of their own penalties."""
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]], requires_grad=True)
    # |x|² / 2 has the slope x.
    value = gradient_penalty(lambda y: y.square().sum(1) / 2, x)
    slopes = x.detach().norm(dim=1)
    torch.testing.assert_close(value, ((slopes - 1) ** 2).mean())
    (found,) = torch.autograd.grad(value, x)
    wanted = 2 * (slopes - 1)[:, None] * x.detach() / slopes[:, None] / 3
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    "graph",
    [
        "edge-max",
        "ecc",
        "light",
        pytest.param("edge-sum", marks=pytest.mark.slow),
        pytest.param("attention", marks=pytest.mark.slow),
    ],
)
def test_whole_step_compiles(graph):
    """Both losses as one graph each, the penalty's second derivatives included: the same bits."""
    settings = torch._dynamo.config
    if not hasattr(settings, "trace_autograd_ops"):
        pytest.skip("this torch does not trace torch.autograd.grad")
    torch.manual_seed(0)
    generator = GraphGenerator(replace(TINY, graph=graph, graph_sizes=(16,)))
    critic = GraphCritic(replace(TINY_CRITIC, graph=graph))
    losses = CriticLoss(critic, GanConfig()), GeneratorLoss(generator, critic, GanConfig())
    inputs = batch(critic), (torch.randn(2, 5),)
    torch.compiler.reset()
    with settings.patch(trace_autograd_ops=True):
        for loss, arguments in zip(losses, inputs, strict=True):
            rows = []
            for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
                loss.zero_grad()
                value = function(*arguments)
                value = value[0] if isinstance(value, tuple) else value
                value.backward()
                rows.append([value.detach(), *(p.grad.clone() for p in loss.parameters())])
            for one, other in zip(*rows, strict=True):
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"graph": "edgesum"}, "graph must be one of .* did you mean 'edge-sum'"),
        ({"graph": "edge"}, "'edge' was the mean without ReLU"),
        ({"merge": "min"}, "merge must be one of"),
        ({"merge": "sum"}, "are for graph convolutions, not for graph 'none'"),
        ({"graph": "attention", "pixel_graph": "random"}, "not for graph 'attention'"),
        ({"pooled_keys": True}, "pooled_keys is for graph attention, not for 'none'"),
        ({"graph": "ecc", "metric": "projected"}, "metric 'projected' needs delta"),
        ({"metric": "cos"}, "metric must be one of"),
        ({"pixel_graph": "radius"}, "radius must be positive"),
        ({"channels": (4, 4, 4)}, "channels must be 4 numbers"),
        ({"channels": (4, 4, 4, 0)}, "channels must be a positive integer, got 0"),
        ({"out_channels": 2}, "out_channels must be 1 or 3, got 2"),
        ({"graph_sizes": (8,)}, "graph_sizes must be of 16 and 32"),
        ({"graph_sizes": ()}, "graph_sizes must be of 16 and 32"),
        ({"k": 248}, "k must be at most 247"),
        ({"k": 0}, "k must be a positive integer"),
        ({"norm": "layer"}, "norm must be one of batch, none"),
        ({"delta": 1.0}, "delta is for graph ecc or light"),
        ({"delta": -1.0, "graph": "ecc"}, "delta must be positive"),
        ({"latent_channels": 0}, "latent_channels must be a positive"),
    ],
)
def test_bad_generator(settings, message):
    with pytest.raises(ValueError, match=message):
        GraphGeneratorConfig(**settings)


def test_bad_critic_and_inputs():
    with pytest.raises(ValueError, match="channels must be 3 numbers"):
        GraphCriticConfig(channels=(1, 2))
    with pytest.raises(ValueError, match="in_channels must be 1 or 3"):
        GraphCriticConfig(in_channels=4)
    with pytest.raises(ValueError, match="graph must be none or attention with it, got 'edge-sum'"):
        GraphCriticConfig(graph="edge-sum", spectral_norm=True)
    with pytest.raises(ValueError, match=r"z must have shape \[B, 5\], got \[2, 6\]"):
        GraphGenerator(TINY)(torch.randn(2, 6))
    with pytest.raises(ValueError, match=r"x must have shape \[B, 3, 32, 32\], got \[1, 3, 28"):
        GraphCritic(TINY_CRITIC)(torch.randn(1, 3, 28, 28))
    with pytest.raises(TypeError, match="generator, critic, classifier or VAE: int"):
        family_of(3)
    with pytest.raises(ValueError, match="family must be one of graph, residual, conv"):
        config_of(CRITICS, "grap", {})
    assert family_of(ConvCriticConfig()) == "conv"
