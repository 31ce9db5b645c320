"""What a run paid for Dice, as the panels of `trade_offs.frontier`, and its learning curves."""

from __future__ import annotations

from collections.abc import Sequence

from hyfree_ray.evaluation.regimes import CONTROL, GENERAL, RELEASE, record_of
from hyfree_ray.reports.parts import device_hours, exchanged_bytes
from hyfree_ray.reports.trade_offs import Paid, TradeOff
from hyfree_ray.results.contrasts import Tested
from hyfree_ray.results.curves import LearningCurve, read_curves
from hyfree_ray.results.finished import Finished


def trade_offs(run: Finished) -> tuple[TradeOff, ...]:
    """Return Dice against megabytes, device hours and leakage, as far as the records tell."""
    megabytes, hours = [], []
    for regime in run.summary.regimes:
        dice = {"own": _dice(run, regime, "own"), "elsewhere": _dice(run, regime, "foreign")}
        if (sent := exchanged_bytes(run, regime)) is not None:
            megabytes.append(Paid(name=regime, price=sent / 1e6, **dice))
        if (spent := device_hours(run, regime)) is not None:
            hours.append(Paid(name=regime, price=spent, **dice))
    panels = (
        TradeOff(price="MB exchanged", value="Dice", points=tuple(megabytes)),
        TradeOff(price="device hours", value="Dice", points=tuple(hours)),
        TradeOff(price="AUC of the strongest attack", value="gain in Dice", points=_leakage(run)),
    )
    return tuple(panel for panel in panels if panel.points)


def _dice(run: Finished, regime: str, tested: Tested) -> float | None:
    score = run.summary.score(regime, tested)
    return None if score is None else score.primary


def _leakage(run: Finished) -> tuple[Paid, ...]:
    """Return what each hospital gains by sharing, against what its release tells an attacker."""
    found = []
    for verdict in run.summary.verdicts:
        card = run.summary.derived.get(verdict.site, {}).get("audit", {}).get("card") or {}
        auc = card.get("findings", {}).get("attacks", {}).get("auc")
        if auc is None:
            continue
        gains = [
            None if one is None else one.difference for one in (verdict.home, verdict.elsewhere)
        ]
        found.append(Paid(name=verdict.site, price=float(auc), own=gains[0], elsewhere=gains[1]))
    return tuple(found)


def curve_panels(run: Finished) -> list[tuple[str, Sequence[LearningCurve]]]:
    """Return the learning curves of the generators, of the control, and of what was shared."""
    shared = next((one.model for one in run.summary.verdicts if one.model), "")
    wanted = {RELEASE: "generators", **{name: name for name in (CONTROL, GENERAL, shared) if name}}
    curves = read_curves(run.folder)
    panels: list[tuple[str, Sequence[LearningCurve]]] = []
    for purpose, title in wanted.items():
        found = [one for one in curves if one.purpose == purpose and len(one.points) > 1]
        if found:
            label = title if purpose == RELEASE else f"{title}: {record_of(purpose).label}"
            panels.append((label if len(label) < 60 else title, found))
    return panels
