"""docs/API.md: its examples run, in their order, on a store that has the run already."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import hyfree_ray
from hyfree_ray.evaluation.metrics import METRICS
from tests.pictures import write_pictures

PAGE = Path(__file__).parents[2] / "docs" / "API.md"


def test_the_examples_run(
    whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = whole
    before = set(store.rglob("record.json"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(METRICS, "_records", dict(METRICS._records))
    monkeypatch.setattr(METRICS, "_registered", set(METRICS._registered))
    Path("hyfree-store").symlink_to(store)
    Path("inbox").mkdir()
    (release,) = (store / "pool" / "received" / "site-1").iterdir()
    shutil.copytree(release, "inbox/site-1")
    write_pictures(Path("x-rays"))
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(examples) > 5
    names: dict[str, object] = {}
    for number, example in enumerate(examples):
        exec(compile(example, f"{PAGE.name}, example {number + 1}", "exec"), names)
    assert set(store.rglob("record.json")) == before, "all of it was there"


def test_each_name_of_the_api_is_on_the_page() -> None:
    text = PAGE.read_text()
    public = {"simulate", "load_run", "load_release", "train_generator", "register", "Experiment"}
    assert public <= hyfree_ray._HOMES.keys()
    assert [
        name for name in public if f"`{name}`" not in text and f"hyfree_ray.{name}" not in text
    ] == []
