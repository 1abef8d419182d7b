"""Weights of the public mesh code: the same numbers as there, dummy vertex included."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polygraph.models import MeshAutoencoder, MeshAutoencoderConfig, load_published

ENCODER, DECODER, LATENT = (4, 5), (5, 4, 3), 2
KINDS = {  # block -> whether there are products, whether they are of two operators, residual
    "first_order": (False, False, False),
    "simple": (True, False, False),
    "full": (True, True, False),
    "skip_code": (True, True, True),
}


def config(block, order, **changes):
    return MeshAutoencoderConfig(
        encoder_channels=ENCODER,
        decoder_channels=DECODER,
        latent_channels=LATENT,
        block=block,
        order=order,
        norm="batch",
        dummy_vertex="published",
        fuse_downsampling=False,
        **changes,
    )


class PublicLayer(nn.Module):
    """A layer by its description: V + 1 rows; gaps read the last one, zero at the end."""

    def __init__(self, block, order, table, channels, width, activation):
        super().__init__()
        products, self.two, self.residual = KINDS[block]
        rows, slots = table.shape
        self.table, self.activation = table, activation
        make = lambda c: nn.Linear(slots * c, width, bias=False)  # noqa: E731
        self.bias = nn.Parameter(torch.empty(width))
        if self.two:
            self.conva = nn.ModuleList(make(channels) for _ in range(order - 1))
            self.convs = nn.ModuleList(
                make(channels if n == 0 else width) for n in range(order - 1)
            )
        elif products:
            self.convs = make(channels)
        else:
            self.conv = make(channels)
        if products:
            self.normalizer = nn.ModuleList(nn.BatchNorm1d(rows * width) for _ in range(order - 1))

    def gathered(self, x):
        return x[:, self.table].flatten(2)

    def forward(self, x):
        around = self.gathered(x)
        if self.two:
            out, before = None, around
            for a, s, norm in zip(self.conva, self.convs, self.normalizer, strict=True):
                linear = a(around)
                product = linear * s(before)
                step = norm(product.flatten(1)).view(product.shape) + linear
                # The dummy's row is the BatchNorm's bias there, and the next step reads it.
                out = step + out if self.residual and out is not None else step
                before = self.gathered(out)
        elif hasattr(self, "convs"):
            linear = self.convs(around)
            out = linear
            for n, norm in enumerate(self.normalizer):
                power = linear ** (n + 2)
                out = out + norm(power.flatten(1)).view(power.shape)
        else:
            out = self.conv(around)
        out = self.activation(out + self.bias).clone()
        out[:, -1] = 0
        return out


class PublicNetwork(nn.Module):
    def __init__(self, block, order, hierarchy, activation):
        super().__init__()
        sizes = [len(v) for v in hierarchy.vertices]
        self.sizes, self.hierarchy = sizes, hierarchy
        tables = []
        for size, spirals in zip(sizes, hierarchy.spirals, strict=True):
            table = np.concatenate([spirals, np.full((1, spirals.shape[1]), -1)])
            tables.append(torch.from_numpy(np.where(table < 0, size, table)))
        widths = (3, *ENCODER)
        self.conv = nn.ModuleList(
            PublicLayer(block, order, tables[n], widths[n], widths[n + 1], activation)
            for n in range(2)
        )
        self.fc_latent_enc = nn.Linear((sizes[-1] + 1) * ENCODER[-1], LATENT)
        self.fc_latent_dec = nn.Linear(LATENT, (sizes[-1] + 1) * DECODER[0])
        self.dconv = nn.ModuleList(
            PublicLayer(block, order, tables[1 - n], DECODER[n], DECODER[n + 1],
                        activation if n == 0 else (lambda x: x))
            for n in range(2)
        )  # fmt: skip

    def forward(self, x):
        h = self.hierarchy
        x = F.pad(x, (0, 0, 0, 1))
        for n in range(2):
            x = self.conv[n](x)
            x = torch.cat([x[:, torch.from_numpy(h.keep[n])], x[:, -1:]], 1)
        z = self.fc_latent_enc(x.flatten(1))
        x = self.fc_latent_dec(z).view(len(z), self.sizes[-1] + 1, -1)
        for n in (1, 0):
            weight = torch.from_numpy(h.up_weight[n]).float()[:, :, None]  # as a model holds it
            up = (x[:, torch.from_numpy(h.up_index[n])] * weight).sum(2)
            x = self.dconv[1 - n](torch.cat([up, x[:, -1:]], 1))
        return x[:, :-1]


def networks(block, order, hierarchy, activation="elu"):
    """The public network with values of its own everywhere, and ours without its weights."""
    acts = {"elu": F.elu, "leaky_relu_0.02": nn.LeakyReLU(0.02)}
    public = PublicNetwork(block, order, hierarchy, acts[activation]).double()
    generator = torch.Generator().manual_seed(0)
    for tensor in (*public.parameters(), *(b for b in public.buffers() if b.is_floating_point())):
        tensor.data.copy_(0.5 * torch.randn(tensor.shape, generator=generator).double())
    for name, buffer in public.named_buffers():
        if "running_var" in name:
            buffer.abs_().add_(0.1)
    ours = MeshAutoencoder(config(block, order, activation=activation), hierarchy).double()
    return public, ours


@pytest.mark.parametrize(
    ("block", "order"),
    [("first_order", 1), *((b, n) for b in ("simple", "full", "skip_code") for n in (2, 3, 4))],
)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_published_weights_give_the_published_values(tiny, block, order, training):
    public, ours = networks(block, order, tiny)
    load_published(ours, public.state_dict())
    x = torch.randn(3, 9, 3, generator=torch.Generator().manual_seed(1)).double()
    public.train(training)
    ours.train(training)
    # float64, sums in another order
    torch.testing.assert_close(ours(x), public(x), rtol=1e-9, atol=1e-10)
    count = sum(p.numel() for p in public.parameters())
    assert sum(p.numel() for p in ours.parameters()) == count


@pytest.mark.parametrize("order", [2, 3])
def test_the_dummy_vertex_is_not_always_zero(tiny, order):
    """Level 1 reads a learned row, and from order 3 on the BatchNorm's bias."""
    public, ours = networks("full", order, tiny)
    load_published(ours, public.state_dict())
    zero = MeshAutoencoder(dataclasses.replace(ours.config, dummy_vertex=True), tiny).double()
    zero.load_state_dict(ours.state_dict())
    ours.eval(), zero.eval()
    x, z = torch.randn(2, 9, 3).double(), torch.randn(2, LATENT).double()
    assert torch.equal(ours.encode(x), zero.encode(x)) == (order == 2)
    assert not torch.allclose(ours.decode(z), zero.decode(z))
    with torch.no_grad():  # without the learned row, and without the biases, nothing is left
        ours.from_latent.weight[-DECODER[0] :] = 0
        ours.from_latent.bias[-DECODER[0] :] = 0
        for name, parameter in ours.named_parameters():
            if "batch_norm.bias" in name:
                parameter.zero_()
        for name, buffer in ours.named_buffers():
            if "running_mean" in name:
                buffer.zero_()
    zero.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), zero(x), rtol=1e-9, atol=1e-10)


