"""Name what a stage makes before it exists, and know it again once it does.

    key = sha256(stage name, stage version, the parameters it reads, keys of its inputs)

The place of the store and the order of the sites are not in a key; neither is any output. So keys
are known before anything runs, a stage that is done is never run again, and whoever asks for the
same thing twice, be it after a crash or in another experiment, gets the same folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.records import ParcelRecord, StageRecord

RAW_DATA = "data"
"""The stage of an artifact that no stage made: a hospital's own raw data set."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Something that a stage makes: known by its key before it exists."""

    stage: str
    key: str
    path: Path
    record: StageRecord | ParcelRecord | None = None
    """None while it is only planned, and of what no stage made."""

    def __truediv__(self, name: str, /) -> Path:
        return self.path / name

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def result(self) -> Mapping[str, Any]:
        """Return the numbers that the stage returned."""
        if self.record is None:
            raise AssertionError(f"{self.stage} {self.key[:8]} has not run")
        return self.record.result


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a stage: what it is, what it reads, and nothing about where it runs."""

    stage: str
    version: int
    params: Mapping[str, Any]
    inputs: Mapping[str, Artifact] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return the artifact's address."""
        inputs = {name: artifact.key for name, artifact in self.inputs.items()}
        return digest_of([self.stage, self.version, self.params, inputs])
