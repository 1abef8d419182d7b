"""Training a pair: every preset, resumed runs, divergence, schedules, averages, compiled steps."""

import functools
import math
import re
from dataclasses import replace

import pytest
import torch
from support.tiny_gan import (
    networks,
    optimization,
    presets,
    random_images,
    tiny_gan,
    tiny_networks,
)
from torch._subclasses.fake_tensor import FakeTensorMode

from polygraph.models.images.families import build
from polygraph.tasks.gan.checkpoint import load_critic, load_generator
from polygraph.tasks.gan.pair import (
    GanTask,
    generate,
    latent_vectors,
    update_average,
)
from polygraph.tasks.gan.presets import GAN_PRESETS
from polygraph.tasks.gan.run import load_run
from polygraph.tasks.gan.training import build_pair, fit_to_images, train_gan
from polygraph.train.checkpoint import CheckpointError, load_checkpoint
from polygraph.train.config import sample_indices
from polygraph.train.distributed import make_fabric
from polygraph.train.log import read_log
from polygraph.train.loop import TrainingStopped

#: one of every loss, optimizer and kind of state: graphs, batch and spectral normalisation
VARIED = (
    "digits",
    "small/critic-light-k8",
    "thesis/ecc-k8",
    "pi/sngan-ncp",
    "pi/dcgan",
    "pi/progan",
    "pi/ncp",
)


def state(folder, name="last.safetensors"):
    return load_checkpoint(folder / name)[0]