def test_the_slope_of_the_public_code(tiny):
    public, ours = networks("full", 2, tiny, "leaky_relu_0.02")
    load_published(ours, public.state_dict())
    x = torch.randn(2, 9, 3).double()
    torch.testing.assert_close(ours(x), public(x), rtol=1e-9, atol=1e-10)


def test_neural3dmm_has_its_bias_within(tiny):
    public, ours = networks("first_order", 1, tiny)
    inner = lambda n: n.replace(".bias", ".conv.bias") if "conv." in n else n  # noqa: E731
    state = {inner(name): value for name, value in public.state_dict().items()}
    assert "dconv.1.conv.bias" in state
    load_published(ours, state)
    x = torch.randn(2, 9, 3).double()
    torch.testing.assert_close(ours(x), public(x), rtol=1e-9, atol=1e-10)


def test_what_does_not_fit_is_refused(tiny):
    public, ours = networks("full", 2, tiny)
    state, before = public.state_dict(), {n: v.clone() for n, v in ours.state_dict().items()}
    for changed, message in (
        (
            {k: v for k, v in state.items() if "conva" not in k},
            "of order 2: it lacks .'conv.0.conva",
        ),
        (state | {"conv.0.normalizer.weight": state["conv.0.bias"]}, "besides .'conv.0.normalizer"),
        (state | {"conv.0.bias": torch.zeros(9)}, r"conv.0.bias must have shape \[4\] together"),
    ):
        with pytest.raises(ValueError, match=message):
            load_published(ours, changed)
    assert all(torch.equal(v, before[n]) for n, v in ours.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dummy_vertex": True}, "must have dummy_vertex='published', got True"),
        ({"fuse_downsampling": True}, "must have fuse_downsampling=False, got True"),
        ({"norm": "rms"}, "must have norm='batch', got 'rms'"),
        ({"block": "skip"}, "block must be 'skip_code', got 'skip'"),
        ({"order": 1}, "order must be 2 or more, got 1"),
        ({"order": (2, 3, 2, 2)}, r"order must be one for all blocks, got \[2, 3, 2, 2\]"),
    ],
)
def test_models_that_compute_something_else_are_refused(tiny, changes, message):
    public, ours = networks("full", 2, tiny)
    other = MeshAutoencoder(dataclasses.replace(ours.config, **changes), tiny)
    with pytest.raises(ValueError, match=message):
        load_published(other, public.state_dict())


def test_the_dummy_vertex_belongs_to_spirals():
    with pytest.raises(ValueError, match="belongs to operator 'spiral', got 'gat'"):
        config("full", 2, operator="gat")
    with pytest.raises(ValueError, match="dummy_vertex must be one of published, got 'publishd'"):
        dataclasses.replace(config("full", 2), dummy_vertex="publishd")
