"""Optimizers by name against PyTorch's; groups of weight decay; clipping; settings that are bad."""

import pytest
import torch
from torch import nn
from train.toy_task import train

from polygraph.nn.norm import SecondOrderNorm
from polygraph.train.config import TrainConfig
from polygraph.train.distributed import make_fabric
from polygraph.train.optimizer import descend, make_optimizer, parameter_groups


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))


def weights_after(optimizer_of):
    """Weights of the network after six steps on the same data."""
    net = network()
    optimizer = optimizer_of(net)
    for batch in torch.randn(6, 9, 5, generator=torch.Generator().manual_seed(1)):
        optimizer.zero_grad()
        net(batch).square().mean().backward()
        optimizer.step()
    return [p.detach() for p in net.parameters()]


PEERS = {  # name -> (our settings, PyTorch's class, its arguments)
    "adam": ({"weight_decay": 0.1}, torch.optim.Adam, {"weight_decay": 0.1}),
    "adamw": (
        {"optimizer": "adamw", "weight_decay": 0.1, "beta1": 0.5, "beta2": 0.9},
        torch.optim.AdamW,
        {"weight_decay": 0.1, "betas": (0.5, 0.9)},
    ),
    "sgd": ({"optimizer": "sgd", "weight_decay": 0.0}, torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (
        {"optimizer": "sgd", "momentum": 0.5, "nesterov": True, "weight_decay": 0.1},
        torch.optim.SGD,
        {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1},
    ),
    "no momentum": (
        {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.1},
        torch.optim.SGD,
        {"weight_decay": 0.1},
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_steps_are_those_of_pytorchs_optimizer(name):
    settings, peer, arguments = PEERS[name]
    config = TrainConfig(learning_rate=0.05, **settings)
    expected = weights_after(lambda net: peer(net.parameters(), lr=0.05, **arguments))
    plain = weights_after(lambda net: make_optimizer(config, net, fused=False))
    fused = weights_after(lambda net: make_optimizer(config, net))
    for a, b, c in zip(expected, plain, fused, strict=True):
        assert torch.equal(a, b)
        assert float((a - c).abs().max()) < 1e-5  # another rounding, in six steps of size 0.05
    other = weights_after(lambda net: peer(net.parameters(), lr=0.05))
    assert not all(torch.equal(a, b) for a, b in zip(expected, other, strict=True))


class Mixed(nn.Module):
    """Every kind of parameter that has a say in weight decay."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.conv = nn.Conv2d(2, 2, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(2), nn.LayerNorm([3, 4]), nn.GroupNorm(1, 2)])
        self.second = SecondOrderNorm(4, "vertex_rms", num_vertices=5)  # scale and shift [5, 4]
        self.alpha = nn.Parameter(torch.zeros(()))
        self.offsets = nn.Parameter(torch.zeros(2, 4))
        self.kappa_bias = nn.Parameter(torch.zeros(3, 1))
        self.tied = self.linear


def test_weight_decay_leaves_norms_and_biases_alone():
    net = Mixed()
    names = {parameter: name for name, parameter in net.named_parameters()}
    decayed, spared = parameter_groups(net, 0.1, decay_all=False)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert [names[p] for p in decayed["params"]] == ["linear.weight", "conv.weight"]
    assert len(spared["params"]) == len(names) - 2
    assert net.second.scale in set(spared["params"])
    (together,) = parameter_groups(net, 0.1)
    assert [names[p] for p in together["params"]] == list(names.values())
    assert len(parameter_groups(nn.LayerNorm(3), 0.1, decay_all=False)) == 1


def test_what_does_not_decay_stays():
    """With gradients of 0, weights shrink by (1 - rate · decay) and biases do not."""
    net = nn.Linear(3, 3)
    nn.init.ones_(net.weight)
    nn.init.ones_(net.bias)
    config = TrainConfig(
        optimizer="sgd", momentum=0.0, learning_rate=0.5, weight_decay=0.25, decay_all=False
    )
    optimizer = make_optimizer(config, net)
    (net(torch.zeros(1, 3)).sum() * 0).backward()
    optimizer.step()
    assert torch.equal(net.weight, torch.full((3, 3), 0.875))
    assert torch.equal(net.bias, torch.ones(3))


@pytest.mark.parametrize(
    ("clipping", "expected"),
    [
        ((None, None), [3.0, -4.0]),
        ((2.5, None), [1.5, -2.0]),
        ((10.0, None), [3.0, -4.0]),
        ((None, 3.5), [3.0, -3.5]),
    ],
)
def test_clipping(clipping, expected):
    """Of a gradient (3, -4): norm 5, largest component 4. SGD moves by it at rate 1."""
    config = TrainConfig(accelerator="cpu")
    net = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(net.weight)
    fabric = make_fabric(config)
    module, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), lr=1.0))
    loss = module(torch.tensor([[-3.0, 4.0]])).sum()
    descend(fabric, module, optimizer, loss, *clipping)
    assert net.weight[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_run_clips_by_value(tmp_path):
    """All weights move by at most rate · value in each step of plain SGD."""
    plain = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    settings = {**plain, "steps": 1, "learning_rate": 0.1}
    nets = [
        train(tmp_path / str(clip), clip_value=clip, **settings)[1].modules["net"]
        for clip in (None, 1e-3)
    ]
    torch.manual_seed(0)
    start = nn.Linear(6, 32).weight
    free, clipped = (float((net[0].weight - start).detach().abs().max()) for net in nets)
    assert free > 2e-4
    assert 0.5e-4 < clipped < 1.1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optimizer": "sdg"},
            "optimizer must be one of adam, adamw, sgd, got 'sdg'; did you mean",
        ),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite, got inf"),
        ({"learning_rate": None}, "learning_rate must be positive and finite, got None"),
        ({"weight_decay": float("nan")}, "weight_decay must be 0 or more and finite, got nan"),
        ({"optimizer": "sgd", "momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"beta2": -0.1}, r"beta2 must be in \[0, 1\), got -0.1"),
        ({"beta1": True}, r"beta1 must be in \[0, 1\), got True"),
        ({"clip_value": 0}, "clip_value must be positive and finite, got 0"),
        ({"clip_value": 1.0, "grad_clip": 2.0}, "exclude each other, got 2.0 and 1.0"),
        ({"momentum": 0.5}, "momentum is for optimizer sgd, got 0.5 with optimizer adam"),
        ({"optimizer": "sgd", "beta1": 0.5}, "beta1 is for optimizer adam or adamw, got 0.5"),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0}, "nesterov needs a momentum"),
        ({"decay_all": 0}, "decay_all must be true or false, got 0"),
        ({"precision": "bf16"}, "precision must be one of .*; did you mean 'bf16-mixed'"),
        ({"accelerator": "gpu"}, "accelerator must be one of auto, cpu, cuda, got 'gpu'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=f"^train: .*{message}"):
        TrainConfig(**settings)


def test_settings_with_their_defaults_do_not_change_what_a_run_is():
    """Checkpoints and hashes of versions without these settings stay valid."""
    assert set(TrainConfig().semantics()) == {
        "batch_size", "learning_rate", "schedule", "lr_decay", "weight_decay", "grad_clip", "seed",
        "precision",
    }  # fmt: skip
    changed = TrainConfig(optimizer="sgd", momentum=0.5).semantics()
    assert (changed["optimizer"], changed["momentum"]) == ("sgd", 0.5)
