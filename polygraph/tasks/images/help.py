"""What `polygraph train images --help` prints; nothing that takes time is imported for it."""

HELP = """\
usage: polygraph train images [DIR] --out RUN [settings]

Train a classifier of images.

  polygraph train images DIR --out RUN             a folder of folders: their names are the classes
  polygraph train images DIR --kind cifar10 --preset bed/edge-k8 --width 18 --out RUN
  polygraph train images --out RUN --resume        go on, with the run's own settings

data
  DIR, --data DIR      pictures of any size, in one folder for each class; below train/ and test/,
                       train/ and val/, or without them; or 'glyphs', built-in digits (default)
  --kind KIND          folder (default of DIR), mnist, fashion-mnist, cifar10, cifar100
  --data.size N        height and width (default: 32)
  --train-images N     train with N of them, drawn at random (default: all)
  --val-fraction X     share of the training images that validates instead (default: 0.1)

model
  --preset NAME        bed/conv (default): three stages of two 3 x 3 convolutions; bed/attention,
                       bed/edge-k8, bed/edge-max-k8, bed/ecc-k8, bed/light-k8: attention or a graph
                       layer in their places, also with -bare behind (no rows and columns, all
                       neighbours alike), ecc and light with -coordinates; lenet; spline/small-cnn,
                       spline/large-cnn (docs/convex.md); sparse/layered, sparse/ista, sparse/fista,
                       sparse/lista, sparse/basis-pursuit, sparse/cifar-layered, ...
                       (docs/sparse_coding.md); residual (docs/classification.md): resnet18,
                       resnet34, resnet50, linear-resnet18, ir50, prodpoly-2211, prodpoly-3322,
                       prodpoly-3432, prodpoly-3332, prodpoly-resnet50, prodpoly-ir50, pinet18,
                       pinet18-noact, pinet18-1x1, pinet18-1x1-noact, r-polynet18
  --width N            features of the first stage (default: 66, residual networks 64; light: 3 n)
  --k N                of graph layers: neighbours of a pixel (default: 8)
  --model.merge M, --model.pixel-graph G, --model.metric M of graph layers, --model.unfoldings N,
  --model.threshold X, --reconstruction X of sparse codes: see --help-all, docs/sparse_coding.md

training
  --out RUN            folder of the run (required)
  --epochs N           passes over the training images (default: 20); --steps N counts steps
  --batch-size N       images per step (default: 64)
  --learning-rate X    (default: 1e-3, which falls to 0 along a cosine; the optimizer is Adam)
  --augment.crop-padding N, --augment.flip B       random crops and mirrors (CIFAR: 4 and true; all
                       others: none); --augment.crop-area X: crops of X to 1 of the area, scaled up
  --orthogonality X, --orthogonality-on WHAT       penalise products of the classes' templates:
                       weights, templates or probes; none without it; --orthogonality-unit true:
                       of rows of unit length
  --balanced true      every class equally often, in every batch
  --seed N             initialisation and order (default: 0)
  --resume             go on from the last checkpoint
  --config NAME        a YAML file, the run.json of another run, or images-sgd (SGD, 120 epochs),
                       images-imagenet-1024, images-imagenet-512 (90 epochs, size 224)

--help-all lists the other settings. docs/training.md explains them.
"""


def text() -> str:
    """The help."""
    return HELP
