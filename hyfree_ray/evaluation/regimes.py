"""What a model can have been trained by: one record a regime, which everybody reads.

Names stand in `results.csv`, in `summary.json` and on the command line. Who trains a regime's
models is said here, and by which function: it is imported where that party's program runs. Another
package's regime arrives by the entry point `hyfree_ray.regimes` and stands behind the project's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hyfree_ray.core.registry import Registry

RELEASE = "release"
"""The purpose of what makes, checks and pools releases: it is for no regime alone."""

CONTROL = "local2x"
"""What a site has without sharing, after as many steps: what most regimes are compared with."""

GENERAL = "general"
"""The pool's model, which sites fine-tune."""

WITHOUT_ONE = "leave-one-out"
"""The general model without one release: that release's labels are compared with its."""

CHOSEN = "chosen"
"""What each site would keep, where it was asked: one of its `candidates`."""

THE_OTHERS = "(the others)"
"""Whose model it is, in tables of models and test sites; no site can be called so."""

Trainer = Literal["site", "pool", "oracle"]
Need = Literal["general", "replay"]


@dataclass(frozen=True, kw_only=True)
class Regime:
    """All that the project knows of a way to train, but for the training itself."""

    name: str
    label: str
    """In a reader's words: for legends and help."""
    progress: str
    """What its party does while it trains one."""
    trained_by: Trainer | None
    """None: nobody; it is one of the others by another name."""
    train: str = ""
    """"module:function" that trains it; `federation.trainers` says what it is called with."""
    setting: Literal["default", "optional"] | None = None
    """Whether it is trained where `--settings` is not given, or named there alone. None: always."""
    releases: Literal["none", "own", "others", "all"] = "none"
    """Whose releases are in a model: of none, of the site that it is named after, of all but that
    site, which alone tests it, or of all that were pooled."""
    needs: tuple[Need, ...] = ()
    """What a site's training begins with, in the order of its arguments: the general model, and
    the other sites' releases as they are handed out for replay."""
    synthetic_share: float | None = None
    """Of the images that the oracle trains one network on; None: it is no mixture."""
    control: str | None = CONTROL
    """The regime that it is compared with on the same patients."""
    by_site: bool = False
    """Its differences are shown site by site and as a curve; others' over all sites."""
    primary: bool = False
    """It is compared first: the paper's claim."""
    candidate: int | None = None
    """A site may keep it: the lower, the better it should travel."""
    note: str = ""
    """What a reader of its numbers has to know, below tables."""

    @property
    def foreign_only(self) -> bool:
        """Whether its models are named after the one site that they know nothing of."""
        return self.releases == "others"

    @property
    def of_the_pool(self) -> bool:
        """Whether its models know of other sites by their pooled releases alone."""
        return self.releases == "all" and self.trained_by != "oracle"

    @property
    def of_one_release(self) -> bool:
        """Whether there is a model for each release that was pooled."""
        return self.releases in {"own", "others"}


_TRAINING = "hyfree_ray.federation.training:"


def _mixture(percent: int) -> Regime:
    synthetic = "all of them" if percent == 100 else f"{percent} % of them"
    return Regime(
        name=f"mix-{percent}",
        label=f"one model on as many images as there are real ones, {synthetic} synthetic",
        progress=f"training on a mixture, {percent if percent < 100 else 'all'}"
        f"{' %' if percent < 100 else ''} synthetic",
        trained_by="oracle",
        train=_TRAINING + "train_on_mixture",
        setting="optional",
        releases="all",
        synthetic_share=percent / 100,
    )


