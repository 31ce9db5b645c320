"""A site's stages for a measurement: one after the other in this process, in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.execution import execute
from hyfree_ray.core.stage import Stage
from hyfree_ray.core.store import Store


class Bench:
    """A store in which a measurement's stages are made once.

    Args:
        root: the store's folder.
        owner: the party that the stages are run as.
    """

    def __init__(self, root: Path, owner: str) -> None:
        self.store = Store(root, owner, {})
        self.owner = owner

    def run(self, stage: Stage, **arguments: Any) -> Artifact:
        """The artifact of a call, made here unless it is there."""
        call = stage.call(**arguments)
        folder = self.store.folder(call.stage, call.key)
        execute(stage.module, call, folder, owner=self.owner, device="cpu")
        return self.store.find(call)
