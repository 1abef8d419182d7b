"""How a pair uses its non-local layers: what validations log, and that training does not notice."""

import math

import pytest
import torch
from support.tiny_gan import random_images, tiny_gan

from polygraph.tasks.gan.latent import latent_vectors
from polygraph.tasks.gan.nonlocal_use import use_of_pair
from polygraph.tasks.gan.pair import GanTask
from polygraph.tasks.gan.training import build_pair, fit_to_images, train_gan
from polygraph.train.checkpoint import load_checkpoint
from polygraph.train.distributed import make_fabric
from polygraph.train.log import read_log
from polygraph.train.loop import TrainingStopped

NAMES = {
    "nonlocal_ratio", "nonlocal_varying", "nonlocal_gradient", "local_gradient",
    "neighbor_distance", "neighbor_near", "neighbor_entropy",
}  # fmt: skip


def columns(folder):
    """The columns about layers of a log's last line."""
    record = read_log(folder / "log.jsonl")[-1]
    return {key: value for key, value in record.items() if key.endswith(")")}


def task_of(config, folder):
    data = random_images()
    config = fit_to_images(config, data)
    fabric = make_fabric(config.train)
    return GanTask(fabric, config.train, config.gan, *build_pair(config), data, folder)


@pytest.mark.parametrize(
    ("preset", "labels"),
    [
        ("small/both-edge-k8", ["generator 16x16", "generator 32x32", "critic 16x16"]),
        ("small/attention", ["generator 16x16", "generator 32x32"]),
        ("small/baseline", []),
    ],
)
def test_every_validation_logs_it(tmp_path, monkeypatch, preset, labels):
    """And the weights are those of a run that does not look."""
    config = tiny_gan(preset, steps=1)
    train_gan(config, tmp_path / "looked", dataset=random_images())
    found = columns(tmp_path / "looked")
    assert set(found) == {f"{name} ({label})" for name in NAMES for label in labels}
    assert all(math.isfinite(value) for value in found.values())
    monkeypatch.setattr("polygraph.tasks.gan.pair.use_of_pair", lambda *_, **__: [])
    train_gan(config, tmp_path / "not", dataset=random_images())
    assert columns(tmp_path / "not") == {}
    one, other = (
        load_checkpoint(tmp_path / name / "last.safetensors")[0]["modules"]
        for name in ("looked", "not")
    )
    for part, weights in one.items():
        assert all(torch.equal(weights[key], other[part][key]) for key in weights), part


def test_gradients_are_those_of_a_step(tmp_path):
    """Of the losses that train, in training mode; nothing of the pair changes."""
    task = task_of(tiny_gan("small/both-edge-k8"), tmp_path)
    task.training_step(0)
    before = {
        name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in task.modules.items()
    }
    old = [p.grad.clone() for p in task.generator.parameters()]
    random = torch.get_rng_state()
    uses = use_of_pair(
        task.generator, task.critic, task.average, task.config, task.dataset, batch_size=2, seed=5
    )
    assert torch.equal(torch.get_rng_state(), random)
    for name, module in task.modules.items():
        assert all(torch.equal(v, before[name][k]) for k, v in module.state_dict().items())
    assert all(map(torch.equal, old, [p.grad for p in task.generator.parameters()]))
    assert [use.network for use in uses] == ["generator", "generator", "critic"]
    task.generator.zero_grad()
    task.generator.train()
    (
        -task.critic(task.generator(latent_vectors(16, task.generator.config, 5)[:2])).mean()
    ).backward()
    layer = task.generator.get_submodule(uses[0].layer.name)
    assert uses[0].local_gradient == pytest.approx(float(layer.local.weight.grad.norm()), rel=1e-4)
    assert uses[0].nonlocal_gradient == pytest.approx(float(layer.lin.weight.grad.norm()), rel=1e-4)


def test_without_a_critic_there_are_no_gradients(tmp_path):
    task = task_of(tiny_gan("digits"), tmp_path)
    task.average.eval()
    (use,) = use_of_pair(
        task.generator, None, task.average, task.config, task.dataset, batch_size=2
    )
    assert use.nonlocal_gradient is None
    assert set(use.values()) == NAMES - {"nonlocal_gradient", "local_gradient"}
    assert set(use.summary()) >= {"network", "layer", "kind", "size", "chance_distance"}


def test_a_nan_at_a_validation_stops_the_run(tmp_path, monkeypatch):
    """With the sentence and the checkpoint of one within a step."""
    plain = GanTask.training_step

    def poisoned(self, step):
        found = plain(self, step)
        if step == 1:
            next(self.generator.parameters()).data.view(-1)[0] = math.nan
        return found

    monkeypatch.setattr(GanTask, "training_step", poisoned)
    config = tiny_gan("digits", steps=4, eval_every=2, checkpoint_every=1)
    with pytest.raises(TrainingStopped, match=r"not finite at step 2.*last.safetensors \(step 1\)"):
        train_gan(config, tmp_path, dataset=random_images())