_OWN: dict[str, Regime] = {
    regime.name: regime
    for regime in (
        Regime(
            name="local",
            label="the hospital's own images alone",
            progress="training its own nnU-Net",
            trained_by="site",
            train=_TRAINING + "train_local",
            control=None,
        ),
        Regime(
            name=CONTROL,
            label="the hospital's own images alone, for as many steps as with sharing",
            progress="training the control (local2x)",
            trained_by="site",
            train=_TRAINING + "train_local2x",
            control=None,
            candidate=3,
        ),
        Regime(
            name=GENERAL,
            label="one model for all, on all shared synthetic images",
            progress="training the general nnU-Net",
            trained_by="pool",
            train=_TRAINING + "train_general",
            releases="all",
            by_site=True,
        ),
        Regime(
            name="finetuned",
            label="the general model, trained further on the hospital's own images",
            progress="fine-tuning",
            trained_by="site",
            train=_TRAINING + "finetune",
            releases="all",
            needs=("general",),
            by_site=True,
            primary=True,
            candidate=2,
        ),
        Regime(
            name="personalised",
            label="as finetuned, with the other hospitals' synthetic images in each batch",
            progress="fine-tuning with replay",
            trained_by="site",
            train=_TRAINING + "personalise",
            setting="default",
            releases="all",
            needs=("general", "replay"),
            by_site=True,
            candidate=1,
        ),
        Regime(
            name=CHOSEN,
            label="what the hospital would keep, by its own validation cases",
            progress="choosing a model",
            trained_by=None,
            releases="all",
            by_site=True,
        ),
        Regime(
            name="real-all",
            label="one model on the real images of all hospitals: what sharing them would give",
            progress="training on all real data",
            trained_by="oracle",
            train=_TRAINING + "train_together",
            setting="default",
            synthetic_share=0.0,
            by_site=True,
        ),
        Regime(
            name="syn",
            label="the synthetic images of one hospital alone",
            progress="training on one release",
            trained_by="pool",
            train=_TRAINING + "train_general",
            setting="optional",
            releases="own",
        ),
        Regime(
            name="own-syn",
            label="twice the hospital's own synthetic images, then its real ones",
            progress="training with its own release",
            trained_by="site",
            train=_TRAINING + "train_on_own_synthetic",
            setting="optional",
            releases="own",
        ),
        Regime(
            name=WITHOUT_ONE,
            label="the general model without the hospital's synthetic images, at that hospital",
            progress="training without one release",
            trained_by="pool",
            train=_TRAINING + "train_general",
            setting="optional",
            releases="others",
            note="leave-one-out: the general model without a site's release, at that site; minus "
            "the control models of the other sites there.",
        ),
        *map(_mixture, (25, 50, 75, 100)),
        Regime(
            name="fedavg",
            label="one model by federated averaging on real images that stay where they are",
            progress="federated averaging",
            trained_by="oracle",
            train=_TRAINING + "train_by_averaging",
            setting="optional",
        ),
    )
}
"""By name, in the order of columns."""

REGIMES = Registry("regime", "hyfree_ray.regimes", Regime, _OWN)


def setting_names() -> tuple[str, ...]:
    """List what `--settings` may name, another package's regimes too; nothing is imported."""
    always = [name for name, one in _OWN.items() if one.setting is None]
    return tuple(name for name in REGIMES.names() if name not in always)


def is_setting(name: str) -> bool:
    """Return whether a regime is trained only where it is asked for; it is imported."""
    return name in REGIMES and REGIMES[name].setting is not None


def settings(*, default: bool = False) -> tuple[str, ...]:
    """Return the project's settings, or those of them that are trained by default."""
    wanted = {"default"} if default else {"default", "optional"}
    return tuple(name for name, one in _OWN.items() if one.setting in wanted)


def protocol() -> tuple[str, ...]:
    """Return what is always trained: the paper's protocol with its control."""
    return tuple(n for n, one in _OWN.items() if one.setting is None and one.trained_by)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return regimes each once in the order of columns: the project's, then others by name."""
    found = set(names)
    return (*(name for name in _OWN if name in found), *sorted(found - _OWN.keys()))


def trained_by(trainer: Trainer, names: Iterable[str] = _OWN) -> tuple[str, ...]:
    """Return those of some regimes that a party trains, in the order of columns."""
    return tuple(name for name in in_order(names) if record_of(name).trained_by == trainer)


def of_own_images() -> tuple[str, ...]:
    """Return the regimes of the protocol that a site trains on its own images alone."""
    return tuple(n for n in protocol() if _OWN[n].trained_by == "site" and not _OWN[n].needs)


def candidates(asked: Iterable[str] = ()) -> tuple[str, ...]:
    """Return what a site chooses from, in the order in which it should travel best.

    Args:
        asked: settings, of which another package's may be a candidate too.
    """
    known = map(record_of, in_order({*_OWN, *asked}))
    ranks = {one.name: one.candidate for one in known if one.candidate is not None}
    return tuple(sorted(ranks, key=ranks.__getitem__))


def replays(names: Iterable[str]) -> bool:
    """Return whether one of these regimes needs the releases handed out to sites."""
    return any("replay" in record_of(name).needs for name in names)


def purposes_of(name: str, labeller: str) -> frozenset[str]:
    """Return what stages are for that a regime's models stand on, itself included.

    Args:
        name: the regime.
        labeller: the regime of the networks that label releases.
    """
    record = record_of(name)
    of_releases = {RELEASE, "local", labeller} if record.releases != "none" else set()
    return frozenset({name, *of_releases, *(need for need in record.needs if need in _OWN)})


def record_of(name: str) -> Regime:
    """Return a regime's record; of one that only a file knows, a bare one with its name."""
    if name in REGIMES:
        return REGIMES[name]
    return Regime(name=name, label=name, progress=name, trained_by=None, control=None)


def primary() -> str:
    """Return the regime that is compared first."""
    return next(name for name, one in _OWN.items() if one.primary)
