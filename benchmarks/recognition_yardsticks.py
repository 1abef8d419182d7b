"""What simple methods reach where networks are compared: pixels, principal directions, chance.

    python benchmarks/recognition_yardsticks.py pixels --data CIFAR10 --images 10000 --out FILE.json
    python benchmarks/recognition_yardsticks.py faces --data FACES --out FILE.json
    python benchmarks/recognition_yardsticks.py speakers --data DIGITS --out FILE.json

``pixels``: multinomial logistic regression on the pixels of the images that train in `polygraph
train images --train-images 10000`, by several strengths of its penalty, of which the images that
validate choose. ``speakers``: the same of log-mel features, each speaker held out. ``faces``:
eigenfaces (the first principal directions of the training people, without the first three) and
Fisherfaces (linear discriminants behind principal directions), on the pairs of
`grids/verify_orl.toml`; and a network that was trained with shuffled identities, which must be at
chance.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from polygraph.data import AudioDataConfig, open_audio
from polygraph.data.identities import IdentityDataConfig, open_identities
from polygraph.data.images import ImageDataConfig, ImageDataset, open_images
from polygraph.data.pairs import make_pairs
from polygraph.metrics.verification import pair_scores, verification_summary
from polygraph.tasks import verify
from polygraph.tasks.audio.training import AudioRunConfig
from polygraph.tasks.audio.training import split_training as split_clips
from polygraph.tasks.images.training import ImagesRunConfig, split_training
from polygraph.train.provenance import provenance

Row = dict[str, Any]
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of scikit-learn: the inverse of the penalty
EIGENFACES, FISHERFACES = (60, 60)
LIGHTING = 3  # principal directions that show the light more than who is seen
SPLITS = range(5)


def _logistic(parts: dict[str, tuple[Any, Any]]) -> Row:
    """Test accuracy of logistic regression, with the penalty that is best on validation."""
    mean = parts["train"][0].mean(0)
    scale = parts["train"][0].std()
    inputs = {name: (x - mean) / scale for name, (x, _) in parts.items()}
    labels = {name: y for name, (_, y) in parts.items()}
    found = []
    for strength in PENALTIES:
        model = LogisticRegression(C=strength, max_iter=300).fit(inputs["train"], labels["train"])
        found.append((model.score(inputs["val"], labels["val"]), strength, model))
    val, strength, model = max(found, key=lambda one: one[0])
    return {
        "C": strength,
        "num_train": len(labels["train"]),
        "val_accuracy": float(val),
        "train_accuracy": float(model.score(inputs["train"], labels["train"])),
        "accuracy": float(model.score(inputs["test"], labels["test"])),
    }


def pixels(data: str, images: int) -> list[Row]:
    """Logistic regression on the pixels of CIFAR-10."""
    dataset = open_images(ImageDataConfig("cifar10", data))
    train, val = split_training(ImagesRunConfig(train_images=images, val_fraction=0.1), dataset)
    rows = {"train": train, "val": val, "test": dataset.test}
    labels = dataset.labels
    assert labels is not None
    parts = {name: (_flat(dataset, which), labels[which]) for name, which in rows.items()}
    return [{"method": "logistic regression", "dataset": dataset.name, **_logistic(parts)}]


def _flat(dataset: ImageDataset, which: NDArray[np.int64] | slice) -> NDArray[np.float32]:
    """Images as rows of numbers in [0, 1]."""
    found = dataset.images[which].astype(np.float32) / np.float32(255)
    return found.reshape(len(found), -1)


def speakers(data: str) -> list[Row]:
    """Logistic regression on log-mel features of spoken digits, each speaker held out."""
    from polygraph.data.audio.mel import LogMel

    found = []
    everyone = open_audio(AudioDataConfig("spoken-digits", data)).speakers
    assert everyone is not None
    for name in sorted(set(everyone)):
        sounds = open_audio(AudioDataConfig("spoken-digits", data, split=f"speaker:{name}"))
        train, val = split_clips(AudioRunConfig(), sounds)
        mel = LogMel(sounds.rate, sounds.samples.shape[1])
        parts = {
            part: (mel(sounds.clips(which)).flatten(1).numpy(), sounds.labels[which])
            for part, which in (("train", train), ("val", val), ("test", sounds.test))
        }
        found.append({"method": "logistic regression", "held_out": name, **_logistic(parts)})
    return found


def faces(data: str) -> list[Row]:
    """Eigenfaces, Fisherfaces and shuffled identities, in the five divisions of the people."""
    found = []
    for split in SPLITS:
        config = IdentityDataConfig("orl", data, size=48, test_fraction=0.375, split_seed=split)
        people, labels = _people(config)
        x = _flat(people, slice(None))
        train = np.sort(np.concatenate([people.train, people.val]))
        pairs = make_pairs(labels, people.test, folds=10, per_fold=300, seed=0)
        main = PCA(max(EIGENFACES, FISHERFACES)).fit(x[train])
        principal = main.transform(x)
        fisher = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto")
        fisher.fit(principal[train][:, :FISHERFACES], labels[train])
        embedded = {
            "eigenfaces": principal[:, LIGHTING:EIGENFACES],
            "Fisherfaces": fisher.transform(principal[:, :FISHERFACES]),
        }
        for method, rows in embedded.items():
            found.append({"method": method, **_pairs(rows, pairs, labels), "split_seed": split})
    found.append({"method": "shuffled identities", **_shuffled(data), "split_seed": 0})
    return found


def _people(config: IdentityDataConfig) -> tuple[ImageDataset, NDArray[np.int64]]:
    """Pictures of people, and who each shows."""
    found = open_identities(config)
    assert isinstance(found, ImageDataset)
    assert found.labels is not None
    return found, found.labels


def _pairs(rows: NDArray[np.float64], pairs: Any, labels: Any) -> Row:
    """Accuracy in folds and equal error rate of embeddings."""
    scores = pair_scores(rows, pairs.first, pairs.second)
    told = verification_summary(scores, pairs.same, pairs.fold, resamples=0)
    return {
        "pairs_sha256": pairs.sha256,
        "accuracy": told["accuracy"],
        "accuracy_std": told["accuracy_std"],
        "eer": told["eer"],
    }


def _shuffled(data: str) -> Row:
    """The first network of the grid, of people whose pictures were dealt out anew."""
    people, labels = _people(IdentityDataConfig("orl", data, size=48))
    dealt = np.random.default_rng(0).permutation(labels)
    with tempfile.TemporaryDirectory() as folder:
        run = verify.train(
            (people.images, dealt),
            Path(folder) / "run",
            preset="ir50",
            model={"depths": (1, 1, 1, 1), "width": 16},
            loss="softmax",
            size=48,
            mirror=True,
            test_fraction=0.375,
            epochs=40,
        )
        told = run.result["test"]["pairs"]
    return {name: told[name] for name in ("accuracy", "accuracy_std", "eer")}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("pixels", "speakers", "faces"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.what == "pixels":
        rows = pixels(options.data, options.images)
    else:
        rows = speakers(options.data) if options.what == "speakers" else faces(options.data)
    rows = [row | {"seed": 0} | provenance() for row in rows]
    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
