"""What a user writes, as mypy reads it in its strict mode (`make lint`); nothing runs it.

A name that does not exist is an error: strict mode also complains about an `ignore` that is not
needed.
"""

import torch
from typing_extensions import assert_type

import polygraph
from polygraph.models import MeshAutoencoder, create_model, list_models
from polygraph.nn import CCP, ChebyshevConv, DynamicEdgeConv, MeshGraph, SpiralConv, knn_graph


def layers(x: torch.Tensor, mesh: polygraph.mesh.Mesh) -> torch.Tensor:
    index, dist2 = polygraph.ops.knn(x, 2)
    assert_type(dist2, torch.Tensor)
    conv = SpiralConv(3, 4, polygraph.mesh.spiral_table(mesh.vertices, mesh.faces))
    edges = ChebyshevConv(3, 4, mesh=MeshGraph(mesh.faces, mesh.vertices))
    dynamic = DynamicEdgeConv(torch.nn.Linear(6, 4), k=2)
    block = CCP(torch.nn.Linear, 4, 2, order=3)
    assert_type(block.degree, int | None)
    assert_type(knn_graph(x, k=2), torch.Tensor)
    found: torch.Tensor = block(conv(x) + edges(x) + dynamic(x)) + index.sum()
    return found


def models(folder: str) -> list[torch.nn.Module]:
    names = list_models("*spiral*")
    assert_type(names, list[str])
    assert_type(MeshAutoencoder.from_pretrained(folder), MeshAutoencoder)
    return [create_model(name, template=polygraph.mesh.read_mesh("a.ply")) for name in names]


def scores(x: torch.Tensor) -> float:
    assert_type(polygraph.metrics.vertex_distance(x, x), torch.Tensor)
    return polygraph.metrics.image_scores.frechet_distance(x, x)


def mistakes(x: torch.Tensor) -> None:
    polygraph.nothing(x)  # type: ignore[attr-defined]
    polygraph.nn.Nothing(x)  # type: ignore[attr-defined]
    polygraph.ops.knn(x, k="2")  # type: ignore[arg-type]
