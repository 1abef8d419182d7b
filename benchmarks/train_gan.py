"""What a step of adversarial training costs, preset by preset, with our graph layers and without.

The peer is the same network with each graph layer written with PyTorch and PyG: distances by a
matrix product, masked and sorted by topk; EdgeConv and NNConv of PyG (gathers, a matrix for every
edge, a scatter); the lightweight layer, which PyG does not have, edge by edge in PyTorch. Same
weights: loss and gradients of both are compared in float64 before anything is timed.

    python benchmarks/train_gan.py time --out gan_time.json
    python benchmarks/train_gan.py memory --out gan_memory.json

A critic's step makes images without a gradient and descends on the loss with its penalty; a
generator's step draws images and descends through the critic. A step of training is as many of the
first as the preset says, and one of the second. All contenders take turns, round by round.

Memory is the high-water mark of a fresh process (`harness.resident`) over one critic's and one
generator's step, beyond what weights, gradients and optimizers hold. Where a peer needs more than
--limit-mib of address space it ends there, and the row says so.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from harness import MIB, provenance, relative_error, resident, summary
from torch import Tensor, nn
from torch.nn import functional

from polygraph.data import ImageDataConfig, open_images
from polygraph.models.images.families import build
from polygraph.nn import NonLocalGraphConv2d
from polygraph.tasks.gan.losses import CriticLoss, GanConfig, GeneratorLoss
from polygraph.tasks.gan.pair import GanTask
from polygraph.tasks.gan.training import build_pair, fit_to_images, gan_run_config
from polygraph.train.config import seed_step
from polygraph.train.distributed import make_fabric

OURS, PEER = "polygraph", "pytorch + pyg"
BASELINE = "baseline"
GRAPHS = [f"{graph}-k{k}" for graph in ("edge", "ecc", "light") for k in (8, 16, 32)]
CRITICS = [f"critic-{graph}-k8" for graph in ("edge", "ecc", "light")]
VARIANTS = [BASELINE, *GRAPHS, "attention", *CRITICS, "critic-attention"]
IMAGES = 700  # of the built-in digits: enough for batches


class PeerGraphConv(nn.Module):
    """`NonLocalGraphConv2d` with its weights, from PyTorch and PyG."""

    def __init__(self, layer: NonLocalGraphConv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, D, H, W]``."""
        layer, (batch, _, height, width) = self.layer, x.shape
        edge_index = self.edges(x.detach())
        if layer.coordinates:
            x = torch.cat([x, layer.pixel_coordinates(x)], 1)
        local = layer.local(x)
        nodes = x.permute(0, 2, 3, 1).flatten(0, 2)
        found = self.convolve(nodes, edge_index)
        found = found.view(batch, height, width, -1).permute(0, 3, 1, 2)
        bias: Any = layer.bias
        return (found + local) / 2 + bias[:, None, None]

    def edges(self, x: Tensor) -> Tensor:
        """``[2, E]``: the k nearest pixels outside of the 3 x 3 window."""
        batch, _, height, width = x.shape
        pixels = height * width
        flat = x.flatten(2).transpose(1, 2)
        square = flat.square().sum(-1)
        distance = torch.baddbmm(square[:, None], flat, flat.transpose(1, 2), alpha=-2)
        place = torch.arange(pixels, device=x.device)
        row, column = place // width, place % width
        near = ((row[:, None] - row).abs() <= 1) & ((column[:, None] - column).abs() <= 1)
        distance.masked_fill_(near, torch.inf)
        source = distance.topk(self.layer.k, largest=False).indices
        source = source + pixels * torch.arange(batch, device=x.device)[:, None, None]
        target = torch.arange(batch * pixels, device=x.device).repeat_interleave(self.layer.k)
        return torch.stack([source.flatten(), target])

    def convolve(self, nodes: Tensor, edge_index: Tensor) -> Tensor:
        """The mean over neighbours, ``[N, D]``."""
        from torch_geometric.nn import EdgeConv, NNConv

        layer = self.layer
        if layer.kind.startswith("edge"):
            aggr = layer.kind.removeprefix("edge-")
            edge_conv = EdgeConv(nn.Identity(), aggr=aggr)  # it would initialise lin anew
            edge_conv.nn = nn.Sequential(layer.lin, *filter(None, [layer.activation]))
            return edge_conv(nodes, edge_index)
        source, target = edge_index
        hidden: Any = layer.hidden
        phi = functional.leaky_relu(hidden.lin(nodes[source] - nodes[target]), hidden.slope)
        if layer.kind == "light":
            return self.light(nodes, source, target, phi)
        weight: Any = layer.weight
        channels, features = weight.shape[1:]
        nn_conv = NNConv(
            channels, features, nn.Identity(), aggr="mean", root_weight=False, bias=False
        )
        matrices = torch.addmm(weight[-1].flatten(), phi, weight[:-1].flatten(1))
        return nn_conv(nodes, edge_index, matrices)

    def light(self, nodes: Tensor, source: Tensor, target: Tensor, phi: Tensor) -> Tensor:
        """Factors of every edge's matrix, then their products with its source."""
        left, right, kappa = self.layer.filter()  # [R, D, H + 1], [R, C, H + 1], [R, H + 1]
        phi = functional.pad(phi, (0, 1), value=1.0)
        of_left, of_right = (
            (phi @ part.flatten(0, 1).T).view(len(phi), *part.shape[:2]) for part in (left, right)
        )
        inner = (of_right @ nodes[source][:, :, None]).squeeze(2) * (phi @ kappa.T)
        messages = (inner[:, None] @ of_left).squeeze(1)
        out = messages.new_zeros(len(nodes), messages.shape[1])
        return out.index_add(0, target, messages) / self.layer.k


