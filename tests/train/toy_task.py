"""A tiny task (dropout, BatchNorm, noise) and a program that trains it, to be killed."""

import sys

import numpy as np
import torch
from torch import nn

from polygraph.train.config import TrainConfig, sample_indices
from polygraph.train.distributed import make_fabric, process_group
from polygraph.train.loop import Task, Trainer
from polygraph.train.optimizer import descend, make_optimizer

SAMPLES = 40


class ToyTask(Task):
    score = "val_loss"
    num_samples = SAMPLES

    def __init__(self, fabric, config, poison=None):
        torch.manual_seed(config.seed)
        net = nn.Sequential(
            nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1)
        )
        optimizer = make_optimizer(config, net)
        self.modules, self.optimizers = {"net": net}, {"net": optimizer}
        self.fabric, self.config, self.poison = fabric, config, poison or {}
        self.net, self.optimizer = fabric.setup(net, optimizer)
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(SAMPLES, 6, generator=generator).to(fabric.device)
        self.y = self.x.square().sum(dim=1, keepdim=True)
        self.seen = []

    def training_step(self, step):
        indices = sample_indices(self.config.seed, SAMPLES, self.config.batch_size, step)
        self.seen.append(indices)
        noise = 0.01 * torch.randn_like(self.y[indices]) + 0.01 * float(np.random.rand())  # noqa: NPY002
        loss = (self.net(self.x[indices]) - self.y[indices] - noise).square().mean()
        if step in self.poison:
            loss = self.poison[step](loss)
        clipping = self.config.grad_clip, self.config.clip_value
        descend(self.fabric, self.net, self.optimizer, loss, *clipping)
        return {"loss": loss}

    def validate(self):
        self.net.eval()
        with torch.no_grad():
            loss = float((self.net(self.x) - self.y).square().mean())
        self.net.train()
        return {"val_loss": loss}


def train(folder, *, resume=False, poison=None, fabric=None, **settings):
    """Train the toy task, with another Fabric if one is given; returns (trainer, task)."""
    settings = {"steps": 60, "batch_size": 8, "eval_every": 6, "checkpoint_every": 4, **settings}
    config = TrainConfig(**{"accelerator": "cpu", "log_every": 5, **settings})
    fabric = fabric or make_fabric(config)
    with process_group(fabric):
        task = ToyTask(fabric, config, poison)
        trainer = Trainer(task, config, fabric, folder, identity={"model": {"width": 32}})
        trainer.run(resume=resume)
    return trainer, task


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(sys.argv[1], resume=True, steps=int(sys.argv[2]))
