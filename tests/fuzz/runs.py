"""Damaged run folders and archives, and runs that are killed: refused by name, or exactly right.

A case is a function of (seed, number). Cases run in a process of their own with a limit of memory;
what ends it, takes longer than a minute, is refused by an error that is none of ours or that names
no file, gives another result than the undamaged files, or touches a file outside is a failure.

    python tests/fuzz/runs.py --runs 5000 --archives 2000 --kills 100 [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE), str(HERE.parent)]

from damage import damage_archive, damage_folder  # noqa: E402

PATIENCE = 60  # seconds of a case
MEMORY = 1 << 30  # bytes that a case may take beside what the process starts with


# ---- what is damaged, and how it is used ----


def make_runs(root: Path) -> dict[str, Callable[[Path], Any]]:
    """One folder of each kind under ``root``; kind -> what it gives, by the folder."""
    import torch
    from support.tiny import tiny_run
    from support.tiny_audio import tiny_audio
    from support.tiny_gan import random_images, tiny_gan
    from support.tiny_images import tiny_images
    from support.tiny_pictures import QUICK, pictures
    from support.tiny_points import tiny_points
    from support.tiny_verify import DATA, tiny_verify
    from support.tiny_vertices import QUICK_VERTICES, few_meshes

    from polygraph.data.identities import open_identities
    from polygraph.data.pairs import make_pairs
    from polygraph.models import MeshAutoencoder
    from polygraph.tasks import denoise
    from polygraph.tasks.audio.run import load_run as load_audio
    from polygraph.tasks.audio.training import train_audio
    from polygraph.tasks.gan.run import sample_run
    from polygraph.tasks.gan.training import train_gan
    from polygraph.tasks.images.run import load_run as load_images
    from polygraph.tasks.images.training import train_images
    from polygraph.tasks.mesh.run import evaluate_run, export_run, load_run
    from polygraph.tasks.mesh.training import train_mesh
    from polygraph.tasks.points.run import load_classifier
    from polygraph.tasks.points.training import train_points
    from polygraph.tasks.verify.run import load_run as load_verify
    from polygraph.tasks.verify.training import train_verify

    config = tiny_run(root, steps=2)
    train_mesh(config, root / "mesh")
    export_run(load_run(root / "mesh"), root / "exported")
    train_points(tiny_points(steps=1), root / "points")
    train_images(tiny_images(steps=1), root / "images")
    train_audio(tiny_audio(steps=1), root / "audio")
    train_verify(tiny_verify(train={"steps": 1}, resamples=0), root / "verify")
    train_gan(tiny_gan(steps=1), root / "gan", dataset=random_images())
    denoise.train(pictures(), root / "denoise", say=quiet, **QUICK | {"steps": 1})
    meshes = few_meshes()
    denoise.train(meshes, root / "vertices", say=quiet, **QUICK_VERTICES | {"steps": 1})
    shutil.copytree(root / "mesh", root / "resumed")
    for folder in ("gan/samples", "gan/interpolations"):
        shutil.rmtree(root / folder)
    people = open_identities(DATA)
    pairs = make_pairs(people.labels, people.test, folds=3, per_fold=20)
    x = torch.linspace(-1, 1, 162 * 3).reshape(1, 162, 3)

    def exported(folder: Path) -> Any:
        model = MeshAutoencoder.from_pretrained(folder)
        with torch.no_grad():
            return model(x).tolist()

    def points(folder: Path) -> Any:
        model, meta = load_classifier(folder / "best.safetensors")
        with torch.no_grad():
            return [model(x).tolist(), meta["classes"]]

    def verify(folder: Path) -> Any:
        run = load_verify(folder)
        return [run.evaluate(pairs), run.threshold]

    def resumed(folder: Path) -> Any:
        found = train_mesh(config, folder, resume=True)
        return [found["test"], found["val"], evaluate_run(load_run(folder)).summary()]

    return {
        "mesh": lambda folder: evaluate_run(load_run(folder)).summary(),
        "exported": exported,
        "points": points,
        "images": lambda folder: load_images(folder).evaluate(),
        "audio": lambda folder: load_audio(folder).evaluate(),
        "verify": verify,
        "gan": lambda folder: sample_run(folder, 2).tolist(),
        "denoise": lambda folder: denoise.load(folder).denoise(pictures()[0]).tolist(),
        "vertices": lambda folder: denoise.load(folder).denoise(meshes[0][0], meshes[1]).tolist(),
        "resumed": resumed,
    }


def quiet(line: str) -> None:
    """Say nothing."""


def make_archives(root: Path) -> dict[str, Callable[[Path], Any]]:
    """One archive of each kind under ``root``, each in a folder of its own."""
    import numpy as np
    from PIL import Image

    from polygraph.data.cifar import CIFAR10_TEST, CIFAR10_TRAIN, read_cifar10
    from polygraph.data.image_files import read_idx, read_picture
    from polygraph.data.shapes import ShapeDataConfig, make_shapes, open_shapes

    rng = np.random.default_rng(0)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name in (*CIFAR10_TRAIN, CIFAR10_TEST):
            rows = rng.integers(0, 256, (2, 3073), dtype=np.uint8)
            rows[:, 0] %= 10
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = rows.size
            archive.addfile(member, io.BytesIO(rows.tobytes()))
    images = bytes((0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7)) + rng.bytes(210)
    points = io.BytesIO()
    np.savez_compressed(points, **make_shapes(40, 16))
    picture = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (20, 24, 4), dtype=np.uint8)).save(picture, "png")
    contents = {
        "tar/a.tar": plain.getvalue(),
        "tar.gz/a.tar.gz": gzip.compress(plain.getvalue(), mtime=0),
        "idx.gz/a.gz": gzip.compress(images, mtime=0),
        "npz/a.npz": points.getvalue(),
        "png/a.png": picture.getvalue(),
    }
    for name, data in contents.items():
        (root / name).parent.mkdir()
        (root / name).write_bytes(data)

    def cifar(path: Path) -> Any:
        parts = read_cifar10(path)
        return [[value.tolist() for value in parts[name]] for name in ("train", "test")]

    def shapes(path: Path) -> Any:
        found = open_shapes(ShapeDataConfig(path=str(path)))
        return [found.content_hash, found.split_hash, list(found.classes)]

    return {
        "tar": lambda folder: cifar(folder / "a.tar"),
        "tar.gz": lambda folder: cifar(folder / "a.tar.gz"),
        "idx.gz": lambda folder: read_idx(folder / "a.gz", 3).tolist(),
        "npz": lambda folder: shapes(folder / "a.npz"),
        "png": lambda folder: read_picture(folder / "a.png", 8, 3).tolist(),
    }


# ---- cases ----


def outcome(use: Callable[[Path], Any], folder: Path, expected: Any) -> str:
    """What is wrong with a case; "" for the right result, "refused" for an error of ours."""
    try:
        found = use(folder)
    except TimeoutError:
        return f"hangs: longer than {PATIENCE} s"
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        return "refused" if str(folder) in str(error) else f"names no file: {error!r:.200}"
    except Exception as error:
        ours = type(error).__name__ == "CheckpointError"
        if ours and str(folder) in str(error):
            return "refused"
        return f"an error that is none of ours: {error!r:.300}"
    return "" if found == expected else "another result, in silence"


def listing(root: Path) -> list[tuple[str, int]]:
    """Files below a folder, and their sizes."""
    return [(str(path), path.lstat().st_mtime_ns) for path in sorted(root.rglob("*"))]


def ring(number: int, frame: Any) -> None:
    """End a case that takes too long."""
    raise TimeoutError


def work(kind: str, seed: int, start: int, stop: int) -> None:
    """Run cases, a line of JSON each."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, ring)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        os.environ["POLYGRAPH_CACHE"] = str(root / "user")
        (root / "whole").mkdir()
        uses = (make_runs if kind == "runs" else make_archives)(root / "whole")
        damage = damage_folder if kind == "runs" else damage_archive
        expected = {name: json.loads(json.dumps(use(root / "whole" / name)))
                    for name, use in uses.items()}  # fmt: skip
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        before = listing(root / "whole")
        for case in range(start, stop):
            rng = random.Random(f"{kind} {seed} {case}")
            name = rng.choice(sorted(uses))
            folder = root / "case" / name
            shutil.copytree(root / "whole" / name, folder)
            print(json.dumps({"case": case}), flush=True)
            what = f"{name}/{damage(rng, folder)}"
            signal.alarm(PATIENCE)
            wrong = outcome(lambda f, u=uses[name]: json.loads(json.dumps(u(f))), folder,
                            expected[name])  # fmt: skip
            signal.alarm(0)
            if listing(root / "whole") != before:
                wrong = "files outside were touched"
            print(json.dumps({"done": case, "what": what, "wrong": wrong}), flush=True)
            shutil.rmtree(root / "case")


