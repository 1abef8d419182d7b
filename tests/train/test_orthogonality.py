"""Penalties that make templates orthogonal: values, estimate, training, settings."""

import itertools
from dataclasses import replace

import pytest
import torch
from support.tiny_audio import tiny_audio
from support.tiny_images import tiny_images
from support.tiny_points import tiny_points
from torch import nn

from polygraph.models import SplineCNN, SplineCNNConfig
from polygraph.tasks.audio.arguments import parse_train_audio
from polygraph.tasks.audio.training import train_audio
from polygraph.tasks.images.arguments import parse_train_images
from polygraph.tasks.images.training import train_images
from polygraph.tasks.points.arguments import default_run, parse_train_points
from polygraph.tasks.points.training import train_points
from polygraph.tasks.verify.arguments import parse_train_verify
from polygraph.tasks.verify.heads import make_head
from polygraph.tasks.verify.learning import Learner, VerificationLoss
from polygraph.train.log import read_log
from polygraph.train.orthogonality import (
    KINDS,
    last_linear,
    mean_cosine,
    network_penalty,
    orthogonality_penalty,
    probe_penalty,
    templates,
)
from polygraph.train.supervised import ClassificationLoss


def smooth():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Softplus(), nn.Linear(6, 3)).double()


def test_the_penalty_is_that_of_the_paper():
    """Over ordered pairs of different rows."""
    rows = torch.randn(2, 4, 7, dtype=torch.float64)
    for found, w in zip(orthogonality_penalty(rows), rows, strict=True):
        wanted = sum((w[i] @ w[j]) ** 2 for i, j in itertools.permutations(range(4), 2))
        torch.testing.assert_close(found, wanted)
    unit = rows / rows.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(orthogonality_penalty(rows, unit=True), orthogonality_penalty(unit))
    assert orthogonality_penalty(torch.diag(torch.arange(3.0))) == 0
    with pytest.raises(ValueError, match=r"rows must have shape \[..., C, D\], got \[3\]"):
        orthogonality_penalty(torch.zeros(3))


def test_cosines_are_those_of_pairs():
    rows = torch.randn(2, 4, 7, dtype=torch.float64)
    for found, w in zip(mean_cosine(rows), rows, strict=True):
        pairs = itertools.combinations(w, 2)
        cosines = [torch.cosine_similarity(a, b, dim=0).abs() for a, b in pairs]
        torch.testing.assert_close(found, torch.stack(cosines).mean())
    assert mean_cosine(torch.diag(torch.arange(3.0))) == 0
    with pytest.raises(ValueError, match=r"with C >= 2, got \[1, 3\]"):
        mean_cosine(torch.zeros(1, 3))


def test_templates_are_the_jacobian():
    model, x = smooth(), torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    wanted = torch.vmap(torch.func.jacrev(model))(x)
    torch.testing.assert_close(templates(model(x), x), wanted)
    for fn in (templates, probe_penalty):
        with pytest.raises(ValueError, match=r"logits must have shape \[B, C\], got \[5\]"):
            fn(torch.zeros(5), x)


@pytest.mark.parametrize(("on", "unit"), [*((k, False) for k in KINDS), ("templates", True)])
def test_penalties_have_gradients_in_the_weights(on, unit):
    """Second derivatives against differences."""
    model, x = smooth(), torch.randn(3, 5, dtype=torch.float64)

    def penalty(*weights):
        torch.manual_seed(1)  # of the probes
        names = [name for name, _ in model.named_parameters()]
        with torch.nn.utils.stateless._reparametrize_module(
            model, dict(zip(names, weights, strict=True))
        ):
            inputs = x.clone().requires_grad_()
            return network_penalty(model, on, model(inputs), inputs, unit=unit)

    assert torch.autograd.gradcheck(penalty, tuple(model.parameters()))


def test_probes_are_unbiased(monkeypatch):
    """The mean over all signs of both vectors is the norm of all products."""
    model, x = smooth(), torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    signs = [torch.tensor(s).double() for s in itertools.product((0, 1), repeat=3)]
    logits, found = model(x), []
    for pair in itertools.product(signs, repeat=2):
        draws = iter(pair)

        def drawn(like, n, draws=draws):
            return next(draws).expand_as(like)

        monkeypatch.setattr(torch, "randint_like", drawn)
        found.append(probe_penalty(logits, x))
    A = templates(logits, x)
    wanted = (A @ A.mT).square().sum((1, 2))
    torch.testing.assert_close(torch.stack(found).mean(0), wanted)
    monkeypatch.undo()
    assert set((torch.randint_like(torch.zeros(99), 2) * 2 - 1).tolist()) == {-1, 1}


@pytest.mark.parametrize("on", KINDS)
def test_training_lowers_the_penalty(on):
    """Of a convolutional network with BatchNorm and maxima, through the loss of a classifier."""
    torch.manual_seed(0)
    model = SplineCNN(SplineCNNConfig(in_channels=1, size=12, num_classes=4)).double()
    loss = ClassificationLoss(model, orthogonality=100.0, on=on)
    assert loss.names == ("loss", "accuracy", "orthogonality")
    x, y = torch.randn(8, 1, 12, 12, dtype=torch.float64), torch.arange(8) % 4
    plain = ClassificationLoss(model)(x, y)
    assert len(plain) == 2
    first, _, penalty = loss(x, y)
    torch.testing.assert_close(first, plain[0] + 100 * penalty)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(12):
        optimizer.zero_grad()
        value, _, last = loss(x, y)
        value.backward()
        optimizer.step()
    assert last < penalty / 2


