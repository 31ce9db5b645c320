"""A hospital's own look at its patients' risk, and the patients whom it leaves out for it.

Nothing of this is in a release, but the number of those who were left out.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path

from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import writing_to
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.records import StageRecord
from hyfree_ray.evaluation.regimes import RELEASE
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.parameters import embedder, numbered
from hyfree_ray.federation.site import SiteParty
from hyfree_ray.privacy.risk import PatientRisk
from hyfree_ray.stages.risk import PATIENTS, patient_risk

COLUMNS = ("rank", *(field.name for field in fields(PatientRisk)))


async def measure_risk(party: SiteParty) -> Artifact:
    """Measure the risk of each patient whom a site's generator was trained on.

    Raises:
        HyfreeError: no sample passed the filter.
    """
    done = await party.contribute()
    if not done.samples.result["accepted"]:
        raise HyfreeError(
            "site.nothing-accepted",
            f"{party.name}: its filter let no sample pass, so that there is no release whose risk "
            "could be measured",
        )
    choice = await party.choose_snapshot(done.local)
    others = _other_trainings(party, done.local.generator)
    return await party.run(
        RELEASE,
        patient_risk,
        samples=done.samples,
        **done.local.inputs(),
        snapshot=choice.result["snapshot"],
        **embedder(party.experiment),
        **numbered("training", [training for training, _ in others]),
        **numbered("view", [view for _, view in others]),
    )


def _other_trainings(party: SiteParty, generator: Artifact) -> list[tuple[Artifact, Artifact]]:
    """Return the site's finished trainings with the same settings on other images, each with what
    it saw or was spared."""
    own = generator.record
    assert isinstance(own, StageRecord)
    found = []
    for record in party.store.records(generator.stage):
        same = all(
            record.params[name] == own.params[name] for name in ("generator", "mirror", "precision")
        )
        view = party.store.find_key("prepare", record.inputs["prepared"])
        if same and record.inputs["prepared"] != own.inputs["prepared"] and view.record is not None:
            found.append((party.store.find_key(record.stage, record.key), view))
    return found


def write_risks(file: Path, found: Artifact, patients: Mapping[int, str]) -> int:
    """Write a CSV of the patients, the highest risk first, readable by the owner alone.

    Args:
        file: where to.
        found: what `measure_risk` returned.
        patients: the hospital's own names of its patients, by number.

    Returns:
        The number of rows.
    """
    rows = json.loads((found.path / PATIENTS).read_text())
    with writing_to(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.chmod(0o600)
        with file.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, COLUMNS)
            table.writeheader()
            for rank, row in enumerate(rows, start=1):
                table.writerow({"rank": rank, **row, "patient": patients[row["patient"]]})
    return len(rows)


def leave_out(site: Site, names: Collection[str], patients: Mapping[int, str]) -> Site:
    """Return the site without some of the patients that it would train on.

    Their cases are in no part of it. Who is tested on or chooses a snapshot stays: these patients
    tell of what was trained, and are not in it.

    Args:
        site: the hospital.
        names: the hospital's own names of these patients; none: the site stays as it is.
        patients: those names, by number.

    Raises:
        HyfreeError: one of them is not trained on, or nobody would be left.
    """
    training = {case["patient"] for case in site.part("train")}
    numbers = {patients[number]: number for number in training}
    if not names:
        return site
    for name in names:
        if name not in numbers:
            raise HyfreeError(
                "option.unknown-patient",
                f"--without {name}: {site.name} trains on no such patient in this fold; "
                "'site risk' lists them",
            )
    gone = {numbers[name] for name in names}
    if len(training - gone) < 2:
        raise HyfreeError(
            "option.unknown-patient",
            f"--without: fewer than two patients would be left to train on at {site.name}",
        )
    cases = tuple(case for case in site.cases if case["patient"] not in gone)
    key = digest_of([site.key, "without", sorted(gone)])
    return replace(site, cases=cases, key=key, left_out=len(gone))
