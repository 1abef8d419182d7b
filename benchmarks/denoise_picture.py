"""A picture through the published-size GCDN: processor time and peak memory.

    python benchmarks/denoise_picture.py --size 512 --threads 1 --out results/NAME/picture.json

Weights are random: neither time nor memory depends on them. Time is the processor's, of all threads
together, so that other work on the machine does not count. Memory is the process's, and what the
call adds to what it held before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
from harness import MIB, provenance, resident

from polygraph.models import create_model, denoise_tiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--preset", default="gcdn")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    model = create_model(chosen.preset).eval()
    denoise_tiles(model, torch.rand(1, 16, 16))  # loads the code
    picture = torch.rand(1, chosen.size, chosen.size)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    start, wall = time.process_time(), time.perf_counter()
    denoise_tiles(model, picture, tile=chosen.tile)
    row = {
        "workload": f"{chosen.preset}, {chosen.size} x {chosen.size}",
        "tile": chosen.tile,
        "parameters": sum(p.numel() for p in model.parameters()),
        "processor_seconds": round(time.process_time() - start, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "peak_mib": round(resident("VmHWM") / MIB),
        "added_mib": round((resident("VmHWM") - before) / MIB),
        **provenance("cpu"),
    }
    print(json.dumps(row, indent=1))
    if chosen.out is not None:
        chosen.out.write_text(json.dumps([row], indent=1) + "\n")


if __name__ == "__main__":
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:  # which is read when a process starts
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
