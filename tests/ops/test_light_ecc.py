"""Lightweight edge-conditioned convolution: low-rank matrices per edge, none of them made."""

from functools import partial

import pytest
import torch
from support.calls import convert, floats, leaves, run, upstream_like
from support.contract import grads_of
from support.edges import random_edges
from support.faults import put, with_value
from support.products import WithProducts
from support.tables import normal
from support.tolerances import KERNEL, assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from polygraph import ops, reference
from polygraph.ops import Graph, _light_ecc_form, common
from polygraph.ops.graph_side import GraphSide


def light(x, phi, left, right, kappa, source, ptr, edge=None, aggr="mean", edge_weight=None):
    """The operator with its graph in parts."""
    graph = Graph(ptr, source, edge)
    return ops.light_ecc(x, phi, left, right, kappa, graph, aggr, edge_weight=edge_weight)


def light_reference(
    x, phi, left, right, kappa, source, ptr, edge=None, aggr="mean", edge_weight=None
):
    """The definition, with its graph in parts."""
    graph = Graph(ptr, source, edge)
    return reference.light_ecc(x, phi, left, right, kappa, graph, aggr, edge_weight=edge_weight)


def light_call(M, N, E, C, D, H, R, *, seed=0, edge=False, gamma=False, holes=False, **options):
    """One call's arguments."""
    scale = (H + 1) ** -0.5
    inputs = {
        "x": normal(N, C, seed=seed),
        "phi": normal(E, H, seed=seed + 1),
        "left": scale * normal(R, D, H + 1, seed=seed + 2),
        "right": scale * normal(R, C, H + 1, seed=seed + 3) / max(1, C) ** 0.5,
        "kappa": scale * normal(R, H + 1, seed=seed + 4),
    } | random_edges(M, N, E, seed, holes)
    if edge:
        inputs["edge"] = torch.randperm(E, generator=torch.Generator().manual_seed(seed))
    if gamma:
        inputs["edge_weight"] = normal(E, seed=seed + 5)
    return inputs | options


class TestLightEcc(WithProducts):
    """The contract."""

    def check_autocast(self, half, device="cpu"):
        """Autocast rounds the arguments and the result; gradients come back in float32."""
        inputs = convert(self.cases[self.small[0]](), dtype=torch.float32, device=device)
        expected = run(self.op, convert(inputs, dtype=half))
        wanted = leaves(inputs)
        with torch.autocast(device, dtype=half):
            out = self.op(**wanted)
        assert out.dtype == half
        assert torch.equal(out, expected["out"])
        grads = torch.autograd.grad(out, list(floats(wanted).values()), upstream_like(out))
        for name, grad in zip(floats(wanted), grads, strict=True):
            assert grad.dtype == torch.float32
            assert torch.equal(grad, expected[f"grad of {name}"].float())

    @pytest.mark.filterwarnings(
        "ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning"
    )
    def test_traces(self):
        """`torch.jit.trace` takes the form, which is the same within rounding."""
        f, values = self.call_of_floats(convert(self.cases[self.small[0]](), dtype=torch.float32))
        traced = torch.jit.trace(f, values, check_trace=False)
        for part, expected in zip(grads_of(traced, values), grads_of(f, values), strict=True):
            assert_close(part, expected, KERNEL[torch.float32], "traced")

    stem = "light_ecc"
    op = staticmethod(light)
    reference = staticmethod(light_reference)
    cases = {  # noqa: RUF012
        "plain": partial(light_call, 6, 7, 23, 4, 3, 5, 2),
        "weights in another order": partial(
            light_call, 6, 7, 23, 4, 3, 5, 2, edge=True, gamma=True, aggr="sum"
        ),
        "empty slots": partial(light_call, 6, 7, 23, 4, 3, 5, 2, holes=True, gamma=True),
        "16 to 8 channels": partial(light_call, 6, 7, 40, 16, 8, 7, 3, gamma=True),
        "wide": partial(light_call, 5, 6, 40, 18, 34, 17, 9),
        "many rows": partial(light_call, 500, 400, 3000, 9, 8, 10, 4, gamma=True),
    }
    small = ("plain", "weights in another order", "empty slots")
    vectors = ("16 to 8 channels",)
    gpu_asserts = {"source": "transpose_table: index is out of range"}  # noqa: RUF012
    empty = {  # noqa: RUF012
        "no targets": partial(light_call, 0, 3, 0, 4, 3, 5, 2),
        "no sources": partial(light_call, 4, 0, 0, 4, 3, 5, 2),
        "no edges": partial(light_call, 4, 3, 0, 4, 3, 5, 2),
    }
    threaded = "many rows"
    broken = {  # noqa: RUF012
        "aggr": (put("aggr", lambda _: "max"), ValueError, "aggr must be sum or mean"),
        "left": (put("left", lambda t: t[..., 1:]), RuntimeError, "left must have shape"),
        "right": (put("right", lambda t: t[:, 1:]), RuntimeError, "right must have shape"),
        "kappa": (put("kappa", lambda t: t[1:]), RuntimeError, "kappa must have shape"),
        "source": (put("source", with_value(5, 7)), RuntimeError, r"\[-1, 7\), got 7"),
        "elsewhere": (put("phi", lambda t: t.to("meta")), RuntimeError, "on the device of x"),
        "edge weights elsewhere": (
            put("edge_weight", lambda _: torch.ones(23, device="meta")),
            RuntimeError,
            r"light_ecc: edge_weight must be on the device of x \(cpu\), got meta",
        ),
    }


class Ops(TorchDispatchMode):
    """Names of the operators that run within."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Write down, and go on."""
        self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("fused", "name"), [(True, "light_factors_"), (False, "edge_form")])
def test_light_makes_no_table_on_the_host(monkeypatch, fused, name):
    """A tensor from Python's numbers is copied to a GPU, which then is waited for."""
    monkeypatch.setattr(common, "takes_cpu_kernels", lambda tensor: fused)
    inputs = leaves(light_call(6, 7, 23, 4, 3, 5, 4, gamma=True))
    given = [inputs[name] for name in ("x", "phi", "left", "right", "kappa")]
    graph = Graph(inputs["ptr"], inputs["source"])
    options = {"edge_weight": inputs["edge_weight"]}
    with Ops() as within:
        out = ops.light_ecc(*given, graph, **options)
        torch.autograd.grad(out.sum(), given)
    assert f"polygraph.{name}" in within.names
    assert "aten.lift_fresh" not in within.names
    with Ops() as within:
        torch.tensor([1.0])
    assert within.names == ["aten.lift_fresh"]


@pytest.mark.parametrize("part_bytes", [1, 8 << 20])
@pytest.mark.parametrize("aggr", ["sum", "mean"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"edge": True, "gamma": True},
        {"holes": True},
        {"gamma": True, "holes": True},
    ],
)
def test_light_with_features_made_from_nodes(monkeypatch, options, aggr, part_bytes):
    """On the fly without gradients, stored with them: the same numbers, in parts or at once."""
    monkeypatch.setitem(_light_ecc_form.FORM_BYTES, "cpu", part_bytes)
    M, N, E, H = 70, 50, 400, 5
    inputs = light_call(M, N, E, 4, 3, H, 2, aggr=aggr, **options)
    u, v, slope = normal(M, H, seed=8), normal(N, H, seed=9), 0.2
    graph = Graph(inputs["ptr"], inputs["source"], inputs.get("edge"))
    phi = reference.edge_values(u, v, graph, slope)
    expected = light_reference(**{**inputs, "phi": phi})
    with torch.no_grad():
        found = light(**{**inputs, "phi": (u, v, slope)})
    torch.testing.assert_close(found, expected)
    made = (u.requires_grad_(), v.requires_grad_(), slope)
    stored = light(**{**inputs, "phi": made})
    torch.testing.assert_close(stored, expected)
    torch.manual_seed(0)
    upstream = torch.randn_like(stored)
    phi = phi.requires_grad_()
    wanted = torch.autograd.grad(light_reference(**{**inputs, "phi": phi}), phi, upstream)[0]
    values = reference.edge_values(u, v, graph, slope)
    torch.testing.assert_close(
        torch.autograd.grad(stored, (u, v), upstream),
        torch.autograd.grad(values, (u, v), wanted),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("H", "R"), [(1, 1), (16, 5), (33, 11), (70, 17)])
def test_light_ways_agree(monkeypatch, H, R, dtype):
    """The kernels of the edges and the form, for rows of all lengths and a target of many slots."""
    inputs = light_call(40, 60, 300, 9, 7, H, R, edge=True, gamma=True, holes=True)
    pointers = inputs["ptr"]
    pointers[1:20] = pointers[20]  # the first target has half of the slots
    inputs |= {"u": normal(40, H, seed=8), "v": normal(60, H, seed=9)}
    inputs.pop("phi")

    def of_nodes(u, v, **rest):
        return light(**rest, phi=(u, v, 0.2))

    given = convert(inputs, dtype=dtype)
    found = run(of_nodes, given)
    monkeypatch.setattr(common, "takes_cpu_kernels", lambda tensor: False)
    for name, value in run(of_nodes, convert(inputs, dtype=torch.float64)).items():
        assert_close(found[name], value, KERNEL[dtype], name)


def test_light_backward_repeats():
    """Through one graph twice, the same; what the forward pass stored is left as it is."""
    inputs = leaves(light_call(6, 7, 23, 4, 3, 5, 2, gamma=True))
    wanted = list(floats(inputs).values())
    out = light(**inputs)
    first = torch.autograd.grad(out.sum(), wanted, retain_graph=True)
    for again, value in zip(torch.autograd.grad(out.sum(), wanted), first, strict=True):
        assert torch.equal(again, value)


def test_light_second_derivatives_from_nodes():
    """A derivative by x does not go on to features that were made of x."""
    inputs = light_call(6, 6, 23, 4, 3, 5, 2, gamma=True)
    graph = Graph(inputs["ptr"], inputs["source"])
    matrix = normal(4, 5, seed=7)

    def of_x(op, x, weight):
        u, v = -(x @ matrix), x @ matrix
        phi = reference.edge_values(u, v, graph, 0.2) if op is light_reference else (u, v, 0.2)
        return op(**{**inputs, "x": x, "phi": phi, "edge_weight": weight})

    x, weight = inputs["x"].requires_grad_(), inputs["edge_weight"].requires_grad_()
    second = []
    for op in (light, light_reference):
        (grad,) = torch.autograd.grad(of_x(op, x, weight).square().sum(), x, create_graph=True)
        second.append(torch.autograd.grad(grad.square().sum(), (x, weight)))
    torch.testing.assert_close(*second)


def raw_light():
    """Arguments of the four compiled stages that are right."""
    graph = Graph(**random_edges(6, 7, 23)).with_transposed(7)
    targets = GraphSide.of(graph)
    u, v, gamma = normal(6, 5), normal(7, 5, seed=1), normal(23, seed=2)
    p, g, kappa = normal(7, 2, 6), normal(6, 2, 6, seed=3), normal(2, 6, seed=4)
    found, d = normal(23, 4), normal(23, 5)
    here = ([u, v], 0.2, 7, 0, *targets.packed())
    back = ([v, u], 0.2, 6, 0, *targets.turned(7).packed())
    return {
        "light_factors_": [p, kappa, *back, found],
        "light_outer_": [found, gamma, *here, g.clone()],
        "light_backward_targets_": [g, found, gamma, *here, g.clone(), d, gamma.clone()],
        "light_backward_sources_": [[p, kappa], found, *back, p.clone(), d, v.clone(), p[:1]],
    }


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("light_factors_", 0, normal(7, 2, 5), "p must have a column more than phi"),
        ("light_factors_", 0, normal(7, 2, 7), "phi must have H' or H' - 1, got 5"),
        ("light_factors_", 0, normal(7, 2, 6).half(), "half types are widened"),
        ("light_factors_", 0, normal(2, 7, 6).transpose(0, 1), "p must be contiguous"),
        ("light_factors_", 1, normal(3, 6), r"kappa must have shape \[R, W\]"),
        ("light_factors_", 2, [], "phi is needed"),
        ("light_factors_", 5, 1, "segments 1 to 8 of 7 do not exist"),
        ("light_factors_", -1, normal(23, 3), "found must have 2 R = 4 columns, got 3"),
        ("light_outer_", 0, normal(22, 4), r"found must have shape \[E, 2 R\]"),
        ("light_outer_", 1, normal(22), r"23 slots and 22 rows"),
        ("light_outer_", 1, normal(23).float(), "gamma must be"),
        ("light_backward_targets_", 1, normal(23, 2), "found must have 2 R = 4 columns, got 2"),
        ("light_backward_targets_", 4, -0.1, "slope must not be negative, got -0.1"),
        ("light_backward_targets_", -3, normal(5, 2, 6), r"z must have shape \[S', R, W\]"),
        ("light_backward_targets_", -2, normal(23, 4), r"d must have shape \[E, H\]"),
        ("light_backward_targets_", -1, normal(22), r"d_gamma must have shape \[E'\]"),
        ("light_backward_sources_", 0, [normal(7, 2, 6)], "p must be the matrices and kappa"),
        ("light_backward_sources_", 3, -1.0, "slope must not be negative"),
        ("light_backward_sources_", -2, normal(7, 4), r"d_near must have shape \[S', H\]"),
        ("light_backward_sources_", -1, normal(2, 2, 6), r"sums must have shape \[blocks, R, W"),
    ],
)
def test_light_refuses_raw_faults(name, place, value, message):
    arguments = raw_light()[name]
    op = getattr(torch.ops.polygraph, name)
    op(*arguments)
    arguments[place] = value
    with pytest.raises(RuntimeError, match=message):
        op(*arguments)


def test_light_from_nodes_elsewhere():
    """Under autocast, and in half precision, as from stored features."""
    inputs = convert(light_call(6, 7, 23, 4, 3, 5, 2), dtype=torch.float32)
    u, v = normal(6, 5, seed=8).float(), normal(7, 5, seed=9).float()
    half = convert(inputs, dtype=torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        cast = light(**{**inputs, "phi": (u, v, 0.2)})
    with torch.no_grad():
        made = light(**{**half, "phi": (u.bfloat16(), v.bfloat16(), 0.2)})
    assert cast.dtype == made.dtype == torch.bfloat16
    assert torch.equal(cast, made)
    with pytest.raises(RuntimeError, match=r"v must be torch\.float32"):
        light(**{**inputs, "phi": (u, v.double(), 0.2)})


def test_light_from_nodes_within_function_transforms():
    """Compiled code takes the way that records, and so do PyTorch's functional transforms."""
    inputs = light_call(6, 7, 23, 4, 3, 5, 2)
    u, v = normal(6, 5, seed=8), normal(7, 5, seed=9)

    def of_nodes(x, u, v):
        return light(**{**inputs, "x": x, "phi": (u, v, 0.2)})

    with torch.no_grad():
        plain = of_nodes(inputs["x"], u, v)
        compiled = torch.compile(of_nodes, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(inputs["x"], u, v), plain)
    found = torch.func.grad(lambda u: of_nodes(inputs["x"], u, v).sum())(u)
    leaf = u.clone().requires_grad_()
    (expected,) = torch.autograd.grad(of_nodes(inputs["x"], leaf, v).sum(), leaf)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("u", "v", "message"),
    [
        (normal(5, 5), normal(7, 5), r"u must have shape \[6, 5\], got \[5, 5\]"),
        (normal(6, 5), normal(7, 4), r"v must have shape \[7, 5\], got \[7, 4\]"),
        (normal(6, 4), normal(7, 4), r"left must have shape \[2, 3, 5\]"),
        (normal(6, 5).float(), normal(7, 5), r"u must be torch\.float64"),
    ],
)
def test_light_from_bad_nodes(u, v, message):
    inputs = light_call(6, 7, 23, 4, 3, 5, 2)
    with torch.no_grad(), pytest.raises(RuntimeError, match=message):
        light(**{**inputs, "phi": (u, v, 0.2)})
