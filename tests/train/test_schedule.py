"""Learning rates against PyTorch's schedulers; what the plateau remembers; bad settings."""

import math

import pytest
import torch
from torch.optim import lr_scheduler

from polygraph.train.config import TrainConfig
from polygraph.train.schedule import Schedule, dead_from, warmup_at

SAMPLES, BATCH, STEPS = 40, 8, 30  # five steps are an epoch


def config(**settings):
    return TrainConfig(**{"steps": STEPS, "batch_size": BATCH, "learning_rate": 0.3, **settings})


def rates(**settings):
    schedule = Schedule(config(**settings), SAMPLES)
    return [schedule.rate(step) for step in range(STEPS)]


def peer(make, optimizer=None):
    """The rates of one of PyTorch's schedulers, and the momenta, over as many steps."""
    optimizer = optimizer or torch.optim.SGD([torch.zeros(1)], lr=0.3, momentum=0.9)
    scheduler, found, momenta = make(optimizer), [], []
    for _ in range(STEPS):
        group = optimizer.param_groups[0]
        found.append(group["lr"])
        momenta.append(group["betas"][0] if "betas" in group else group["momentum"])
        optimizer.step()
        scheduler.step()
    return found, momenta


def linear_warmup(optimizer, steps):
    return lr_scheduler.LinearLR(optimizer, 1 / steps, total_iters=steps - 1)


PEERS = {
    "cosine": (
        {"schedule": "cosine", "min_learning_rate": 0.01},
        lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.01),
    ),
    "linear": ({"schedule": "linear"}, lambda o: lr_scheduler.LinearLR(o, 1, 0, STEPS)),
    "constant": ({"schedule": "constant"}, lambda o: lr_scheduler.ConstantLR(o, 1)),
    "published": (
        {"schedule": "published", "lr_decay": 0.5},
        lambda o: lr_scheduler.StepLR(o, 5, 0.5),
    ),
    "multistep": (
        {"schedule": "multistep", "milestones": [2, 3.2, 5], "lr_factor": 0.2},
        lambda o: lr_scheduler.MultiStepLR(o, [10, 16, 25], 0.2),
    ),
    "multistep, warmed up": (
        {"schedule": "multistep", "milestones": [1, 4], "warmup_epochs": 2},
        lambda o: lr_scheduler.ChainedScheduler(
            [linear_warmup(o, 10), lr_scheduler.MultiStepLR(o, [5, 20])]
        ),
    ),
    "cosine, warmed up": (
        {"schedule": "cosine", "warmup_epochs": 0.6},
        lambda o: lr_scheduler.ChainedScheduler(
            [linear_warmup(o, 3), lr_scheduler.CosineAnnealingLR(o, STEPS)]
        ),
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_rates_are_those_of_pytorchs_scheduler(name):
    settings, make = PEERS[name]
    found = rates(**settings)
    # PyTorch multiplies from step to step: up to 30 roundings of 2^-53, and of the cosine's zeros.
    assert found == pytest.approx(peer(make)[0], rel=1e-12, abs=1e-15)
    assert found == [config(**settings).learning_rate_at(step, SAMPLES) for step in range(STEPS)]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("cycles", [True, False])
def test_one_cycle_is_pytorchs(kind, cycles):
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {"betas": (0.9, 0.999)}
    expected = peer(
        lambda o: lr_scheduler.OneCycleLR(
            o, 0.3, total_steps=STEPS + 1, pct_start=0.4, cycle_momentum=cycles
        ),
        kind([torch.zeros(1)], lr=0.3, **settings),
    )
    name = "sgd" if kind is torch.optim.SGD else "adamw"
    ours = config(
        schedule="onecycle",
        optimizer=name,
        steps=STEPS + 1,
        onecycle_rise=0.4,
        cycle_momentum=cycles,
    )
    schedule, optimizer = Schedule(ours, SAMPLES), kind([torch.zeros(1)], lr=0.1, **settings)
    found, momenta = [], []
    for step in range(STEPS):
        schedule.apply([optimizer], step)
        group = optimizer.param_groups[0]
        found.append(group["lr"])
        momenta.append(group["betas"][0] if "betas" in group else group["momentum"])
    assert (found, momenta) == expected
    assert [schedule.rate(step) for step in (7, 3)] == [found[7], found[3]]  # in any order
    if cycles:
        assert min(momenta) == pytest.approx(0.85, abs=0.01)


SCORES = [5.0, 4.0, 4.0, 4.5, 4.0, 3.0, 3.0, 3.0, 3.0, math.nan, 3.1, 2.9]


def test_plateau_is_pytorchs():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2, min_lr=0.1)
    settings = {"schedule": "plateau", "patience": 2, "lr_factor": 0.5, "min_learning_rate": 0.1}
    schedule = Schedule(config(**settings), SAMPLES)
    expected, found = [], []
    for step, score in enumerate(SCORES):
        scheduler.step(score)
        schedule.validated(score)
        expected.append(optimizer.param_groups[0]["lr"])
        found.append(schedule.rate(step))
    assert found == expected
    assert sorted(set(found)) == [0.1, 0.15, 0.3]


