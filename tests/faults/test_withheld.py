"""A site that releases nothing, in a whole run: it is served like any other."""

from __future__ import annotations

import json
from pathlib import Path

from hyfree_ray.evaluation.scores import read_results
from hyfree_ray.federation.participation import FaultInjection
from tests.toy_processes import Start

BREAKS = {"site-2": FaultInjection(drops=("audit",))}


def test_a_site_that_withholds_still_gets_the_general_model_and_is_scored(
    start: Start, tmp_path: Path
) -> None:
    """Cases 89 and 94: its audit breaks, and nobody had to say that sites may be missing."""
    store = tmp_path / "store"
    process = start(store, fault_injections=BREAKS)
    process.join()
    said = Path(f"{store}.log").read_text()
    assert process.exitcode == 0, said
    told = json.loads(said.splitlines()[-1])["sites"]["site-2"]
    assert (told["outcome"], told["images"]) == ("withheld", 0)
    (closed,) = store.glob("pool/rounds/*/1.json")
    assert sorted(json.loads(closed.read_text())["releases"]) == ["site-1", "site-3"]
    assert not list(store.glob("sites/site-2/stages/release-*"))

    rows = read_results(store / "table.csv")
    own = {row.regime for row in rows if row.train_site == "site-2"}
    assert own == {"local", "local2x", "finetuned"}
    (general,) = store.glob("pool/stages/train_general-*/record.json")
    tuned = {}
    for file in store.glob("sites/*/stages/train_segmenter-*/record.json"):
        record = json.loads(file.read_text())
        if record["params"]["role"] == "finetuned":
            tuned[record["owner"]] = record["inputs"]["initial"]
    key = json.loads(general.read_text())["key"]
    assert tuned == {f"site-{number}": key for number in (1, 2, 3)}
    for regime in ("local", "local2x", "general", "finetuned"):
        at = {row.test_site for row in rows if row.regime == regime}
        assert at == {"site-1", "site-2", "site-3"}, regime
