"""What the README promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()


EXAMPLES = {  # the first words of an example -> what is asked of it, and the answer
    "import torch\nfrom torch_geometric": ("print('loss', loss.item())", "loss 0."),
    "import torch\nfrom polygraph.nn": (
        "print(edge_index.shape, index.shape, features.shape)",
        "torch.Size([2, 200000]) torch.Size([2, 1024, 16]) torch.Size([1000, 64])",
    ),
}


@pytest.mark.parametrize("place", range(len(EXAMPLES)))
def test_example_runs(place, tmp_path):
    """The lines that use a layer run as they stand."""
    pytest.importorskip("scipy")
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == len(EXAMPLES)
    (question, answer) = next(v for k, v in EXAMPLES.items() if examples[place].startswith(k))
    program = tmp_path / "example.py"
    program.write_text(f"{examples[place]}{question}\n")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(program)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(answer)


def test_examples_of_pytorch_page():
    """The examples of docs/pytorch.md run, one after the other, and give what they say."""
    page = (REPOSITORY / "docs" / "pytorch.md").read_text()
    names = {}
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(example, names)
    assert {tuple(g.shape[:1]) for g in names["per_sample"].values()} == {(8,)}
    assert names["curvature"].shape == (20, 3, 20, 3)
    assert names["slope"].shape == ()
    assert names["shape"] == (20, 4)


def test_example_of_training_page():
    """The classifier of docs/training.md trains."""
    page = (REPOSITORY / "docs" / "training.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(example, names)
    assert names["accuracy"] > 0.3  # a guess is right in 0.1
    assert (Path(names["folder"]) / "best.safetensors").is_file()


def test_links_lead_to_files():
    """Every relative link and picture names a file that is here."""
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README)
    assert "CONTRIBUTING.md" in targets
    assert [t for t in targets if not (REPOSITORY / t).exists()] == []


def test_make_targets_exist():
    """Every `make` command in the documents is a target of the Makefile."""
    makefile = (REPOSITORY / "Makefile").read_text()
    text = README + (REPOSITORY / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []
