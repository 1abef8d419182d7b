"""Convolutions on the edges of a mesh, against torch_geometric's own layers, one mesh at a time."""

import copy
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch_geometric.nn as pyg
import trimesh
from support.layer_calls import Case
from support.layer_contract import LayerContract
from support.tolerances import LAYER_FLOAT32, assert_close

from polygraph.nn.mesh_conv import MESH_CONVS
from polygraph.nn.mesh_graph import MeshGraph, mesh_edges

NAMES = sorted(MESH_CONVS)
SPHERE = trimesh.creation.icosphere(subdivisions=1)
V, C, D = len(SPHERE.vertices), 5, 4


def graph(keep=None):
    return MeshGraph(SPHERE.faces, SPHERE.vertices, keep)


def layer(name, keep=None, bias=True, seed=0):
    torch.manual_seed(seed)
    made = MESH_CONVS[name](C, D, bias, mesh=graph(keep)).double()
    with torch.no_grad():  # no bias may hide by starting at zero
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def theirs(name, made, x):
    """PyG's own layer on one mesh ``[V, C]``, all vertices targets."""
    mesh = graph()
    if name in ("monet", "ecc"):
        own = pyg.NNConv.forward if name == "ecc" else pyg.GMMConv.forward
        return own(made.layer, x, mesh.edge_index, mesh.labels.double())
    if name == "edgeconv":
        conv = pyg.EdgeConv(torch.nn.Identity())  # its constructor resets what it is given
        conv.nn = made.layer
        return conv(x, mesh.edge_index)
    return made.layer(x, mesh.edge_index)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_of_pyg(name, bias):
    ours = layer(name, bias=bias)
    x = torch.randn(3, V, C, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, V, D, dtype=torch.float64)
    found = []
    for out in (ours(x), torch.stack([theirs(name, ours, sample) for sample in x])):
        wanted = [x, *ours.parameters()]
        found.append([out, *torch.autograd.grad((out.sin() * weight).sum(), wanted)])
    for ours_, theirs_ in zip(*found, strict=True):
        # The Laplacian's values are kept in float32, all else is float64.
        tolerance = 1e-6 if name == "chebyshev" else 1e-10
        torch.testing.assert_close(ours_, theirs_, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_targets_that_stay(name):
    keep = torch.tensor([7, 0, 30, 12]).numpy()
    every, some = layer(name), layer(name, keep)
    x = torch.randn(2, V, C, dtype=torch.float64)
    torch.testing.assert_close(some(x), every(x)[:, keep])
    assert (some.num_sources, some.num_targets) == (V, 4)


@pytest.mark.parametrize("name", NAMES)
def test_one_mesh_no_mesh_and_copies(name):
    made = layer(name)
    x = torch.randn(2, V, C, dtype=torch.float64)
    torch.testing.assert_close(made(x[1]), made(x)[1])
    assert made(x[:0]).shape == (0, V, D)
    assert torch.equal(copy.deepcopy(made)(x), made(x))
    assert not [key for key in made.state_dict() if "mesh" in key or "transposed" in key]
    before = made(x)
    made.reset_parameters()
    assert not torch.equal(made(x), before)


@pytest.mark.parametrize("name", NAMES)
def test_linear_where_it_says_so(name):
    made = layer(name, bias=False)
    x, y = torch.randn(2, 1, V, C, dtype=torch.float64)
    together, apart = made(x + 2 * y), made(x) + 2 * made(y)
    assert torch.allclose(together, apart, rtol=1e-9, atol=1e-9) == made.linear


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_follows_the_batch(name):
    """More sizes of a batch than are kept, there and back."""
    made = layer(name)
    x = torch.randn(8, V, C, dtype=torch.float64)
    whole = made(x)
    for size in (1, 2, 3, 4, 5, 6, 7, 1):
        torch.testing.assert_close(made(x[:size]), whole[:size])
    assert len(made.mesh._graphs) <= 4


def test_edges_and_labels():
    edges = mesh_edges(SPHERE.faces)
    unique = SPHERE.edges_unique
    assert edges.shape == (2, 2 * len(unique))
    assert {tuple(sorted(e)) for e in edges.T} == {tuple(sorted(e)) for e in unique}
    assert (edges[1, 1:] >= edges[1, :-1]).all()
    mesh = graph()
    lengths = mesh.labels.norm(dim=1)
    assert float(lengths.mean()) == pytest.approx(1, rel=1e-6)
    source, target = mesh.edge_index
    offset = torch.tensor(SPHERE.vertices[source] - SPHERE.vertices[target]).float()
    torch.testing.assert_close(offset / offset.norm(dim=1, keepdim=True),
                               mesh.labels / lengths[:, None])  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_bad_input(name):
    made = layer(name)
    for shape in ((2, V + 1, C), (2, V, C + 1), (V * C,)):
        with pytest.raises(ValueError, match=rf"x must have shape \[B, {V}, {C}\]"):
            made(torch.zeros(shape, dtype=torch.float64))
    with pytest.raises(ValueError, match="out_channels must be a positive integer"):
        MESH_CONVS[name](C, 0, mesh=graph())


@pytest.mark.parametrize("faces", [[[0, 1, 42]], [[-1, 0, 1]]])
def test_bad_faces(faces):
    with pytest.raises(ValueError, match="faces must name some of the 42 vertices"):
        MeshGraph(faces, SPHERE.vertices)


def test_a_vertex_without_edges():
    """It has no neighbours to hear of, and no value that is not finite."""
    faces, vertices = [[0, 1, 2]], np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5.0]])
    for made in (cls(C, D, mesh=MeshGraph(faces, vertices)) for cls in MESH_CONVS.values()):
        out = made(torch.randn(2, 4, C))
        assert out.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_targets_in_another_order(name):
    """As many as there are vertices, and not the same."""
    order = torch.arange(V).flip(0).numpy()
    every, turned = layer(name), layer(name, order)
    x = torch.randn(2, V, C, dtype=torch.float64)
    torch.testing.assert_close(turned(x), every(x)[:, order])


def meshes(size=2):
    return (torch.randn(size, V, C, generator=torch.Generator().manual_seed(1)).double(),)


def made(name, keep=None):
    made = MESH_CONVS[name](C, D, mesh=graph(keep))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


class TestMeshConvolutions(LayerContract):
    kinds = tuple(MESH_CONVS.values())
    cases: ClassVar = {name: Case(partial(made, name), meshes) for name in NAMES} | {
        f"{name}, some targets": Case(partial(made, name, np.array([7, 0, 30, 12])), meshes)
        for name in NAMES
    }
    unheard = tuple(f"lins.{k}" for k in range(2, 6))  # whose forward alone PyG calls
    exact = 1e-6  # the Laplacian's values are kept in float32
    compiled = ("chebyshev", "gat", "edgeconv")
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    sizes = (3, 6, 2, 7)

    @staticmethod
    def sized(size):
        return meshes(size)


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("keep", [None, np.array([7, 0, 30, 12])])
def test_far_from_the_origin(offset, keep):
    """EdgeConv's differences, and FeaStNet's, keep their digits."""
    x = torch.randn(2, V, C, generator=torch.Generator().manual_seed(1)) + offset
    edge = made("edgeconv", keep)
    edge.layer.weight.data[:, :C] = 0
    for name, conv in (("edgeconv", edge), ("feastnet", made("feastnet", keep))):
        expected = copy.deepcopy(conv).double()(x.double())
        assert_close(conv(x), expected, LAYER_FLOAT32, name)
