"""Twenty training steps on a GPU: mesh autoencoders, DGCNN, and adversarial pairs with graphs.

In float64 the weights stay those of the CPU's run: no neighbour, maximum or slope is chosen
otherwise for a rounding of 1e-16. In float32, and under autocast, the loss falls.
"""

import contextlib
import copy
import math
from dataclasses import replace

import pytest
import torch
from support.devices import GPU, PLACE, capture
from support.tolerances import KERNEL, TRAINING_FLOAT64, assert_close

from polygraph.models import (
    DGCNNClassifier,
    DGCNNClassifierConfig,
    DGCNNSegmenter,
    DGCNNSegmenterConfig,
    MeshAutoencoder,
    MeshAutoencoderConfig,
)
from polygraph.models.images.graph_gan import (
    GraphCritic,
    GraphCriticConfig,
    GraphGenerator,
    GraphGeneratorConfig,
)
from polygraph.tasks.gan.losses import CriticLoss, GanConfig, GeneratorLoss

pytestmark = pytest.mark.gpu

STEPS = 2 if PLACE == "emulated" else 20  # an emulated step takes up to a minute
MESH = MeshAutoencoderConfig(
    encoder_channels=(8, 16), decoder_channels=(16, 8, 3), latent_channels=4
)
CLASSIFIER = DGCNNClassifierConfig(
    num_classes=4,
    k=8,
    edge_channels=(8, 16),
    embedding_channels=32,
    head_channels=(16,),
    dropout=0.0,
)
SEGMENTER = DGCNNSegmenterConfig(
    num_parts=4,
    k=8,
    edge_channels=((8, 8), (16,)),
    embedding_channels=32,
    head_channels=(16, 8),
    dropout=0.0,
)
GENERATOR = GraphGeneratorConfig(latent_channels=5, channels=(6, 5, 4, 3), k=3, rank=2)
CRITIC = GraphCriticConfig(channels=(4, 5, 6), k=3, rank=2)


def normal(*shape, seed=0):
    """Normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class Task:
    """A model, its optimizer and a batch, on a device; `step` returns the loss before the step."""

    rate = 0.02

    def __init__(self, models, batch, device, dtype):
        self.models = models.to(device, dtype)
        self.batch = [t.to(device, dtype if t.is_floating_point() else None) for t in batch]
        # Not Adam: where a gradient is rounding alone, its steps have the sign of that.
        self.optimizer = torch.optim.SGD(self.models.parameters(), self.rate, momentum=0.9)

    def loss(self):
        raise NotImplementedError

    def step(self, precision):
        with precision:
            loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


class MeshTask(Task):
    """Deformations of one template, reconstructed."""

    def __init__(self, hierarchy, device, dtype, **changes):
        model = MeshAutoencoder(replace(MESH, **changes), hierarchy)
        template = torch.as_tensor(hierarchy.vertices[0])
        x = template * (1 + 0.3 * normal(6, 1, 3)) + 0.1 * normal(6, 1, 3, seed=1)
        model.set_normalization(x.mean(0), x.std(0))
        super().__init__(model, [model.normalize(x.float())], device, dtype)

    def loss(self):
        (x,) = self.batch
        return (self.models.forward_normalized(x) - x).square().mean()


class CloudTask(Task):
    """Clouds stretched by their class, classified."""

    def __init__(self, hierarchy, device, dtype):
        kind = torch.arange(8) % 4
        points = normal(8, 40, 3) * (1 + kind[:, None, None])
        super().__init__(DGCNNClassifier(CLASSIFIER), [points, kind], device, dtype)

    def loss(self):
        points, kind = self.batch
        return torch.nn.functional.cross_entropy(self.models(points).float(), kind)


class PointTask(Task):
    """Points labelled by the octant that they lie in."""

    def __init__(self, hierarchy, device, dtype):
        points = normal(4, 40, 3)
        parts = (points[..., 0] > 0).long() + 2 * (points[..., 1] > 0)
        super().__init__(DGCNNSegmenter(SEGMENTER), [points, parts], device, dtype)

    def loss(self):
        points, parts = self.batch
        logits = self.models(points).float()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), parts.flatten())


class PairTask(Task):
    """A critic against a generator; a step of each, whose loss is the critic's, with penalty."""

    rate = 2e-3

    def __init__(self, hierarchy, device, dtype, graph):
        generator = GraphGenerator(replace(GENERATOR, graph=graph, graph_sizes=(16,)))
        critic = GraphCritic(replace(CRITIC, graph=graph))
        real = normal(4, 3, 32, 32).tanh()
        batch = [real, normal(4, 5, seed=1), normal(4, 1, 1, 1, seed=2).sigmoid()]
        models = torch.nn.ModuleDict({"generator": generator, "critic": critic})
        super().__init__(models, batch, device, dtype)
        self.criticise = CriticLoss(critic, GanConfig())
        self.generate = GeneratorLoss(generator, critic, GanConfig())

    def loss(self):
        real, z, share = self.batch
        with torch.no_grad():
            fake = self.models["generator"](z).to(real)
        mixed = torch.lerp(fake, real, share).requires_grad_()
        return self.criticise(real, fake, mixed)[0]

    def step(self, precision):
        before = super().step(precision)
        with precision:
            loss = self.generate(self.batch[1])
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.models["critic"].parameters():
            parameter.grad = None  # a generator's step
        self.optimizer.step()
        assert loss.isfinite()
        return before


