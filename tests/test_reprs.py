"""What is printed of every public object: a few lines, whatever it holds."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from support.mesh_shapes import grid

import polygraph
from polygraph import analysis, data, mesh, metrics, models, nn, ops

MOST_LINES, MOST_CHARACTERS = 4, 500
V, N = 300, 40
_random = np.random.default_rng(0)


def hierarchy():
    vertices, faces = grid(20, 21)
    return mesh.build_hierarchy(vertices, faces, factors=(2, 2))


def results():
    errors = metrics.VertexError()
    meshes = torch.randn(N, V, 3)
    errors.update(meshes, meshes + 0.1)
    return errors


class Extractor:
    label = "test"

    def extract(self, images):
        return images.flatten(1), images.flatten(1)[:, :4]


def objects():
    """An instance of every public class that is no layer, model, configuration or error."""
    levels = hierarchy()
    points = _random.normal(size=(N, V, 3)).astype(np.float32)
    index, _ = ops.knn(torch.from_numpy(points[0]), 8)
    seen = metrics.image_scores.Activations(Extractor())
    seen.update(torch.rand(300, 1, 8, 8))
    errors = results()
    return [
        analysis.CodeGaussian.fit(torch.randn(N, 8)),
        (metric := analysis.LatentMetric(lambda z: z.square()[:, None, :3], degree=2)),
        metric.geodesic(torch.ones(8), torch.zeros(8)),
        metrics.shape_scores(points[:3], points[3:9], points[9:12]),
        analysis.affine_map(torch.nn.Linear(40, 30), (40,)),
        (convexity := analysis.check_convex(torch.sin, (1,), samples=9, chords=9)),
        convexity.counterexample,
        codes := analysis.pack_codes({"relu": torch.randn(N, 8) > 0}),
        analysis.region_counts(codes),
        analysis.check_degree(lambda x: x**2, (3,), 2),
        analysis.network_degree(torch.nn.Tanh(), (3,)),
        analysis.BlockDegree("blocks.0", "PolyResidual", 2),
        analysis.degree_templates(torch.square, torch.ones(30, 40), 2),
        analysis.memorisation(torch.nn.Linear(3, 2), torch.randn(N, 3), torch.arange(N) % 2),
        (
            lens := analysis.SplineLens(
                torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.ReLU())
            )
        ),
        lens.affine(torch.ones(50, 30)),
        lens.frozen(torch.ones(50, 30)),
        (doubled := analysis.SplineLens(torch.nn.Linear(30, 40).double())).walk(
            *torch.ones(2, 30).double()
        ),
        doubled.slice(*torch.ones(3, 30).double()),
        analysis.derivative_tensors(torch.square, (40,), 2),
        *(use := analysis.measure_use(nn.NonLocalGraphConv2d(3, 4), [torch.randn(2, 3, 16, 16)])),
        use[0].places,
        data.open_audio(data.AudioDataConfig(num_clips=40)),
        data.open_images(data.ImageDataConfig()),
        data.make_creature(num_frames=64),
        data.open_shapes(data.ShapeDataConfig()),
        data.make_split("mine", range(20), range(20, N), num_meshes=N),
        mesh.decimate(levels.vertices[0], levels.faces[0], 100),
        mesh.validate_mesh(levels.vertices[0], levels.faces[0]),
        levels,
        errors,
        errors.compute(),
        seen,
        metrics.image_scores.score(seen, seen, subset_size=50),
        models.ConvexifiedCNN("ccnn-3-cifar10"),
        models.PCA.fit(points, 8),
        nn.PixelGraph(8),
        ops.graph_from_table(index, V).with_transposed(V),
    ]


def public_classes():
    packages = [getattr(polygraph, name) for name in polygraph.__all__]
    packages.append(metrics.image_scores)
    found = [
        getattr(package, name) for package in packages for name in getattr(package, "__all__", ())
    ]
    return {
        kind
        for kind in found
        if inspect.isclass(kind) and not issubclass(kind, BaseException | torch.nn.Module)
    }


def is_config(kind):
    return dataclasses.is_dataclass(kind) and kind.__name__.endswith("Config")


def test_objects_print_in_a_few_lines():
    made = objects()
    for item in made:
        for text in (repr(item), str(item), f"{item}"):
            assert len(text.splitlines()) <= MOST_LINES, text
            assert len(text) <= MOST_CHARACTERS, text
    of_extras = {"Extractor", "KNNGraph", "Layout"}  # a protocol, and two that hold no arrays
    rest = {
        kind.__name__ for kind in public_classes() - {*map(type, made)} if not is_config(kind)
    } - of_extras
    assert rest == set(), "give an instance of each"


@pytest.mark.parametrize(
    "kind", sorted(filter(is_config, public_classes()), key=lambda kind: kind.__name__)
)
def test_configurations_print_in_a_few_lines(kind):
    for text in (repr(kind()), str(kind())):
        assert len(text.splitlines()) <= MOST_LINES
        assert len(text) <= MOST_CHARACTERS


def test_a_hierarchy_says_its_levels():
    assert repr(hierarchy()).startswith("MeshHierarchy(420 -> 210 -> 105 vertices, spirals of [")