def to_peer(module: nn.Module) -> nn.Module:
    """The same network on `PeerGraphConv`, in place."""
    for name, child in list(module.named_modules()):
        if isinstance(child, NonLocalGraphConv2d):
            module.set_submodule(name, PeerGraphConv(child))
    return module


def has_graphs(name: str) -> bool:
    """Whether a preset has layers for which there is a peer."""
    return name in GRAPHS or name in CRITICS


# ---- values ----


def check(preset: str) -> float:
    """Largest error of both losses and their gradients, ours against the peer, in float64."""
    config = gan_run_config(preset)
    torch.manual_seed(0)
    ours = [build(config.generator).double(), build(config.critic).double()]
    peer = [to_peer(copy.deepcopy(module)) for module in ours]
    z = torch.randn(2, config.generator.latent_channels, dtype=torch.float64)
    real = torch.rand(2, config.critic.in_channels, 32, 32, dtype=torch.float64) * 2 - 1
    found = []
    for generator, critic in (ours, peer):
        fake = generator(z).detach()
        mixed = torch.lerp(fake, real, 0.3).requires_grad_()
        of_critic, _, _ = CriticLoss(critic, GanConfig())(real, fake, mixed)
        of_generator = GeneratorLoss(generator, critic, GanConfig())(z)
        weights = list(critic.parameters()), list(generator.parameters())
        gradients = torch.autograd.grad(of_critic, weights[0], allow_unused=True)
        gradients += torch.autograd.grad(of_generator, weights[1])
        found.append([of_critic, of_generator, *(g for g in gradients if g is not None)])
    # A gradient that is zero but for rounding has no size of its own to be compared with.
    pairs = [(a.detach(), b.detach()) for a, b in zip(*found, strict=True)]
    errors = [relative_error(a, b) for a, b in pairs if float(b.abs().max()) > 1e-9]
    if max(errors) > 1e-7:
        raise SystemExit(f"{preset}: ours and the peer differ, {max(errors):.1e}")
    return max(errors)


# ---- one contender ----


class Contender:
    """A preset's networks in training."""

    def __init__(self, preset: str, library: str, options: argparse.Namespace, batch: int) -> None:
        settings = {"batch_size": batch, "accelerator": options.device, "steps": 1000}
        config = gan_run_config(preset, num_threads=options.threads, **settings)
        config = replace(config, gan=replace(config.gan, generator_batch=None))
        self.critic_steps = config.gan.critic_steps
        data = ImageDataConfig(num_images=IMAGES, channels=options.channels)
        dataset = open_images(data)
        config = fit_to_images(config, dataset)
        generator, critic = build_pair(config)
        if library == PEER:
            generator, critic = to_peer(generator), to_peer(critic)
        with tempfile.TemporaryDirectory() as folder:
            fabric = make_fabric(config.train)
            self.task = GanTask(
                fabric, config.train, config.gan, generator, critic, dataset, folder
            )
        self.cuda = fabric.device.type == "cuda"
        self.samples: dict[str, list[float]] = {"critic": [], "generator": []}

    def turn(self, number: int, *, timed: bool = True) -> None:
        """A step of the critic and one of the generator."""
        seed_step(0, number)
        for name, step in (
            ("critic", lambda: self.task.critic_step(number)),
            ("generator", self.task.generator_step),
        ):
            self.wait()
            start = time.perf_counter()
            value = step()
            self.wait()
            if timed:
                self.samples[name].append(time.perf_counter() - start)
            if not bool(value.isfinite().all()):
                raise SystemExit(f"a loss of the {name} is {value.tolist()}")

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def steps(self) -> list[float]:
        """Seconds of whole steps of training, round by round."""
        pairs = zip(self.samples["critic"], self.samples["generator"], strict=True)
        return [self.critic_steps * critic + generator for critic, generator in pairs]


def pairs_of(options: argparse.Namespace) -> list[tuple[str, str]]:
    """(variant, library) of all contenders."""
    found = []
    for variant in options.only or VARIANTS:
        found.append((variant, OURS))
        if has_graphs(variant) and variant not in options.without_peer:
            found.append((variant, PEER))
    return found


# ---- time ----


def measure_time(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per contender; all take turns."""
    errors = {
        variant: check(f"{options.family}/{variant}")
        for variant, library in pairs_of(options)
        if library == PEER
    }
    contenders = {
        pair: Contender(f"{options.family}/{pair[0]}", pair[1], options, options.batch_size)
        for pair in pairs_of(options)
    }
    for contender in contenders.values():
        contender.turn(0, timed=False)
    for number in range(1, options.rounds + 1):
        for contender in contenders.values():
            contender.turn(number)
    rows = []
    base = contenders.get((BASELINE, OURS))
    for (variant, library), contender in contenders.items():
        row: dict[str, Any] = {
            "variant": variant,
            "library": library,
            "critic_steps": contender.critic_steps,
            "rounds": options.rounds,
            "step_seconds": summary(contender.steps()),
        }
        for name, values in contender.samples.items():
            row[f"{name}_step_seconds"] = summary(values)
        for label, other in (("baseline", base), (OURS, contenders[variant, OURS])):
            if other is not None and other is not contender:
                both = zip(contender.steps(), other.steps(), strict=True)
                row[f"step / {label}"] = summary([one / two for one, two in both])
        if library == PEER:
            row["error"] = errors[variant]
        rows.append(row)
    return rows


# ---- memory ----


def peak_mib(options: argparse.Namespace) -> float:
    """Of this process, in which nothing else was done: one turn after one on two images."""
    variant, library = options.one
    preset = f"{options.family}/{variant}"
    if options.limit_mib:
        limit = options.limit_mib * MIB
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    contender = Contender(preset, library, options, options.batch_size)
    held = contender.task.batches
    contender.task.batches = lambda number: held(number)[:2]
    size, contender.task._generator_batch = contender.task._generator_batch, 2
    contender.turn(0)  # loads the code, starts the threads, makes gradients and optimizers
    contender.task.batches, contender.task._generator_batch = held, size
    gc.collect()
    if contender.cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contender.turn(1)
        return (torch.cuda.max_memory_allocated() - before) / MIB
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    contender.turn(1)
    return (resident("VmHWM") - before) / MIB


def measure_memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per contender, each from a process of its own."""
    rows = []
    for variant, library in pairs_of(options):
        command = [sys.executable, sys.argv[0], "memory", "--one", variant, library]
        for name in ("family", "batch_size", "threads", "device", "channels", "limit_mib"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": str(options.threads)}
        run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
        row: dict[str, Any] = {"variant": variant, "library": library, "peak_mib": None}
        if run.returncode == 0:
            row["peak_mib"] = float(run.stdout.split()[-1])
        elif any(
            w in run.stderr for w in ("can't allocate memory", "MemoryError", "out of memory")
        ):
            row["failed"] = f"needs more than {options.limit_mib} MiB of address space"
        else:
            raise SystemExit(run.stderr)
        print(f"{variant:18} {library:14} {row['peak_mib'] or row.get('failed')}", flush=True)
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """A line per contender."""
    for row in rows:
        ratios = [
            f"{row[key]['median']:.2f} {key[7:]}"
            for key in ("step / baseline", f"step / {OURS}")
            if key in row
        ]
        parts = [
            f"{1000 * row[f'{name}_seconds']['median']:8.0f}"
            for name in ("step", "critic_step", "generator_step")
        ]
        print(f"{row['variant']:18} {row['library']:14} {' '.join(parts)} ms  {', '.join(ratios)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("time", "memory"))
    parser.add_argument("--family", choices=("small", "thesis"), default="small")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1, help="of the images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--without-peer", nargs="*", default=[], metavar="VARIANT")
    parser.add_argument("--limit-mib", type=int, default=0, help="address space; 0: no limit")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(peak_mib(options))
        return
    rows = measure_time(options) if options.what == "time" else measure_memory(options)
    common = {
        "benchmark": f"train_gan {options.what}",
        "family": options.family,
        "batch_size": options.batch_size,
        "channels": options.channels,
        **provenance(options.device),
    }
    if options.what == "time":
        show(rows)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps([row | common for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
