"""`hyfree-ray store`: list what a store holds, and free what is no longer needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from hyfree_ray.commands.command_group import CommandGroup
from hyfree_ray.commands.options import EXIT_CODES, STORE
from hyfree_ray.core.errors import HyfreeError


@click.group(cls=CommandGroup, epilog=EXIT_CODES)
def store() -> None:
    """List what a store holds, and free what no result needs any more.

    \b
    Examples:
      hyfree-ray store ls
      hyfree-ray store gc
      hyfree-ray store gc --snapshots
    """


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A stage's folder."""

    party: str
    stage: str
    folder: Path
    done: bool

    @property
    def checkpoints(self) -> list[Path]:
        """List what only an unfinished training needs."""
        return files(self.folder / "checkpoints") if self.done else []

    def unchosen(self, chosen: Mapping[str, set[str]]) -> list[Path]:
        """List snapshots of a generator that its site chose in no experiment."""
        if self.stage != "train_generator" or self.folder.name not in chosen:
            return []
        keep = chosen[self.folder.name]
        return [file for file in files(self.folder / "snapshots") if file.name not in keep]


@store.command(epilog=EXIT_CODES)
@STORE
def ls(store: Path) -> None:
    """List stages by party: how many are done, their size, and what `gc` would free.

    \b
    Example:
      hyfree-ray store ls --store hyfree-store
    """
    chosen = _chosen(store)
    rows: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for kept in _all(store):
        row = rows[kept.party, kept.stage]
        row[0] += kept.done
        row[1] += not kept.done
        row[2] += size(files(kept.folder))
        row[3] += size([*kept.checkpoints, *kept.unchosen(chosen)])
    click.echo(f"{'party':<16} {'stage':<22} {'done':>5} {'open':>5} {'MiB':>9} {'to free':>9}")
    for (party, stage), (done, unfinished, held, free) in sorted(rows.items()):
        numbers = f"{done:>5} {unfinished:>5} {_mib(held):>9} {_mib(free):>9}"
        click.echo(f"{party:<16} {stage:<22} {numbers}")
    held, free = (sum(row[place] for row in rows.values()) for place in (2, 3))
    click.echo(f"{len(rows)} kinds of stages, {_mib(held)} MiB, of which gc can free {_mib(free)}")
    refused = _quarantined(store)
    if refused:
        held = size([file for folder in refused for file in files(folder)])
        click.echo(f"{len(refused)} refused releases in {refused[0].parent}, {_mib(held)} MiB")


@store.command(epilog=EXIT_CODES)
@STORE
@click.option(
    "--snapshots",
    is_flag=True,
    help="Also free snapshots of generators that were not chosen; another choice retrains them.",
)
@click.option("--quarantine", is_flag=True, help="Also delete releases that the pool refused.")
@click.option("--dry-run", is_flag=True, help="Print what would be freed; delete nothing.")
def gc(store: Path, snapshots: bool, quarantine: bool, dry_run: bool) -> None:
    """Free the checkpoints of finished trainings. No result changes, and nothing is rerun.

    \b
    Examples:
      hyfree-ray store gc --dry-run
      hyfree-ray store gc
    """
    from hyfree_ray.core.files import locked, remove_tree

    chosen = _chosen(store) if snapshots else {}
    freed = count = 0
    for kept in _all(store):
        doomed = [*kept.checkpoints, *kept.unchosen(chosen)]
        if not doomed:
            continue
        freed, count = freed + size(doomed), count + len(doomed)
        if not dry_run:
            with locked(kept.folder):
                for file in doomed:
                    file.unlink(missing_ok=True)
    for folder in _quarantined(store) if quarantine else []:
        doomed = files(folder)
        freed, count = freed + size(doomed), count + len(doomed)
        if not dry_run:
            remove_tree(folder)
    click.echo(f"{'would free' if dry_run else 'freed'} {_mib(freed)} MiB in {count} files")


def _all(store: Path) -> Iterator[Kept]:
    """Find every stage's folder.

    Raises:
        HyfreeError: the folder is no store, or one of another version.
    """
    from hyfree_ray.core.store_root import check_layout

    if not (store / "store.json").is_file():
        raise HyfreeError("store.not-found", f"{store}: not a store; name one with --store")
    check_layout(store)
    for root in sorted([*store.glob("sites/*"), store / "pool", store / "oracle"]):
        for folder in sorted(root.glob("stages/*-*")):
            yield Kept(
                party=root.name,
                stage=folder.name.rpartition("-")[0],
                folder=folder,
                done=(folder / "record.json").is_file(),
            )


def _quarantined(store: Path) -> list[Path]:
    """Find the folder of each release that was refused, which says why in its `reason.txt`."""
    from hyfree_ray.federation.quarantine import FOLDER

    return sorted((store / "pool" / FOLDER).glob("*/"))


def _chosen(store: Path) -> dict[str, set[str]]:
    """Read which snapshots experiments have chosen, by folder of the generator."""
    from hyfree_ray.core.records import StageRecord, load_record

    found: dict[str, set[str]] = defaultdict(set)
    for kept in _all(store):
        if kept.stage == "choose_snapshot" and kept.done:
            record = load_record(kept.folder, StageRecord)
            generator = f"train_generator-{record.inputs['generator'][:20]}"
            found[generator].add(record.result["snapshot"])
    return dict(found)


def files(folder: Path) -> list[Path]:
    """List all files below a folder."""
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def size(paths: list[Path]) -> int:
    """Sum up bytes; a file that has gone meanwhile has none."""
    return sum(path.stat().st_size for path in paths if path.exists())


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f}"