def run_cases(kind: str, seed: int, cases: int) -> tuple[Counter[str], list[str]]:
    """Run cases in processes of their own; how many ended how, and the failures."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    start = 0
    while start < cases:
        words = [sys.executable, str(HERE / "runs.py"), "--work", kind]
        words += ["--seed", str(seed), "--from", str(start), "--to", str(cases)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        begun = [line["case"] for line in lines if "case" in line]
        for line in (line for line in lines if "done" in line):
            wrong = line["wrong"]
            counts[wrong if wrong in ("", "refused") else "failed"] += 1
            if wrong not in ("", "refused"):
                failures.append(f"{kind} {line['done']}: {line['what']}: {wrong}")
        if done.returncode == 0:
            break
        if not begun:
            raise RuntimeError(f"no case could be run: {done.stderr[-2000:]}")
        counts["failed"] += 1
        end = done.stderr[-300:]
        failures.append(f"{kind} {begun[-1]}: ended with status {done.returncode}: {end}")
        start = begun[-1] + 1
    return counts, failures


# ---- kills ----


def trainers(root: Path) -> dict[str, Callable[[Path], Any]]:
    """Every trainer: what goes on with a run in a folder, to its end."""
    from support.tiny import tiny_run
    from support.tiny_audio import tiny_audio
    from support.tiny_gan import random_images, tiny_gan
    from support.tiny_images import tiny_images
    from support.tiny_pictures import QUICK, pictures
    from support.tiny_points import tiny_points
    from support.tiny_verify import tiny_verify
    from support.tiny_vertices import QUICK_VERTICES, few_meshes

    from polygraph.tasks import denoise
    from polygraph.tasks.audio.training import train_audio
    from polygraph.tasks.gan.training import train_gan
    from polygraph.tasks.images.training import train_images
    from polygraph.tasks.mesh.training import train_mesh
    from polygraph.tasks.points.training import train_points
    from polygraph.tasks.verify.training import train_verify

    often = {"checkpoint_every": 3, "log_every": 5, "eval_every": 4}
    mesh, points = tiny_run(root, steps=60, **often), tiny_points(steps=30, **often)
    gan, noise = tiny_gan(**{"steps": 20, **often}), random_images()
    images, audio = tiny_images(steps=30, **often), tiny_audio(steps=30, **often)
    verify = tiny_verify(train={"steps": 30, **often}, resamples=0)
    more = {"say": quiet, "resume": True}
    words = QUICK | often | {"steps": 30}, QUICK_VERTICES | often | {"steps": 30}
    return {
        "mesh": lambda folder: train_mesh(mesh, folder, resume=True),
        "points": lambda folder: train_points(points, folder, resume=True),
        "gan": lambda folder: train_gan(gan, folder, resume=True, dataset=noise),
        "images": lambda folder: train_images(images, folder, resume=True),
        "audio": lambda folder: train_audio(audio, folder, resume=True),
        "verify": lambda folder: train_verify(verify, folder, resume=True),
        "denoise": lambda folder: denoise.train(pictures(), folder, **more, **words[0]),
        "vertices": lambda folder: denoise.train(few_meshes(), folder, **more, **words[1]),
    }


def forked(call: Callable[[], Any], seconds: float | None) -> bool:
    """Call in a child; whether it was killed, after so many seconds, before it was done."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            call()
            status = 0
        os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        raise RuntimeError("a run that goes on ended with an error")
    return False