def same(one, two):
    """Whether two trees hold the same bits."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def log(folder):
    """The lines of a log, without times."""
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "time")}
        for record in read_log(folder / "log.jsonl")
    ]


def task_of(config, folder, dataset=None, **settings):
    dataset = dataset or random_images()
    config = fit_to_images(config, dataset)
    fabric = make_fabric(config.train)
    return GanTask(fabric, config.train, config.gan, *build_pair(config), dataset, folder)


@pytest.mark.parametrize("name", presets(tiny_networks, optimization))
def test_two_steps_of_every_preset(tmp_path, name):
    """All weights move, all values are finite; in colour and in grey by turns."""
    channels = (1, 3)[len(name) % 2]
    config = tiny_gan(name)
    images = random_images(channels, size=config.data.size)
    result = train_gan(config, tmp_path, dataset=images)
    assert (result["steps"], result["best_step"]) == (2, None)
    pair = dict(
        zip(
            ("generator", "critic"),
            build_pair(fit_to_images(config, images)),
            strict=True,
        )
    )
    found = state(tmp_path)["modules"]
    for kind, module in pair.items():
        for key, start in module.named_parameters():
            if kind == "critic" and key.endswith("bias") and config.gan.loss != "non-saturating":
                continue  # what it adds to real images it may add to generated ones
            if "progan" in name and re.match(r"(in|out)puts\.[012]\.", key):
                continue  # of the sizes that were grown out of
            if not start.numel():
                continue  # the constants of a polynomial of order 1
            assert not torch.equal(start, found[kind][key]), (kind, key)
    for load, weights in ((load_generator, "average"), (load_critic, "critic")):
        loaded, _ = load(tmp_path / "last.safetensors")
        assert set(loaded.state_dict()) == set(found[weights])
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, found[weights][key]), (weights, key)
    records = log(tmp_path)
    values = [v for record in records for v in record.values() if isinstance(v, float)]
    assert all(map(math.isfinite, values))
    assert ("penalty" in records[0]) == (config.gan.loss == "wgan-gp")
    for folder in ("samples", "interpolations"):
        assert (tmp_path / folder / "0000002.png").is_file()


@pytest.mark.parametrize("name", presets(networks))
def test_presets_at_their_width(name):
    """Generator and critic fit together; no memory is taken."""
    preset = GAN_PRESETS[name]
    with FakeTensorMode():
        generator, critic = build(preset.generator), build(preset.critic)
        z = torch.randn(2, preset.generator.latent_channels)
        images = generator(z)
        size = preset.critic.size
        assert images.shape == (2, 3, size, size)
        assert critic(images).shape == (2,)


@pytest.mark.parametrize("name", VARIED)
def test_resume_ends_with_the_same_bits(tmp_path, monkeypatch, name):
    """Stopped within the fifth step, after a checkpoint at the third."""
    pair = {"grow_steps": 5} if name == "pi/progan" else {}
    config = tiny_gan(name, pair, steps=6, checkpoint_every=3, eval_every=2)
    data = random_images()
    train_gan(config, tmp_path / "whole", dataset=data)
    plain = GanTask.training_step

    def killed(self, step):
        if step == 4:
            self.generator.input.weight.data.zero_()  # nothing of this may stay
            raise KeyboardInterrupt
        return plain(self, step)

    monkeypatch.setattr(GanTask, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train_gan(config, tmp_path / "parts", dataset=data)
    monkeypatch.setattr(GanTask, "training_step", plain)
    assert load_checkpoint(tmp_path / "parts" / "last.safetensors")[1]["progress"]["step"] == 3
    with pytest.raises(CheckpointError, match="already holds a run"):
        train_gan(config, tmp_path / "parts", dataset=data)
    train_gan(config, tmp_path / "parts", dataset=data, resume=True)
    one, other = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert set(one["modules"]) == {"generator", "critic", "average"}
    assert same(one, other)
    assert log(tmp_path / "whole") == log(tmp_path / "parts")
    for folder in ("samples", "interpolations"):
        pictures = [sorted((tmp_path / run / folder).iterdir()) for run in ("whole", "parts")]
        assert [p.name for p in pictures[0]] == [f"000000{n}.png" for n in (2, 4, 6)]
        for a, b in zip(*pictures, strict=True):
            assert a.read_bytes() == b.read_bytes()
    train_gan(replace(config, train=replace(config.train, seed=1)), tmp_path / "x", dataset=data)
    assert not same(state(tmp_path / "x")["modules"], one["modules"])


@pytest.mark.parametrize("module", ["generator", "critic"])
@pytest.mark.parametrize("name", ["small/baseline", "digits", "pi/sngan"])
def test_nan_stops_the_run_and_the_last_checkpoint_is_good(tmp_path, monkeypatch, name, module):
    """Also where a search of neighbours meets the NaN before any loss does."""
    config = tiny_gan(name, steps=9, checkpoint_every=2)
    plain = GanTask.training_step

    def poisoned(self, step):
        if step == 3:
            next(iter(self.modules[module].parameters())).data.view(-1)[0] = math.nan
        return plain(self, step)

    monkeypatch.setattr(GanTask, "training_step", poisoned)
    with pytest.raises(TrainingStopped, match=r"at step [34].*last.safetensors \(step 2\): resume"):
        train_gan(config, tmp_path, dataset=random_images())
    found, meta = load_checkpoint(tmp_path / "last.safetensors")
    assert meta["progress"]["step"] == 2
    assert all(
        bool(v.isfinite().all()) for part in found["modules"].values() for v in part.values()
    )
    monkeypatch.setattr(GanTask, "training_step", plain)
    assert train_gan(config, tmp_path, dataset=random_images(), resume=True)["steps"] == 9


def test_divergence_stops_the_run(tmp_path):
    """A learning rate that no pair survives."""
    config = tiny_gan("digits", steps=50, learning_rate=1e30)
    with pytest.raises(TrainingStopped, match=r"not finite.*smaller learning_rate|the loss is"):
        train_gan(config, tmp_path, dataset=random_images())


def test_another_run_is_refused(tmp_path):
    """Every setting that decides about the weights, by name."""
    config, data = tiny_gan("small/edge-k8"), random_images()
    train_gan(config, tmp_path, dataset=data)
    for change, what in (
        ({"gan": replace(config.gan, critic_steps=3)}, "gan.critic_steps is 2 there and 3 here"),
        ({"gan": replace(config.gan, ema=0.5)}, "gan.ema is"),
        ({"generator": replace(config.generator, k=9)}, "generator.k is 8 there and 9 here"),
        ({"critic": replace(config.critic, channels=(4, 4, 4))}, "critic.channels is"),
        ({"train": replace(config.train, batch_size=4)}, "train.batch_size is 2"),
        ({"train": replace(config.train, steps=4)}, "train.length.steps is 2 there and 4"),
    ):
        other = replace(config, **change)
        assert other.digest() != config.digest()
        with pytest.raises(CheckpointError, match=f"belongs to another run: {what}"):
            train_gan(other, tmp_path, dataset=data, resume=True)
    for noise, what in (
        (random_images(3), "critic.in_channels"),
        (replace(data, content_hash="x"), "dataset_hash"),
    ):
        with pytest.raises(CheckpointError, match=f"{what} is"):
            train_gan(config, tmp_path, dataset=noise, resume=True)
    compiled = replace(config, gan=replace(config.gan, compile=True))
    assert compiled.digest() == config.digest()
    before = (tmp_path / "last.safetensors").read_bytes()
    train_gan(config, tmp_path, dataset=data, resume=True)  # nothing is left to do
    assert same(load_checkpoint(tmp_path / "last.safetensors")[0], state(tmp_path))
    assert len(before) == (tmp_path / "last.safetensors").stat().st_size


def test_rates_fall_linearly_and_the_critic_has_its_own(tmp_path):
    """The optimizers' rates at each step, and the log's."""
    config = tiny_gan("small/baseline", {"critic_rate": 3.0}, steps=4, learning_rate=0.01)
    rates = []
    plain = GanTask.training_step

    class Recorded(GanTask):
        def training_step(self, step):
            rates.append(
                [self.optimizers[n].param_groups[0]["lr"] for n in ("generator", "critic")]
            )
            return plain(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polygraph.tasks.gan.training.GanTask", Recorded)
        train_gan(config, tmp_path, dataset=random_images())
    for n, (generator, critic) in enumerate(rates):
        assert generator == pytest.approx(0.01 * (1 - n / 4))
        assert critic == pytest.approx(3 * generator)
    logged = [r["lr"] for r in log(tmp_path) if "lr" in r]
    assert logged == [row[0] for row in rates]


def test_gradients_are_clipped_by_value(tmp_path):
    """Both networks end elsewhere than without, and than with the norm clipped."""
    found = []
    for name, clipping in (
        ("free", {}),
        ("value", {"clip_value": 1e-3}),
        ("norm", {"grad_clip": 1}),
    ):
        train_gan(tiny_gan(**clipping), tmp_path / name, dataset=random_images())
        found.append(state(tmp_path / name)["modules"])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        for part in ("generator", "critic"):
            assert not same(found[one][part], found[other][part])


def test_each_critic_step_has_a_batch_of_its_own(tmp_path):
    """Step t reads the batches t n to t n + n - 1 of the sampled sequence, all images in turn."""
    data = random_images(num_train=12)
    config = tiny_gan("small/baseline", {"critic_steps": 3})
    task = task_of(config, tmp_path, data)
    seen = []
    batches = task.batches
    task.batches = lambda n: seen.append(n) or batches(n)
    generator = [p.clone() for p in task.generator.parameters()]
    for step in range(2):
        task.training_step(step)
    assert seen == [0, 1, 2, 3, 4, 5]
    rows = [i for n in seen for i in sample_indices(config.train.seed, 12, 2, n)]
    assert sorted(rows) == list(range(12))
    assert not torch.equal(generator[0], next(task.generator.parameters()))
    assert task.num_samples == 4  # an epoch, in generator steps, is 4 / 2 of them


def test_clipping_bounds_the_critic_alone(tmp_path):
    """WGAN's weights lie in [-c, c] after each of the critic's steps; some at its ends."""
    config = tiny_gan("small/baseline", {"loss": "wgan", "clip": 0.02, "optimizer": "rmsprop"})
    task = task_of(config, tmp_path)
    with torch.no_grad():
        assert max(float(p.abs().max()) for p in task.critic.parameters()) > 0.05
    task.training_step(0)
    largest = max(float(p.detach().abs().max()) for p in task.critic.parameters())
    assert largest == pytest.approx(0.02)
    assert max(float(p.detach().abs().max()) for p in task.generator.parameters()) > 0.05


def test_spectral_norm_follows_the_weights(tmp_path):
    """After some steps no layer of the critic stretches by more than about 1."""
    config = tiny_gan("pi/sngan", steps=30, learning_rate=1e-3)
    task = task_of(config, tmp_path)
    for step in range(30):
        task.training_step(step)
    task.critic.eval()
    layers = [m for m in task.critic.modules() if hasattr(m, "parametrizations")]
    assert len(layers) == 11
    for layer in layers:
        weight = layer.weight.detach().flatten(1)
        assert float(torch.linalg.matrix_norm(weight, 2)) < 1.1


def test_only_its_own_weights_get_the_gradient(tmp_path):
    """The generator's step leaves no gradient in the critic, and unfreezes it."""
    task = task_of(tiny_gan("digits"), tmp_path)
    task.training_step(0)
    before = [p.grad.clone() for p in task.critic.parameters()]
    weights = [p.detach().clone() for p in task.critic.parameters()]
    task.generator_step()
    assert all(map(torch.equal, before, [p.grad for p in task.critic.parameters()]))
    assert all(map(torch.equal, weights, [p.detach() for p in task.critic.parameters()]))
    assert all(p.requires_grad for p in task.critic.parameters())


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "name",
    [
        "small/ecc-k8",
        "small/light-k8",
        *(f"small/critic-{g}-k8" for g in ("edge", "ecc", "light")),
        "pi/sngan",
    ],
)
def test_other_precisions(tmp_path, name, precision):
    """Graph layers and their second derivatives under autocast; the average keeps its dtype."""
    result = train_gan(tiny_gan(name, precision=precision), tmp_path, dataset=random_images())
    assert result["steps"] == 2
    dtype = torch.float64 if precision == "64-true" else torch.float32
    assert state(tmp_path)["modules"]["average"]["input.weight"].dtype == dtype


