"""What the table of runs says of a generator: its degree, the check of it, its activations."""

from dataclasses import replace

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
