"""A classifier of sounds that trains in a second."""

from polygraph.data import AudioDataConfig
from polygraph.models import LeNetConfig
from polygraph.tasks.audio.training import AudioRunConfig, audio_train_config

MODEL = LeNetConfig(channels=(4, 8), hidden_channels=16, num_features=12)
DATA = AudioDataConfig(num_clips=60)


def tiny_audio(model=MODEL, data=DATA, settings=None, **train):
    """A run on a few built-in tones."""
    loop = {"steps": 8, "batch_size": 8, "eval_every": 4, "accelerator": "cpu", **train}
    return AudioRunConfig(model, data, train=audio_train_config(**loop), **(settings or {}))