def test_average_of_the_generator():
    """The recursion, its faster start, buffers, and no average at all."""
    average, module = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    with torch.no_grad():
        average.weight.fill_(1.0)
        module.weight.fill_(3.0)
        module.running_mean.fill_(5.0)
    update_average(average, module, 0.5, 1000)
    assert average.weight.tolist() == [2.0] * 3
    assert average.running_mean.tolist() == [5.0] * 3
    update_average(average, module, 0.9, 0)  # a tenth of the old weights at the first step
    assert average.weight.tolist() == pytest.approx([0.1 * 2 + 0.9 * 3] * 3)
    update_average(average, module, 0.0, 1000)
    assert average.weight.tolist() == [3.0] * 3


def test_generate_in_evaluation_mode():
    """Bytes that do not depend on the batch; the mode is put back; NaN is grey."""
    torch.manual_seed(0)
    generator = build(tiny_gan("small/baseline").generator)
    z = latent_vectors(7, generator.config, 3)
    images = generate(generator, z)
    assert (images.dtype, images.shape) == (torch.uint8, (7, 3, 32, 32))
    assert generator.training
    assert int((images.int() - generate(generator.eval(), z, 2).int()).abs().max()) <= 1
    assert not generator.training
    with torch.no_grad():
        generator.output.bias.fill_(math.nan)
    assert generate(generator, z).unique().tolist() == [128]
    assert torch.equal(latent_vectors(7, generator.config, 3), z)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_latent_numbers_have_the_distribution_of_the_config(kind, tmp_path):
    """In training, in pictures and in samples of the run."""
    config = tiny_gan("small/baseline", steps=2, batch_size=8)
    generator = replace(config.generator, latent_channels=40, latent_distribution=kind)
    config = replace(config, generator=generator)
    seen = []

    def look(module, inputs):
        if isinstance(getattr(module, "config", None), type(generator)):
            seen.append(inputs[0].detach())

    with torch.nn.modules.module.register_module_forward_pre_hook(look):
        train_gan(config, tmp_path, dataset=random_images())
        load_run(tmp_path).sample(9)
    numbers = torch.cat([z.flatten() for z in seen])
    assert numbers.numel() > 5_000
    assert float(numbers.std()) == pytest.approx(1 if kind == "normal" else 3**-0.5, rel=0.05)
    assert (float(numbers.abs().max()) <= 1) == (kind == "uniform")