TASKS = {
    "mesh autoencoder": (MeshTask, {}),
    "mesh autoencoder, order 3": (MeshTask, {"block": "skip", "order": 3}),
    "mesh autoencoder of attention": (MeshTask, {"operator": "gat", "block": "first_order"}),
    "dgcnn": (CloudTask, {}),
    "dgcnn, of points": (PointTask, {}),
    **{
        f"graph gan, {graph}": (PairTask, {"graph": graph})
        for graph in ("edge-sum", "ecc", "light")
    },
}


@pytest.fixture(autouse=True)
def float32_is_float32():
    """Convolutions of cuDNN in float32, whose default on a GPU is TF32 with 11 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def start(random_tables):
    """Makes a task; each has the same weights and numbers every time."""

    def make(name, device, dtype):
        torch.manual_seed(0)
        kind, options = TASKS[name]
        return kind(random_tables, device, dtype, **options)

    return make


@pytest.mark.parametrize("name", TASKS)
def test_gpu_training_is_the_cpus(name, start):
    """Losses, weights and running statistics after twenty steps in float64."""
    ours, theirs = (start(name, device, torch.float64) for device in (GPU, "cpu"))
    for step in range(STEPS):
        losses = [task.step(contextlib.nullcontext()) for task in (ours, theirs)]
        assert abs(losses[0] - losses[1]) <= TRAINING_FLOAT64 * abs(losses[1]), step
    expected = theirs.models.state_dict()
    moved = start(name, "cpu", torch.float64).models.state_dict()
    assert any(not torch.equal(moved[key], value) for key, value in expected.items())
    for key, value in ours.models.state_dict().items():
        assert value.device.type == GPU
        error = (value.cpu() - expected[key]).abs().max().item()
        largest = expected[key].abs().max().item()
        # Below 1 in absolute terms: a bias that a norm takes away again is rounding alone.
        assert error <= TRAINING_FLOAT64 * max(1.0, largest), key


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TASKS)
def test_gpu_training_learns(name, precision, start):
    """In float32, and under autocast to bfloat16: finite, and lower at the end."""
    if PLACE == "emulated":
        pytest.skip("takes twenty steps, of up to a minute where kernels are emulated")
    task = start(name, GPU, torch.float32)
    task.optimizer = torch.optim.Adam(task.models.parameters(), 2e-3)
    within = torch.autocast(GPU, torch.bfloat16, enabled=precision == "bfloat16")
    losses = [task.step(within) for _ in range(STEPS)]
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-3:]) < sum(losses[:3]), losses


@pytest.mark.parametrize("name", [name for name in TASKS if "gan" not in name])
def test_gpu_training_step_replays(name, start):
    """Forward and backward from a CUDA graph: the gradients of eager, on other numbers."""
    task = start(name, GPU, torch.float32)
    parameters = dict(task.models.named_parameters())

    def step():
        loss = task.loss()
        grads = torch.autograd.grad(loss, list(parameters.values()))
        return {"loss": loss.detach()} | dict(zip(parameters, grads, strict=True))

    replayed, replay = capture(step)
    task.batch[0].mul_(0.9)
    expected = step()
    replay()
    for key, value in expected.items():
        # The largest kernels of cuBLAS may be others where a graph is captured.
        assert_close(replayed[key], value, 10 * KERNEL[torch.float32], key)


@pytest.mark.parametrize("name", TASKS)
def test_gpu_state_travels(name, start, tmp_path):
    """What was trained on the GPU is stored, and goes on on the CPU, and back."""
    task = start(name, GPU, torch.float64)
    task.step(contextlib.nullcontext())
    torch.save(task.models.state_dict(), tmp_path / "state.pt")
    torch.save(task.optimizer.state_dict(), tmp_path / "optimizer.pt")
    losses = []
    for device in ("cpu", GPU):
        again = start(name, device, torch.float64)
        for part, file in ((again.models, "state.pt"), (again.optimizer, "optimizer.pt")):
            part.load_state_dict(torch.load(tmp_path / file, map_location=device))
        losses.append([again.step(contextlib.nullcontext()) for _ in range(2)])
    expected = [task.step(contextlib.nullcontext()) for _ in range(2)]
    for found in losses:
        for actual, value in zip(found, expected, strict=True):
            assert abs(actual - value) <= TRAINING_FLOAT64 * abs(value)


def test_gpu_copy_of_a_used_model(start):
    """A model that was used on the CPU, and a copy of it, move with the graphs that they keep."""
    task = start("mesh autoencoder of attention", "cpu", torch.float32)
    (x,) = task.batch
    expected = task.models(x)
    for model in (copy.deepcopy(task.models).to(GPU), task.models.to(GPU)):
        assert_close(model(x.to(GPU)), expected, 10 * KERNEL[torch.float32], "meshes")
