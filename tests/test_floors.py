"""The house: imports go downwards only, and heavy libraries have one door each."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import hyfree_ray

ROOT = Path(hyfree_ray.__file__).parent

FLOORS = (
    ("core",),
    ("cohorts",),
    ("importers",),
    ("border", "evaluation"),
    ("results", "segmenters"),
    ("generators", "reports"),
    ("config", "privacy"),
    ("stages",),
    ("federation",),
    ("observing", "scheduling"),
    ("runners",),
    ("api", "studies"),
    ("commands",),
    ("cli",),
)
"""From the ground up: a room imports from the floors below its own alone, so there is no circle."""

MAX_ROOMS = 22
MAX_FLOORS = 14

DOORS = {
    "nnunetv2": "segmenters/nnunet/",
    "ray": "runners/ray",
    "mlflow": "observing/mlflow.py",
    "monai": "evaluation/metrics.py",
    "open_clip": "privacy/embedders.py",
    "jinja2": "reports/pages.py",
    "pandas": "api/",
}

NO_TORCH = ("cohorts", "importers", "border", "config", "results", "reports")


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def floor_of(module: str) -> int:
    for number, names in enumerate(FLOORS):
        if module in names:
            return number
    raise AssertionError(f"{module} is on no floor: give it one")


def imports(file: Path) -> set[str]:
    """Modules that a file imports anywhere, lazily too, but not for type checking alone."""
    tree = ast.parse(file.read_text())
    skipped = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_go_downwards_only() -> None:
    wrong = []
    for file in files():
        own = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for module in imports(file):
            parts = module.split(".")
            if parts[0] != "hyfree_ray" or len(parts) < 2 or parts[1] == "__version__":
                continue
            if not (ROOT / parts[1]).is_dir() and not (ROOT / f"{parts[1]}.py").exists():
                continue
            if parts[1] != own and floor_of(parts[1]) >= floor_of(own):
                wrong.append(f"{file.relative_to(ROOT)} imports {module}")
    assert not wrong


def test_the_house_has_few_rooms_on_few_floors() -> None:
    rooms = {file.relative_to(ROOT).parts[0].removesuffix(".py") for file in files()}
    assert len(rooms) <= MAX_ROOMS
    assert len(FLOORS) <= MAX_FLOORS


def test_heavy_libraries_have_one_door_each() -> None:
    wrong = []
    for file in files():
        place = str(file.relative_to(ROOT))
        for module in imports(file):
            door = DOORS.get(module.split(".")[0])
            if door is not None and not place.startswith(door):
                wrong.append(f"{place} imports {module}")
    assert not wrong


def test_nouns_do_not_import_torch() -> None:
    for file in files():
        if file.relative_to(ROOT).parts[0].removesuffix(".py") in NO_TORCH:
            assert not any(module.split(".")[0] == "torch" for module in imports(file)), file


def test_help_and_dry_run_never_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from hyfree_ray.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'ray' not in sys.modules\n"
    )
    for arguments in (["--help"], ["simulate", "--help"], ["simulate", "--dry-run"]):
        store = [] if "--help" in arguments else ["--store", str(tmp_path / "store")]
        subprocess.run([sys.executable, "-c", code, *arguments, *store], check=True)
    assert not (tmp_path / "store").exists()


def test_a_partys_process_imports_neither_torch_nor_readers_of_images() -> None:
    code = (
        "import sys\n"
        "import hyfree_ray.runners.ray\n"
        "heavy = {'torch', 'SimpleITK', 'nibabel', 'scipy', 'matplotlib', 'mlflow', 'nnunetv2'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_file_is_long() -> None:
    long = [file.name for file in files() if len(file.read_text().splitlines()) > 400]
    assert not long


def test_every_case_at_the_border_is_named_by_a_test() -> None:
    """`docs/BORDER.md` numbers what has to hold; a test that holds it says so in its docstring."""
    table = (ROOT.parent / "docs" / "BORDER.md").read_text().splitlines()
    listed = {number for line in table for number in _numbers(line.partition(" | ")[0], "| ")}
    named = set()
    for file in ROOT.parent.joinpath("tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.Module):
                named |= _numbers(ast.get_docstring(node) or "", "Case")
    assert len(listed) > 40
    assert listed - named == set()


def _numbers(text: str, start: str) -> set[int]:
    """The numbers that a text which starts so names, `41-43` as three of them."""
    if not text.startswith(start):
        return set()
    first = re.match(r"[| a-zA-Z]*([0-9, and-]*)", text)
    assert first is not None
    found = set()
    for low, high in re.findall(r"(\d+)(?:-(\d+))?", first[1]):
        found |= set(range(int(low), int(high or low) + 1))
    return found
