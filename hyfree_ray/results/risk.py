"""What the privacy card of a release says of its risk: the one place where results read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyfree_ray.border.privacy_card import format_risk, read_card


def format_attack(audited: Mapping[str, Any] | None) -> str:
    """Return what a site's audit says of its release's risk; empty where none was made."""
    if audited is None or audited.get("card") is None:
        return ""
    return format_risk(read_card(audited["card"]))


def attack_succeeds(audited: Mapping[str, Any] | None) -> bool:
    """Return whether an attack tells more of who was trained on than chance does, in 95 %."""
    if audited is None or audited.get("card") is None:
        return False
    found = read_card(audited["card"]).findings.attacks
    return found.auc is not None and found.chance is not None and found.auc > found.chance
