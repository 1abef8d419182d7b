"""What `polygraph train vae --help` prints; nothing that takes time is imported for it."""

HELP = """\
usage: polygraph train vae [DIR] --out RUN [settings]

Train a variational autoencoder of images, or of meshes of one topology.

  polygraph train vae DIR --kind fashion-mnist --out RUN     also mnist, cifar10; or a folder
  polygraph train vae DIR --out RUN --likelihood bernoulli   of bits: pixels above the middle
  polygraph train vae MESHES --out RUN --preset vae-full-2   a folder of meshes
  polygraph train vae --out RUN --resume                     with the run's own settings

data
  DIR, --data DIR      pictures of any size, or meshes; 'glyphs', built-in digits (default), or
                       'synthetic', the built-in animal
  --kind KIND          folder, mnist, fashion-mnist, cifar10, cifar100; registered, coma, dfaust
  --size N             height and width of images (default: 32)

model
  --preset NAME        of images: vae/conv (default), vae/bernoulli; of meshes: vae-first-order,
                       vae-simple-N, vae-full-N, vae-skip-N (N 2, 3, 4; default: vae-full-2)
  --latent N           numbers per sample (default: 20; meshes: 16)
  --likelihood KIND    optimal (default: the variance is the mean squared error), learned, fixed
                       (with --variance X), bernoulli (images)
  --beta X             weight of the divergence (default: 1)
  --warmup-steps N     steps in which that weight rises from 0 (default: 0)
  --free-bits X        nats of each number that cost nothing (default: 0)

training
  --out RUN            folder of the run (required)
  --epochs N           passes over the images (default: 10); --steps N counts steps (meshes: 16000)
  --batch-size N       samples per step (default: 128; meshes: 16)
  --learning-rate X    (default: 1e-3, which falls to 0 along a cosine; meshes: 5e-3)
  --seed N             initialisation and order (default: 0)
  --resume             go on from the last checkpoint
  --config NAME        a YAML file, or the run.json of another run

--help-all lists the other settings, of images; those of meshes are polygraph train mesh's.
docs/vae.md explains them.
"""


def text() -> str:
    """The help."""
    return HELP
