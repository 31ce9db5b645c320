"""Seeds. Each is derived from names, so that adding a site changes no other site's seeds."""

from __future__ import annotations

import hashlib


def seed_of(*parts: str | int) -> int:
    """A 63-bit seed from the parts' text, in order.

    `seed_of(experiment_seed, site, stage)` seeds a stage, `seed_of(stage_seed, "step", k)` one
    interval of it.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