def test_plateau_goes_on_from_its_state():
    settings = {"schedule": "plateau", "patience": 1, "warmup_epochs": 1}
    whole, parts = (Schedule(config(**settings), SAMPLES) for _ in range(2))
    for step, score in enumerate(SCORES):
        stored, parts = parts.state_dict(), Schedule(config(**settings), SAMPLES)
        parts.load_state_dict(stored)
        whole.validated(score)
        parts.validated(score)
        assert whole.rate(step) == parts.rate(step)
        assert whole.state_dict() == parts.state_dict()
    assert whole.state_dict()["rate"] == pytest.approx(0.3 * 1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"rate": 0.4}, {"rate": 0.0}, {"rate": "x"}, {"best": None}, {"best": math.nan},
        {"num_bad_epochs": 11}, {"num_bad_epochs": -1}, {"num_bad_epochs": 0.5}, {"other": 1},
    ],
)  # fmt: skip
def test_states_that_are_damaged(change):
    schedule = Schedule(config(schedule="plateau"), SAMPLES)
    good = schedule.state_dict()
    schedule.load_state_dict(good)
    with pytest.raises(ValueError, match=r"plateau has|no rate, best score and patience"):
        schedule.load_state_dict({**good, **change})
    with pytest.raises(ValueError, match="the plateau has"):
        schedule.load_state_dict(None)


def test_warm_up_rises_in_equal_steps():
    ours = config(warmup_epochs=0.8)
    assert [warmup_at(ours, step, SAMPLES) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert warmup_at(config(), 0, SAMPLES) == 1.0


def test_each_optimizer_takes_its_share():
    pair = [torch.optim.SGD([torch.zeros(1)], lr=1.0) for _ in range(2)]
    pair[1].param_groups[0]["rate_scale"] = 4.0
    Schedule(config(schedule="constant"), SAMPLES).apply(pair, 3)
    assert [o.param_groups[0]["lr"] for o in pair] == [0.3, 1.2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosin"}, "schedule must be one of .*, got 'cosin'; did you mean 'cosine'?"),
        ({"schedule": "multistep"}, "milestones must name at least one epoch"),
        ({"schedule": "multistep", "milestones": [3, 2]}, "must be positive epochs that rise"),
        ({"schedule": "multistep", "milestones": [0]}, "must be positive epochs that rise"),
        ({"schedule": "multistep", "milestones": [math.nan]}, "must be positive epochs that rise"),
        ({"schedule": "multistep", "milestones": 40}, "must be positive epochs that rise, got 40"),
        ({"milestones": [3]}, r"milestones is for schedule multistep, got \(3.0,\) with schedule"),
        ({"schedule": "plateau", "patience": -1}, "patience must be at least 0, got -1"),
        ({"schedule": "plateau", "lr_factor": 1.0}, r"lr_factor must be in \(0, 1\), got 1.0"),
        ({"patience": 3}, "patience is for schedule plateau, got 3 with schedule published"),
        ({"lr_decay": 0}, "lr_decay must be positive and finite, got 0"),
        ({"warmup_epochs": -1}, "warmup_epochs must be 0 or more and finite, got -1"),
        ({"schedule": "onecycle", "warmup_epochs": 1}, "onecycle has its own warm-up"),
        ({"schedule": "onecycle", "onecycle_rise": 0}, r"onecycle_rise must be in \(0, 1\), got 0"),
        ({"schedule": "onecycle", "beta1": 0.5}, "beta1 goes from 0.95 to 0.85 and back"),
        ({"schedule": "cosine", "min_learning_rate": 0.4}, "at most learning_rate, 0.3, got 0.4"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=f"^train: .*{message}"):
        config(**settings)


def test_what_a_schedule_cannot_do():
    with pytest.raises(ValueError, match=r"more than one step, got 0\.3 of 3"):
        Schedule(config(schedule="onecycle", steps=3), SAMPLES)
    for name in ("plateau", "onecycle"):
        with pytest.raises(ValueError, match=f"rate of schedule {name} is its Schedule's to say"):
            config(schedule=name).learning_rate_at(0, SAMPLES)


def test_what_may_be_prolonged():
    """Where the number of steps, or that between validations, decides, it is part of the run."""
    for name, prolonged in (("multistep", True), ("plateau", True), ("onecycle", False)):
        more = {"milestones": [2]} if name == "multistep" else {}
        one, other = (
            config(schedule=name, eval_every=5, steps=steps, **more).semantics()
            for steps in (20, 30)
        )
        assert (one == other) == prolonged
    one, other = (config(schedule="plateau", eval_every=e).semantics() for e in (5, 6))
    assert one != other
    assert "length" in config(schedule="plateau").semantics()


@pytest.mark.parametrize(
    ("settings", "samples", "dead"),
    [
        ({"steps": 6000}, 54, 1550),  # 459 epochs of 54 / 16 steps: 0.99^459 is below 0.01
        ({"epochs": 300}, 1600, None),  # as published
        ({"steps": 6000, "schedule": "cosine"}, 54, None),  # by design
        ({"steps": 100, "batch_size": 1, "schedule": "multistep", "milestones": [1, 2, 3]}, 10, 30),
    ],
)
def test_a_rate_that_will_die_is_known_before(settings, samples, dead):
    config = TrainConfig(**settings)
    total = config.total_steps(samples)
    assert dead_from(config, samples, total) == dead
    if dead is not None:
        rates = [config.learning_rate_at(step, samples) for step in (dead - 1, dead)]
        assert rates[1] < 0.01 * config.learning_rate <= rates[0]
