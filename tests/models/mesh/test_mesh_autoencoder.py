"""The mesh autoencoder: published sizes, its algebra, that it learns, and what it refuses."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from polygraph.analysis import check_degree
from polygraph.models import MeshAutoencoder, MeshAutoencoderConfig
from polygraph.models.mesh.mesh_autoencoder import OPERATORS
from polygraph.nn import NORMS

SMALL = MeshAutoencoderConfig(
    encoder_channels=(8, 8), decoder_channels=(8, 8, 3), latent_channels=4
)
PUBLISHED = {"norm": "batch", "dummy_vertex": True, "fuse_downsampling": False}
BLOCKS = ("first_order", "simple", "full", "skip", "skip_code")


def small(**changes):
    return dataclasses.replace(SMALL, **changes)


def count(model):
    return sum(p.numel() for p in model.parameters())


def deformed_spheres(vertices, number, seed=0):
    """Smooth deformations of the unit sphere, from four numbers each."""
    generator = torch.Generator().manual_seed(seed)
    code = torch.randn(number, 4, generator=generator)
    x = torch.as_tensor(vertices, dtype=torch.float32)
    stretch = 1 + 0.3 * code[:, :3]
    return stretch[:, None] * x + 0.2 * (code[:, 3, None, None] * x[:, [1, 2, 0]]).sin()


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"block": "first_order"}, 48_547),
        ({"block": "full", "order": 2}, 376_515),
        ({"block": "full", "order": 3}, 734_516),
    ],
)
def test_published_parameter_counts(coma_sized, changes, parameters):
    model = MeshAutoencoder(MeshAutoencoderConfig(**PUBLISHED, **changes), coma_sized)
    assert count(model) == parameters


@pytest.mark.parametrize(
    ("block", "like"), [("skip_code", "skip"), ("skip_code", "full"), ("skip", "full")]
)
@pytest.mark.parametrize("order", [2, 3])
def test_the_public_code_of_ncp_skip_is_a_network_of_its_own(tiny, block, like, order):
    """Same parameters; of order 2 it is NCP, and NCP-Skip by the formula never is."""
    config = small(order=order, encoder_channels=(3, 8))
    one, other = (
        MeshAutoencoder(dataclasses.replace(config, block=kind), tiny) for kind in (block, like)
    )
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 9, 3)
    assert torch.equal(one(x), other(x)) == ((block, like, order) == ("skip_code", "full", 2))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("fuse_downsampling", [True, False])
@pytest.mark.parametrize("dummy_vertex", [True, False, "published"])
def test_every_variant_runs(tiny, block, norm, fuse_downsampling, dummy_vertex):
    config = small(
        block=block,
        norm=norm,
        order=3,
        fuse_downsampling=fuse_downsampling,
        dummy_vertex=dummy_vertex,
    )
    model = MeshAutoencoder(config, tiny)
    x = torch.randn(3, 9, 3)
    out = model(x)
    assert out.shape == (3, 9, 3)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    torch.testing.assert_close(model.decode(model.encode(x)), model(x))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("fuse_downsampling", [True, False])
def test_every_operator_trains(sphere, operator, block, fuse_downsampling):
    torch.manual_seed(0)
    config = small(operator=operator, block=block, fuse_downsampling=fuse_downsampling)
    model = MeshAutoencoder(config, sphere)
    x = deformed_spheres(sphere.vertices[0], 4)
    model.set_normalization(x.mean(0), x.std(0))
    target = model.normalize(x)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(3):
        loss = (model.forward_normalized(target) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert model(x).shape == x.shape


@pytest.mark.parametrize("operator", OPERATORS)
def test_fused_downsampling_is_exact_for_every_operator(sphere, operator):
    config = small(operator=operator, block="first_order")
    fused = MeshAutoencoder(config, sphere).double()
    plain = MeshAutoencoder(dataclasses.replace(config, fuse_downsampling=False), sphere).double()
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 162, 3, dtype=torch.float64)
    # float64, sums in another order
    torch.testing.assert_close(fused(x), plain(x), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("operator", "degree"),
    [("chebyshev", 16), ("monet", 16), ("ecc", 16), ("gat", None), ("feastnet", None),
     ("edgeconv", None)],
)  # fmt: skip
def test_only_linear_operators_make_polynomials(sphere, operator, degree):
    config = small(operator=operator, activation="none", norm="none")
    assert MeshAutoencoder(config, sphere).degree == degree


@pytest.mark.parametrize("block", ["first_order", "full"])
def test_an_extra_convolution_at_the_finest_level(tiny, block):
    model = MeshAutoencoder(small(block=block, decoder_channels=(8, 8, 6, 3)), tiny)
    assert len(model.decoder) == 2
    assert (model.head.in_channels, model.head.out_channels) == (6, 3)
    assert [b.activation for b in (*model.decoder, model.head)] == ["elu", "elu", "none"]
    assert model(torch.randn(2, 9, 3)).shape == (2, 9, 3)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_fused_downsampling_is_exact(tiny, block, order, norm):
    config = small(block=block, order=order, norm=norm, encoder_channels=(3, 8))
    fused = MeshAutoencoder(config, tiny).double()
    plain = MeshAutoencoder(dataclasses.replace(config, fuse_downsampling=False), tiny).double()
    state = fused.state_dict()
    for n in range(2):
        part = f"encoder.{n}.final.weight"
        if part in state:  # apart when fused, the last rows of the wide operator when not
            wide = f"encoder.{n}.wide.weight"
            state[wide] = torch.cat([state[wide], state.pop(part)])
    for name, value in plain.state_dict().items():
        if "batch_norm" in name:  # fresh in both; fused, it has fewer vertices
            state[name] = value
    plain.load_state_dict(state)
    x = torch.randn(4, 9, 3, dtype=torch.float64)
    # float64, sums in another order
    torch.testing.assert_close(fused(x), plain(x), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("order", [2, 3])
def test_overfits_one_batch(sphere, block, order):
    torch.manual_seed(0)
    x = deformed_spheres(sphere.vertices[0], 8)
    model = MeshAutoencoder(small(block=block, order=order, encoder_channels=(8, 16)), sphere)
    model.set_normalization(x.mean(0), x.std(0))
    target = model.normalize(x)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(300):
        loss = (model.forward_normalized(target) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-20:]) < losses[0] / 10
    # what was learned holds in evaluation mode and in the units of the meshes
    error = (model.eval()(x) - x).abs().mean()
    assert error < 0.2 * (x - x.mean(0)).abs().mean()


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("norm", ["rms", "vertex_rms", "instance", "none"])
def test_evaluation_mode_and_batch_change_nothing(tiny, block, norm):
    model = MeshAutoencoder(small(block=block, norm=norm), tiny).double()
    x = torch.randn(4, 9, 3, dtype=torch.float64)
    train = model(x)
    assert torch.equal(model.eval()(x), train)
    torch.testing.assert_close(torch.cat([model(part) for part in x.split(1)]), train)
    assert model(x[:0]).shape == (0, 9, 3)


@pytest.mark.parametrize(
    ("changes", "degree"),
    [
        ({"block": "first_order"}, 1),
        ({"block": "simple", "order": 2}, 16),
        ({"block": "full", "order": 2}, 16),
        ({"block": "skip", "order": 2}, 16),
        ({"block": "full", "order": 2, "decoder_channels": (4, 3)}, 4),
        ({"block": "full", "order": 3, "decoder_channels": (4, 3)}, 9),
        ({"block": "skip", "order": 3, "decoder_channels": (4, 3)}, 9),
        ({"block": "skip_code", "order": 3, "decoder_channels": (4, 3)}, 9),
        ({"block": "full", "order": 4, "decoder_channels": (4, 3)}, 16),
        ({"block": "skip_linear", "order": 3, "decoder_channels": (4, 3)}, 9),
        ({"block": "skip_plus_nested", "order": 3, "decoder_channels": (4, 3)}, 9),
        ({"block": "full", "order": [3, 2], "decoder_channels": (4, 3)}, 6),
        ({"block": "skip_linear", "order": (1, 2, 3, 2)}, 12),
        ({"block": "full", "order": 2, "decoder_channels": (4, 4, 3), "levels": 1}, 8),
    ],
)
@pytest.mark.parametrize("fuse_downsampling", [True, False])
def test_degree_of_the_whole_network(tiny, changes, degree, fuse_downsampling):
    """Layer degrees multiply: two levels have four layers, one level two (or three)."""
    torch.manual_seed(0)
    changes = dict(changes)
    levels = changes.pop("levels", len(changes.get("decoder_channels", (8, 8, 3))) - 1)
    part = SimpleNamespace(**vars(tiny))
    part.vertices, part.keep = tiny.vertices[: levels + 1], tiny.keep[:levels]
    config = small(
        encoder_channels=(4,) * levels,
        activation="none",
        norm="none",
        fuse_downsampling=fuse_downsampling,
        **changes,
    )
    model = MeshAutoencoder(config, part).double()
    assert model.degree == degree
    report = check_degree(model, (9, 3), degree)
    assert report, report.message
    assert not check_degree(model, (9, 3), degree - 1)
    assert MeshAutoencoder(dataclasses.replace(config, activation="elu"), part).degree is None


@pytest.mark.parametrize("block", BLOCKS)
def test_state_dict_round_trip(tiny, block):
    first, second = (MeshAutoencoder(small(block=block, order=3), tiny) for _ in range(2))
    first.set_normalization(torch.randn(9, 3), torch.rand(9, 3) + 0.5)
    x = torch.randn(2, 9, 3)
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))
    assert not [name for name in first.state_dict() if "ind" in name or "transposed" in name]


def test_config_survives_json():
    config = small(block="skip", order=4, operator="monet")
    loaded = MeshAutoencoderConfig(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert loaded == config
    assert isinstance(loaded.encoder_channels, tuple)


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
def test_made_on_the_meta_device(tiny, block, fuse):
    """Shapes without values; moved off it, with the state of another, it is that other."""
    config = small(block=block, order=3, fuse_downsampling=fuse)
    model = MeshAutoencoder(config, tiny)
    with torch.device("meta"):
        shapes = MeshAutoencoder(config, tiny)
    x = torch.randn(2, 9, 3)
    out = shapes(x.to("meta"))
    assert out.is_meta
    assert out.shape == x.shape
    shapes.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert torch.equal(shapes(x), model(x))


@pytest.mark.parametrize("block", BLOCKS)
def test_compiles_as_one_graph(tiny, block):
    model = MeshAutoencoder(small(block=block, order=3), tiny)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 9, 3)
    out, wanted = compiled(x), model(x)
    torch.testing.assert_close(out, wanted)
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(out.sum(), parameters), torch.autograd.grad(wanted.sum(), parameters)
    )


@pytest.mark.parametrize("block", BLOCKS)
def test_second_derivatives(tiny, block):
    model = MeshAutoencoder(small(block=block, order=3), tiny).double()
    x = torch.randn(1, 9, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(model, x)


def test_one_wide_operator_and_one_step_per_layer(tiny, monkeypatch):
    """At batch 1 calls cost more than arithmetic: their number is part of the design."""
    from polygraph import ops

    calls = []
    for name in ("spiral_conv", "resample", "poly_step"):
        original = getattr(ops, name)

        def counted(*args, _name=name, _original=original, **kwargs):
            calls.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(ops, name, counted)
    for block in ("full", "first_order"):
        calls.clear()
        MeshAutoencoder(small(block=block), tiny)(torch.randn(1, 9, 3))
        steps = ["poly_step"] if block == "full" else []
        layer = ["spiral_conv", *steps]
        assert calls == 2 * layer + 2 * ["resample", *layer]


def test_normalization(tiny):
    model = MeshAutoencoder(SMALL, tiny)
    mean, std = torch.randn(9, 3), torch.rand(9, 3) + 0.1
    std[2] = 0
    model.set_normalization(mean.numpy(), std.numpy().astype(np.float64))
    x = torch.randn(2, 9, 3)
    torch.testing.assert_close(model.denormalize(model.normalize(x)), x)
    moving = std > 0
    torch.testing.assert_close(model.normalize(x)[:, moving], ((x - mean) / std)[:, moving])
    torch.testing.assert_close(model.std[2], (0.01 * std.mean()).expand(3))
    wanted = model.denormalize(model.forward_normalized(model.normalize(x)))
    torch.testing.assert_close(model(x), wanted)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (
            torch.zeros(8, 3),
            torch.ones(9, 3),
            r"mean must be finite, of shape \[9, 3\].*got \[8, 3\]",
        ),
        (torch.zeros(9, 3), torch.ones(9), r"std must be finite, of shape \[9, 3\].*got \[9\]"),
        (torch.full((9, 3), torch.nan), torch.ones(9, 3), "mean .*values that are not finite"),
        (torch.zeros(9, 3), torch.zeros(9, 3), "at least two different meshes"),
        (torch.zeros(9, 3), -torch.ones(9, 3), "std must not be negative.*from -1 to -1"),
    ],
)
def test_bad_normalization(tiny, mean, std, message):
    with pytest.raises(ValueError, match=message):
        MeshAutoencoder(SMALL, tiny).set_normalization(mean, std)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_channels": 0}, "latent_channels must be a positive integer, got 0"),
        ({"order": 0}, "order must be a positive integer, got 0"),
        ({"order": (2, 2, 0, 2)}, "order must be a positive integer, got 0"),
        ({"order": (2, 2)}, "one for each of the 4 blocks, got 2"),
        ({"encoder_channels": (8, -8)}, "encoder_channels must be a positive integer, got -8"),
        ({"block": "ful"}, "block must be one of .*did you mean 'full'"),
        ({"operator": "chebishev"}, "operator must be one of .*did you mean 'chebyshev'"),
        ({"activation": "ELU"}, "activation must be one of .*got 'ELU'"),
        ({"norm": "batchnorm"}, "norm must be one of .*did you mean 'batch'"),
        ({"decoder_channels": (8, 3)}, "one or two more than encoder_channels.*got 2 and 2"),
        ({"encoder_channels": (), "decoder_channels": (3,)}, "at least one; got 1 and 0"),
        ({"decoder_channels": (8, 8, 4)}, "must end with 3 coordinates, got 4"),
    ],
)
def test_bad_config(changes, message):
    with pytest.raises(ValueError, match="MeshAutoencoderConfig: .*" + message):
        small(**changes)


def test_wrong_template(tiny, sphere):
    model = MeshAutoencoder(SMALL, tiny)
    for call in (model, model.encode, model.forward_normalized):
        for shape in ((2, 10, 3), (2, 9, 4), (9, 3)):
            with pytest.raises(ValueError, match=r"x must have shape \[B, 9, 3\]"):
                call(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"z must have shape \[B, 4\], got \[2, 5\]"):
        model.decode(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="each of the 2 down-samplings of the hierarchy, got 1"):
        MeshAutoencoder(small(encoder_channels=(8,), decoder_channels=(8, 3)), tiny)
    with pytest.raises(RuntimeError, match="size mismatch for mean"):
        model.load_state_dict(MeshAutoencoder(SMALL, sphere).state_dict())
    assert model.hierarchy_hash != MeshAutoencoder(SMALL, sphere).hierarchy_hash


def test_moves_between_dtypes(tiny):
    model = MeshAutoencoder(SMALL, tiny)
    x = torch.randn(2, 9, 3)
    single = model(x)
    double = model.double()(x.double())
    assert double.dtype == torch.float64
    # float32 through a dozen layers
    torch.testing.assert_close(single, double.float(), rtol=1e-4, atol=1e-5)


def test_transposed_tables_are_shared_on_a_level(tiny):
    model = MeshAutoencoder(small(block="full", order=3), tiny)
    tables = [
        m for m in model.modules() if hasattr(m, "transposed_entry") and isinstance(m, nn.Module)
    ]
    assert len({t.transposed_entry.data_ptr() for t in tables}) < len(tables)
