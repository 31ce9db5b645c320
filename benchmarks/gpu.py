"""All there is to learn of a GPU in nine minutes, the most telling first.

    python benchmarks/gpu.py --out gpu [--minutes 9] [--data Dataset301_LungCXR] [--stages NAME,...]
    python benchmarks/gpu.py --table gpu         # what was measured, as the table of docs/GPU.md
    python benchmarks/gpu.py --missing           # what to install for the stages that need more

Each stage is a process of its own with an equal share of the time. It writes `OUT/STAGE.json` after
every finding, so that a kill, or a stage that breaks, loses one. Most need torch, numpy and the
checkout alone; those that need more say so and are left out where it is missing.

N images, C channels, H, W.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout, not installed

from gpu_stages import Write, correctness, epoch, memory, missing, release, speed


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of the script."""

    about: str
    needs: tuple[str, ...]
    """Packages to import beside torch and numpy."""
    run: Callable[[argparse.Namespace, float, Write], None]
    """Gets the arguments, the time.monotonic() by which to end, and where to write to."""


STAGES = {
    "correctness": Stage(about="against the CPU", needs=("safetensors",), run=correctness),
    "speed": Stage(about="seconds for 1000 images", needs=("pyarrow",), run=speed),
    "epoch": Stage(about="nnU-Net", needs=("nnunetv2", "SimpleITK"), run=epoch),
    "memory": Stage(about="the device's memory", needs=(), run=memory),
    "release": Stage(about="a real training", needs=("PIL", "safetensors"), run=release),
}
"""In the order in which they are run: the most telling first."""


def run_stage(name: str, arguments: argparse.Namespace, seconds: float) -> None:
    """Run one stage in this process, and write what it finds as it finds it."""
    path = arguments.out / f"{name}.json"
    begun = time.monotonic()
    found: dict[str, Any] = {"machine": machine(arguments), "findings": {}}

    def write(what: str, value: Any) -> None:
        found["findings"][what] = value
        found["seconds"] = round(time.monotonic() - begun, 1)
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps(found, indent=1))
        fresh.replace(path)
        print(f"{name}: {what}: {json.dumps(value)}", flush=True)

    STAGES[name].run(arguments, begun + seconds, write)


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """Describe the device, the versions and the settings."""
    import torch

    on_gpu = arguments.device.startswith("cuda")
    versions = {}
    for package in ("torch", "numpy", "nnunetv2"):
        if not missing((package,)):
            versions[package] = importlib.metadata.version(package)
    return {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or "cpu",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "versions": versions,
        "tiny": arguments.tiny,
    }


def run_all(arguments: argparse.Namespace, names: Sequence[str]) -> int:
    """Run stages one after the other, each in a process that is ended when its time is up.

    Returns:
        How many broke.
    """
    arguments.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes
    broken = 0
    for number, name in enumerate(names):
        seconds = max(5.0, (end - time.monotonic()) / (len(names) - number))
        if lacking := missing(STAGES[name].needs):
            print(f"{name}: left out, for {', '.join(lacking)} is not installed (--missing)")
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        process = subprocess.Popen([*command, "--seconds", str(seconds)])
        try:
            failed = process.wait(seconds + 30) != 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            print(f"{name}: ended after {seconds + 30:.0f} s; what it had found is kept")
            failed = False
        broken += failed
        if failed:
            print(f"{name}: broke; the reason is above", file=sys.stderr)
    return broken


def table(folder: Path) -> str:
    """Write what was measured as the table of docs/GPU.md."""
    lines = ["| stage | what | found |", "|---|---|---|"]
    described = {}
    for name in STAGES:
        path = folder / f"{name}.json"
        if not path.is_file():
            lines.append(f"| {name} | | not run |")
            continue
        read = json.loads(path.read_text())
        described = read["machine"]
        for what, value in read["findings"].items():
            values = value.items() if isinstance(value, dict) else [("", value)]
            cells = (f"{key} {_short(one)}".strip() for key, one in values if key != "losses")
            lines.append(f"| {name} | {what} | {', '.join(cells)} |")
    versions = ", ".join(f"{k} {v}" for k, v in described.get("versions", {}).items())
    head = f"{described.get('device')}, CUDA {described.get('cuda')}, {versions}"
    return "\n".join([head + (", tiny networks" if described.get("tiny") else ""), "", *lines])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", type=Path, default=Path("Dataset301_LungCXR"))
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--tiny", action="store_true", help="small networks: to try the script out")
    parser.add_argument("--table", type=Path, metavar="OUT")
    parser.add_argument("--missing", action="store_true")
    parser.add_argument("--only", choices=list(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.table))
        return
    if arguments.missing:
        wanted = {"PIL": "pillow"}
        names = [wanted.get(n, n) for n in missing([n for s in STAGES.values() for n in s.needs])]
        print(f"pip install {' '.join(dict.fromkeys(names))}" if names else "nothing is missing")
        return
    names = [name for name in arguments.stages.split(",") if name]
    if unknown := [name for name in names if name not in STAGES]:
        parser.error(f"no stage {', '.join(unknown)}; there are {', '.join(STAGES)}")
    if "release" in names and not (arguments.data / "imagesTr").is_dir():
        print(f"release: left out, for {arguments.data} is not there (--data)")
        names.remove("release")
    if arguments.only:
        run_stage(arguments.only, arguments, arguments.seconds)
        return
    sys.exit(1 if run_all(arguments, names) else 0)


if __name__ == "__main__":
    main()