def test_a_penalty_needs_a_critic_without_batch_normalisation(tmp_path):
    config = tiny_gan("pi/dcgan", {"loss": "wgan-gp"})
    with pytest.raises(ValueError, match=r"one image each.*batch_norm"):
        train_gan(config, tmp_path, dataset=random_images())


def test_images_of_another_size(tmp_path):
    with pytest.raises(ValueError, match="noise-1: images must be 32 x 32, got 28"):
        train_gan(tiny_gan(), tmp_path, dataset=random_images(size=28))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["small/critic-ecc-k8", "pi/dcgan", "pi/progan"])
def test_compiled_steps_equal_eager_ones(tmp_path, monkeypatch, name):
    """`gan.compile` through the whole loop: fullgraph, second derivatives included."""
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        pytest.skip("this torch does not trace torch.autograd.grad")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    found = []
    for compiled in (False, True):
        grow = {"grow_steps": 8} if name == "pi/progan" else {}  # two sizes in two steps
        config, folder = tiny_gan(name, {"compile": compiled, **grow}), tmp_path / str(compiled)
        train_gan(config, folder, dataset=random_images())
        found.append(state(folder)["modules"])
    eager, compiled = found
    for part in eager:
        # RMSprop and Adam divide a gradient by its own size: where it is rounding (a bias before
        # BatchNorm), or what is left of two almost equal sums, the step is another one.
        close = {
            key: torch.isclose(compiled[part][key], value, rtol=1e-4, atol=1e-5).float()
            for key, value in eager[part].items()
        }
        assert torch.cat([c.flatten() for c in close.values()]).mean() > 0.98, part
        assert all(c.mean() > 0.98 for c in close.values() if c.numel() >= 100), part
