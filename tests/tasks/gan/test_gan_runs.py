"""What the table of runs says of a generator: its degree, the check of it, its activations."""

from dataclasses import replace
from pathlib import Path

import gan_runs
import pytest
from support.tiny_gan import narrowed

from polygraph.models.images import PolynomialGenerator
from polygraph.models.images.families import build
from polygraph.models.images.presets import PAIRS
from polygraph.models.images.sizes import at_size


@pytest.mark.parametrize(
    ("preset", "degree", "activations"),
    [
        ("pi/ncp", "4, checked", "none"),
        ("pi/prodpoly-sn", "66, not checked", "none"),
        ("small/ncp", "none", "none"),
        ("pi/sngan-ncp", "none", "ReLU"),
        ("pi/style", "none", "leaky ReLU"),
    ],
)
def test_degree_and_activations(preset, degree, activations):
    generator = build(at_size(narrowed(PAIRS[preset].generator), 8))
    row = gan_runs.polynomial(generator.eval())
    assert (gan_runs.degree_words(row), row["activations"]) == (degree, activations)


def test_a_degree_that_does_not_hold(monkeypatch):
    config = replace(at_size(narrowed(PAIRS["linear/ncp"].generator), 8), order=2)
    monkeypatch.setattr(PolynomialGenerator, "degree", 3)
    row = gan_runs.polynomial(build(config).eval())
    assert gan_runs.degree_words(row) == "3, REFUTED"


def test_rows_kept_from_before():
    def row(run, **more):
        return {"run": run, "dataset": "d", "extractor": "e", "extractor_accuracy": 0.5, **more}

    kept, new = [row("a"), row("b")], [row("c"), row("b", steps=2)]
    assert gan_runs.merged(kept, new) == [row("a"), row("b", steps=2), row("c")]
    with pytest.raises(SystemExit, match=r"a: extractor_accuracy is 0\.5, not 0\.6"):
        gan_runs.merged(kept, [row("c", extractor_accuracy=0.6)])


def test_the_first_seed_of_each_variant():
    names = ["edge-k8-s1", "baseline", "edge-k8-s0", "sngan-s10", "sngan-s"]
    assert [gan_runs.variant_of(n) for n in names] == [
        "edge-k8",
        "baseline",
        "edge-k8",
        "sngan",
        "sngan-s",
    ]
    found = gan_runs.first_seeds([Path("runs") / name for name in names])
    assert [path.name for path in found] == ["edge-k8-s1", "baseline", "sngan-s10", "sngan-s"]
