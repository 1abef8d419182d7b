"""Margin heads against their formulas, written densely; gradients at every angle."""

import math
import sys

import pytest
import torch
from torch.nn import functional

from polygraph.tasks.verify.heads import adacos_scale, make_head

pytest.importorskip("pytorch_metric_learning")
D, C = 6, 5


def formula(name, x, weight, labels, margin, scale):
    """The loss from logits of all classes, by angles, in float64."""
    x, weight = x.double(), weight.double()
    cosine = functional.normalize(x, dim=1) @ functional.normalize(weight, dim=0)
    angle = cosine.clamp(-1, 1).acos()
    if name == "arcface":
        inside = angle + margin <= math.pi
        changed = torch.where(inside, (angle + margin).cos(), cosine - margin * math.sin(margin))
    else:
        changed = cosine - margin
    mine = functional.one_hot(labels, weight.shape[1]).bool()
    return functional.cross_entropy(scale * torch.where(mine, changed, cosine), labels)


def case(name, margin, scale=4.0, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    head = make_head(name, D, C, margin=margin, logit_scale=scale).to(dtype)
    return head, torch.randn(20, D, dtype=dtype), torch.arange(20) % C


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.5, 2.0])
@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_values_are_the_formula(name, margin):
    """Margins are radians here and degrees there; with 1.5 and 2 many angles pass π - m."""
    if name == "cosface" and margin >= 2:
        margin = 1.9
    head, x, labels = case(name, margin)
    weight = head.loss.W.detach()
    wanted = formula(name, x, weight, labels, margin, 4.0)
    loss, logits = head(x, labels)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    cosine = functional.normalize(x, dim=1) @ functional.normalize(weight, dim=0)
    torch.testing.assert_close(logits, 4 * cosine)
    if name == "arcface" and margin > 1:
        own = cosine.gather(1, labels[:, None]).acos()
        assert (own > math.pi - margin).any()
        assert (own < math.pi - margin).any()


def test_the_package_gives_the_same():
    from pytorch_metric_learning.losses import ArcFaceLoss

    head, x, labels = case("arcface", 0.5)
    theirs = ArcFaceLoss(C, D, margin=math.degrees(0.5), scale=4.0).double()
    theirs.W.data.copy_(head.loss.W)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    head(one, labels)[0].backward()
    theirs(other, labels).backward()
    torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(head.loss.W.grad, theirs.W.grad)


@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_no_margin_is_normalised_softmax(name):
    head, x, labels = case(name, 0.0)
    plain = make_head("norm-softmax", D, C, logit_scale=4.0).double()
    plain.loss.W.data.copy_(head.loss.W)
    loss, other = head(x, labels), plain(x, labels)
    torch.testing.assert_close(loss[0], other[0])
    torch.testing.assert_close(loss[1], other[1])
    wanted = formula("cosface", x, head.loss.W, labels, 0.0, 4.0)
    torch.testing.assert_close(loss[0], wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["arcface", "cosface", "norm-softmax"])
def test_gradients_are_finite_at_every_angle(name, dtype):
    """Along and against the label's weight, exactly and nearly, where arc cosines are not."""
    head, _, _ = case(name, None, dtype=dtype)
    weight = head.loss.W.detach().t()
    labels = torch.arange(C).repeat(6)
    near = 1e-4 * torch.randn(C, D, dtype=dtype)
    x = torch.cat([weight, -weight, 3 * weight, weight + near, -weight + near, -weight / 7])
    x.requires_grad_()
    loss, _ = head(x, labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(head.loss.W.grad).all()
    # Against its weight an embedding is still drawn to it, where it is not exactly opposite.
    assert (x.grad[4 * C : 5 * C].norm(dim=1) > 0).all()


def test_the_logit_falls_with_the_angle():
    """Also beyond π - m: no angle is better than a smaller one."""
    head = make_head("arcface", 2, 3, margin=0.5, logit_scale=1.0).double()
    angles = torch.linspace(0, math.pi, 400, dtype=torch.float64)
    falling = head.loss.modify_cosine_of_target_classes(angles.cos())
    assert (falling.diff() < 0).all()


def test_half_types_are_widened():
    head, x, labels = case("arcface", 0.5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss, logits = head(x, labels)
    assert (loss.dtype, logits.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(loss, head(x, labels)[0])
    assert head(x.bfloat16(), labels)[0].dtype == torch.float32


def test_the_usual_scale():
    assert adacos_scale(30) == pytest.approx(math.sqrt(2) * math.log(29))
    assert make_head("cosface", D, 30).loss.scale == adacos_scale(30)
    assert make_head("arcface", D, 30).loss.margin == pytest.approx(0.5)
    with pytest.raises(ValueError, match="at least 3, got 2: give a logit_scale"):
        make_head("arcface", D, 2)
    make_head("arcface", D, 2, logit_scale=4.0)
    make_head("softmax", D, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "arcfaec"}, "did you mean 'arcface'"),
        ({"loss": "softmax", "margin": 0.1}, "margin is for arcface and cosface, not for softmax"),
        ({"loss": "softmax", "logit_scale": 4.0}, "scale is for losses of cosines"),
        ({"loss": "arcface", "margin": 28.6}, r"margin must be in \[0, 3.14\), got 28.6"),
        ({"loss": "cosface", "margin": -0.1}, r"margin must be in \[0, 2\), got -0.1"),
        ({"loss": "arcface", "logit_scale": 0.0}, "scale must be positive and finite, got 0"),
        ({"loss": "arcface", "logit_scale": float("inf")}, "scale must be positive and finite"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make_head(embedding_dim=D, num_classes=C, **settings)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(ImportError, match=r"'arcface' needs pytorch-metric-learning: pip install "
                       r"'polygraph-nn\[verify\]'"):  # fmt: skip
        make_head("arcface", D, C)
    make_head("softmax", D, C)