def content(folder: Path) -> Any:
    """Weights, optimizers and log of a run, without times."""
    from polygraph.train.checkpoint import load_checkpoint
    from polygraph.train.log import read_log

    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        stack = [(path.name, load_checkpoint(path)[0])]
        while stack:
            name, tree = stack.pop()
            if isinstance(tree, dict | list | tuple):
                items = tree.items() if isinstance(tree, dict) else enumerate(tree)
                stack += [(f"{name}/{key}", value) for key, value in items]
            else:
                found[name] = tree.tolist() if hasattr(tree, "tolist") else tree
    log = [{k: v for k, v in r.items() if k != "seconds"} for r in read_log(folder / "log.jsonl")]
    return found, log, sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def run_kills(kills: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Kill runs at random moments and compare them with unbroken ones."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    failures: list[str] = []
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["POLYGRAPH_CACHE"] = str(root / "user")
        made = trainers(root)
        for number, (kind, train) in enumerate(made.items()):
            forked(lambda t=train, k=kind: t(root / k), None)
            began = time.monotonic()
            forked(lambda t=train, k=kind: t(root / f"{k}-timed"), None)
            length = time.monotonic() - began
            whole, wanted = content(root / kind), (kills + number) // len(made)
            while counts[kind] < wanted:
                folder = root / f"{kind}-killed"
                for _ in range(min(8, wanted - counts[kind])):
                    call = lambda t=train, f=folder: t(f)  # noqa: E731
                    if not forked(call, rng.uniform(0, length)):
                        break
                    counts[kind] += 1
                forked(lambda t=train, f=folder: t(f), None)
                if content(folder) != whole:
                    failures.append(f"{kind}: differs after {counts[kind]} kills")
                shutil.rmtree(folder)
    return counts, failures


def main() -> int:
    """Run what is asked for; 1 when something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("runs", "archives", "kills", "seed", "from", "to"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    chosen = vars(parser.parse_args())
    if chosen["work"]:
        work(chosen["work"], chosen["seed"], chosen["from"], chosen["to"])
        return 0
    failed = []
    for kind in ("runs", "archives"):
        if chosen[kind]:
            counts, failures = run_cases(kind, chosen["seed"], chosen[kind])
            print(f"{kind}: {counts['refused']} refused, {counts['']} right, "
                  f"{counts['failed']} failed", flush=True)  # fmt: skip
            failed += failures
    if chosen["kills"]:
        counts, failures = run_kills(chosen["kills"], chosen["seed"])
        print("kills: " + ", ".join(f"{kind} {count}" for kind, count in counts.items()))
        failed += failures
    print("\n".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
