"""What `polygraph train points --help` prints; nothing that takes time is imported for it."""

HELP = """\
usage: polygraph train points [FILE.npz] --out RUN [settings]

Train a DGCNN on point clouds: one class for each.

  polygraph train points clouds.npz --out RUN                xyz [S, N, 3], label [S], is_test [S]
  polygraph train points --out RUN --steps 200               the built-in shapes
  polygraph train points --out RUN --resume                  go on, with the run's own settings

data
  FILE.npz, --data F   the clouds; or 'shapes', which are built in (default)

model
  --k N                neighbours of a point, itself among them (default: 20)
  --model.dropout X    (default: 0.5)

training
  --out RUN            folder of the run (required)
  --epochs N           passes over the training clouds (default: 250); --steps N counts steps
  --batch-size N       clouds per step (default: 32)
  --learning-rate X    (default: 1e-3, which falls to 0 along a cosine)
  --seed N             initialisation and order (default: 0)
  --resume             go on from the last checkpoint
  --config NAME        a YAML file, the run.json of another run, or points-sgd (the paper's SGD)

--help-all lists the other settings. docs/training.md explains them.
"""


def text() -> str:
    """The help."""
    return HELP
