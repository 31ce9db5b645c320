"""Versions of the stages that make a release: raising one starts a new round."""

from __future__ import annotations

from hyfree_ray.stages.audit import audit
from hyfree_ray.stages.data import draw_phantom, prepare
from hyfree_ray.stages.quality import choose_snapshot
from hyfree_ray.stages.quality_card import quality_card
from hyfree_ray.stages.synthesis import label, release, synthesise
from hyfree_ray.stages.training import overtrain_generator, train_generator, train_segmenter

_MAKE_A_RELEASE = (
    draw_phantom, prepare, train_generator, train_segmenter, choose_snapshot, overtrain_generator,
    synthesise, audit, label, quality_card, release,
)  # fmt: skip
RELEASE_VERSIONS = tuple(one.version for one in _MAKE_A_RELEASE)
