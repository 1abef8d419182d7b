"""Inner products of inputs and templates; proposition 5: what a memorising network would hold."""

import math

import pytest
import torch
from torch import nn

from polygraph.analysis import memorisation
from polygraph.models import SplineCNN, SplineCNNConfig
from polygraph.train.orthogonality import templates


def network():
    torch.manual_seed(0)
    return SplineCNN(SplineCNNConfig(in_channels=1, size=12, num_classes=4)).double()


def test_products_are_those_of_the_templates():
    model, labels = network(), torch.tensor([3, 0, 1, 1, 2])
    images = torch.randn(5, 1, 12, 12, dtype=torch.float64)
    found = memorisation(model, images, labels, batch_size=2)
    assert model.training
    x = images.clone().requires_grad_()
    rows = templates(model.eval()(x), x)
    products = torch.einsum("bcijk,bijk->bc", rows, images)
    for n, label in enumerate(labels):
        torch.testing.assert_close(found.true[n], products[n, label])
        rest = products[n][torch.arange(4) != label]
        torch.testing.assert_close(found.false[n], rest)
    pairs = found.true[:, None] - found.false.flatten()
    assert found.auc == pytest.approx((pairs > 0).double().mean().item(), abs=1e-12)
    edges, true, false = found.histograms(7)
    assert (len(edges), int(true.sum()), int(false.sum())) == (8, 5, 15)
    assert len(repr(found)) < 120


def test_equal_products_count_half():
    model = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(model.weight)
    found = memorisation(model, torch.ones(3, 1), torch.tensor([0, 1, 1]))
    assert (found.auc, found.sign_split) == (0.5, 0.0)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_proposition_5(classes):
    """The least cross-entropy of A x over all A with ``Σ_c ‖A_c‖² = α`` (eq. 12).

    Found by projected gradient: the row of the true class is ``√(α (C-1) / C) x / ‖x‖``, the others
    are ``-√(α / (C (C-1))) x / ‖x‖``. (The paper prints norms that are not squared, with which
    eq. 12 does not meet its own constraint.)
    """
    torch.manual_seed(0)
    x, label, alpha = torch.randn(6, dtype=torch.float64), torch.tensor([1]), 2.0
    A = torch.randn(classes, 6, dtype=torch.float64)
    A *= math.sqrt(alpha) / A.norm()
    for _ in range(300):
        A.requires_grad_()
        loss = nn.functional.cross_entropy((A @ x)[None], label)
        (grad,) = torch.autograd.grad(loss, A)
        A = (A - grad / grad.norm()).detach()  # far enough: only its direction is kept
        A *= math.sqrt(alpha) / A.norm()
    wanted = torch.full((classes, 1), -math.sqrt(alpha / (classes * (classes - 1))))
    wanted[label] = math.sqrt(alpha * (classes - 1) / classes)
    torch.testing.assert_close(A, wanted.double() * (x / x.norm()), rtol=0, atol=1e-6)
    ideal = nn.Linear(6, classes, bias=False).double()
    ideal.weight.data.copy_(A)
    found = memorisation(ideal, x[None], label)
    assert found.ratio == pytest.approx(classes - 1, rel=1e-5)
    assert (found.auc, found.sign_split) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), {}, "of N >= 1 images"),
        (torch.zeros(2, 3), torch.zeros(3).long(), {}, r"got torch.int64 \[3\] for 2"),
        (torch.zeros(2, 3), torch.zeros(2), {}, "labels must be integers"),
        (torch.zeros(2, 3), torch.tensor([0, 5]), {}, r"labels must be in \[0, 2\)"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), {"batch_size": 0}, "batch_size must be"),
        (torch.zeros(2, 4, 3), torch.tensor([0, 1]), {}, r"logits must have shape \[B, C\]"),
    ],
)
def test_bad_input_is_named(images, labels, options, message):
    with pytest.raises(ValueError, match=message):
        memorisation(nn.Linear(3, 2), images, labels, **options)


def test_bins_are_positive():
    found = memorisation(nn.Linear(3, 2), torch.randn(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="bins must be a positive integer, got 0"):
        found.histograms(0)