def test_other_last_layers_are_refused():
    with pytest.raises(ValueError, match="Conv2d has no linear layer whose rows"):
        last_linear(nn.Conv2d(1, 1, 1))
    loss = ClassificationLoss(nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (3, 2)), nn.AvgPool1d(2), nn.Flatten()), orthogonality=1)  # fmt: skip # noqa: E501
    with pytest.raises(ValueError, match="the last linear layer has 6 rows for 3 logits"):
        loss(torch.zeros(2, 4), torch.zeros(2).long())
    with pytest.raises(ValueError, match="orthogonality must be finite and at least 0, got -1"):
        ClassificationLoss(nn.Linear(2, 2), orthogonality=-1)
    with pytest.raises(ValueError, match="orthogonality_on must be one of weights, templates"):
        ClassificationLoss(nn.Linear(2, 2), on="rows")
    with pytest.raises(ValueError, match="orthogonality_unit needs the rows, which probes do not"):
        ClassificationLoss(nn.Linear(2, 2), on="probes", unit=True)
    with pytest.raises(ValueError, match="orthogonality_unit must be true or false, got 1"):
        ClassificationLoss(nn.Linear(2, 2), unit=1)


@pytest.mark.parametrize("on", KINDS)
def test_image_classifiers_train_with_it(tmp_path, on):
    """It is logged, and counts as a setting of the run."""
    plain = tiny_images(SplineCNNConfig(), log_every=1, steps=2)
    config = replace(plain, orthogonality=0.1, orthogonality_on=on, balanced=True)
    config = config if on == "probes" else replace(config, orthogonality_unit=True)
    assert config.digest() != plain.digest()
    assert not {"orthogonality", "balanced"} & set(plain.semantics())
    train_images(config, tmp_path / "run")
    records = [r for r in read_log(tmp_path / "run" / "log.jsonl") if "orthogonality" in r]
    assert [r["step"] for r in records] == [1, 2]
    assert all(r["orthogonality"] > 0 for r in records)


def test_point_classifiers_train_with_it(tmp_path):
    config = replace(tiny_points(steps=2, log_every=1), orthogonality=0.1)
    assert config.digest() != replace(config, orthogonality=0.0).digest()
    train_points(replace(config, orthogonality_on="probes"), tmp_path / "run")
    assert any("orthogonality" in r for r in read_log(tmp_path / "run" / "log.jsonl"))
    with pytest.raises(ValueError, match="orthogonality_on must be weights for task 'segment'"):
        replace(default_run("segment"), orthogonality=0.1, orthogonality_on="templates")


@pytest.mark.parametrize("loss", ["softmax", "arcface"])
@pytest.mark.parametrize("on", KINDS)
def test_embeddings_train_with_it(loss, on):
    """The head's rows, or its logits' templates; both have gradients in the network."""
    if loss == "arcface":
        pytest.importorskip("pytorch_metric_learning", reason="needs the extra [verify]")
    torch.manual_seed(0)
    learner = Learner(nn.Sequential(nn.Linear(5, 4), nn.Softplus()), make_head(loss, 4, 6))
    x, y = torch.randn(12, 5), torch.arange(12) % 6
    plain, accuracy = VerificationLoss(learner)(x, y)
    penal = VerificationLoss(learner, 10.0, on)
    torch.manual_seed(1)
    value, same, penalty = penal(x, y)
    assert same == accuracy
    torch.testing.assert_close(value, plain + 10 * penalty)
    at = x.clone().requires_grad_()
    torch.manual_seed(1)
    if on == "weights":
        rows = learner.head.linear.weight if loss == "softmax" else learner.head.loss.W.T
        wanted = orthogonality_penalty(rows)
    else:
        wanted = network_penalty(learner, on, learner.head.logits(learner.embedder(at)), at)
    torch.testing.assert_close(penalty, wanted.detach())
    assert penal.names[2] == "orthogonality"
    value.backward()
    assert all(p.grad.abs().max() > 0 for p in learner.parameters())


def test_sounds_train_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "cache"))
    plain = tiny_audio(steps=2, log_every=1)
    config = replace(plain, orthogonality=0.1, orthogonality_on="probes")
    assert config.digest() != plain.digest()
    assert "orthogonality" not in plain.semantics()
    train_audio(config, tmp_path / "run")
    assert any("orthogonality" in r for r in read_log(tmp_path / "run" / "log.jsonl"))


def test_the_command_line_takes_it():
    words = ["--orthogonality", "0.3", "--orthogonality-on", "probes", "--out", "run"]
    image, _, _ = parse_train_images(["--preset", "spline/large-cnn", *words])
    points, _, _ = parse_train_points(words)
    sounds, _, _ = parse_train_audio(words)
    faces, _, _ = parse_train_verify(words)
    for config in (image, points, sounds, faces):
        assert (config.orthogonality, config.orthogonality_on) == (0.3, "probes")
    assert image.model.body == "large"
    with pytest.raises(ValueError, match="orthogonality_on must be one of"):
        parse_train_images([*words, "--orthogonality-on", "rows"])
