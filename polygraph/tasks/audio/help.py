"""What `polygraph train audio --help` prints; nothing that takes time is imported for it."""

HELP = """\
usage: polygraph train audio [DIR] --out RUN [settings]

Train a classifier of sounds, by their log-mel features of 32 x 32.

  polygraph train audio DIR --out RUN              the layout is told by what is in DIR
  polygraph train audio DIR --split speaker:theo --out RUN      all others train, theo tests
  polygraph train audio DIR --config audio-sgd --out RUN        the published recipe
  polygraph train audio --out RUN --resume         go on, with the run's own settings

data
  DIR, --data DIR      Speech Commands (a folder for each word, validation_list.txt,
                       testing_list.txt), DIGIT_SPEAKER_TAKE.wav, or a folder for each class; or
                       'tones', built-in sounds (default)
  --kind KIND          speech-commands, spoken-digits, folder; auto tells them apart (of DIR)
  --split NAME         official (lists; takes 0-4 of digits; folders train/ and test/), takes:0-4,
                       speaker:NAME (or several, with commas), random (a tenth of each class)
  --data.rate N        samples per second (default: that of the files)
  --data.seconds X     of a clip, cut or followed by silence (default: 1.0)
  --val-fraction X     share of the training clips that validates, where no list says (default: 0.1)

model
  --preset NAME        bed/conv (default), lenet, and all others of polygraph train images
  --width N            features of the first stage

training
  --out RUN            folder of the run (required)
  --epochs N           passes over the training clips (default: 20); --steps N counts steps
  --batch-size N       clips per step (default: 64)
  --learning-rate X    (default: 1e-3, which falls to 0 along a cosine; the optimizer is Adam)
  --balanced true      in a pass every class equally often
  --augment.probability P      of each random change of a training clip (default: 0.5): loudness,
                       speed, pace, place, noise; --help-all has their strengths; 0: none
  --features.scale S   db, below the loudest of the clip, or log (default: db)
  --seed N             initialisation and order (default: 0)
  --resume             go on from the last checkpoint
  --config NAME        a YAML file, the run.json of another run, or audio-sgd (SGD, 70 epochs)

--help-all lists the other settings. docs/audio.md explains them.
"""


def text() -> str:
    """The help."""
    return HELP
