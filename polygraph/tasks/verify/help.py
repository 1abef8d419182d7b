"""What `polygraph train verify --help` prints; nothing that takes time is imported for it."""

HELP = """\
usage: polygraph train verify [DIR] --out RUN [settings]

Train embeddings that say whether two samples are of one identity, of identities never seen.

  polygraph train verify DIR --out RUN             a folder of pictures for each identity
  polygraph train verify DIR --kind orl --mirror true --out RUN
  polygraph train verify DIR --kind omniglot --size 28 --test-names Greek,Latin,Sanskrit --out RUN
  polygraph train verify DIR --kind meshes --out RUN       bodies as point clouds, by a DGCNN
  polygraph train verify --out RUN --resume        go on, with the run's own settings

data
  DIR, --data DIR      pictures; below train/, test/ and val/ or without; or 'glyphs', built-in
                       digits as identities (default)
  --kind KIND          folder (default of DIR), orl, omniglot, mnist, fashion-mnist, cifar10,
                       cifar100 (classes as identities), points (.npz), meshes (frames.json names)
  --size N             height and width of images (default: 32)
  --test-names A,B     identities that test, by name or first folder (else --test-fraction)

model
  --preset NAME        bed/conv (default), lenet and all others of `train images`; of point clouds
                       dgcnn
  --embedding-dim N    numbers of an embedding (default: 128)
  --loss L             arcface (default), cosface, norm-softmax (extra verify), softmax
  --margin X           arcface: radians, 0.5 if not given; cosface: of the cosine, 0.35
  --logit-scale X      sqrt(2) ln(C - 1) of C identities if not given

measures
  --mirror true        add the embedding of the mirror image
  --folds N            of test pairs (default: 10)
  --pairs-per-fold N   genuine pairs, and impostors (default: 300)

training
  --out RUN            folder of the run (required)
  --epochs N           passes over the training samples (default: 40); --steps N counts steps
  --batch-size N       samples per step (default: 64)
  --learning-rate X    (default: 1e-3, which falls to 0 along a cosine; the optimizer is Adam)
  --seed N             initialisation and order (default: 0)
  --resume             go on from the last checkpoint
  --config NAME        a YAML file, the run.json of another run, or verify-sgd

--help-all lists the other settings. docs/verification.md explains them.
"""


def text() -> str:
    """The help."""
    return HELP
