"""What a model can have been trained by: one record a regime, which everybody reads.

Names stand in `results.csv`, in `summary.json` and on the command line. Who trains a regime's
models is said here, and by which function: it is imported where that party's program runs. Another
package's regime arrives by the entry point `hyfree_ray.regimes` and stands behind the project's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hyfree_ray.core.registry import Registry
from hyfree_ray.evaluation.regime import CONTROL as CONTROL
from hyfree_ray.evaluation.regime import REPLAY as REPLAY
from hyfree_ray.evaluation.regime import Augmentation as Augmentation
from hyfree_ray.evaluation.regime import Regime as Regime
from hyfree_ray.evaluation.regime import Trainer

RELEASE = "release"
"""The purpose of what makes, checks and pools releases: it is for no regime alone."""

PUBLIC = "public"
"""The purpose of what labels public images, and reads such labels."""

GENERAL = "general"
"""The pool's model, which sites fine-tune."""

WITHOUT_ONE = "leave-one-out"
"""The general model without one release: that release's labels are compared with its."""

CHOSEN = "chosen"
"""What each site would keep, where it was asked: one of its `candidates`."""

THE_OTHERS = "(the others)"
"""Whose model it is, in tables of models and test sites; no site can be called so."""

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


def _own_added(per_real: float) -> Regime:
    times = f"{per_real:g}"
    return Regime(
        name=f"augment-{times}",
        label=f"the hospital's own images, and {times} times as many of its own generator",
        progress=f"training with {times} times its own synthetic images added",
        trained_by="site",
        train=_TRAINING + "train_with_own_added",
        setting="optional",
        added_per_real=per_real,
        by_site=True,
    )


_BASE = (
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
        needs=(GENERAL,),
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
        needs=(GENERAL, REPLAY),
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


def _augmented(base: Regime) -> Regime:
    """Return a regime that differs from another by the augmentation of all its trainings."""
    return replace(
        base,
        name=f"{base.name}-da",
        label=f"{base.label}; images augmented more strongly",
        progress=f"{base.progress}, images augmented more strongly",
        setting="optional",
        needs=tuple("general-da" if need == GENERAL else need for need in base.needs),
        augmentation="da5",
        control=CONTROL,
        by_site=True,
        primary=False,
        candidate=None,
    )


def _not_augmented(base: Regime) -> Regime:
    """Return a regime that differs from another by a training without any augmentation."""
    return replace(
        base,
        name=f"{base.name}-noda",
        label=f"{base.label}; images not augmented",
        progress=f"{base.progress}, images not augmented",
        setting="optional",
        augmentation="none",
        control=None if base.name == CONTROL else f"{CONTROL}-noda",
        by_site=False,
        candidate=None,
    )


def _on_public_images(base: Regime) -> Regime:
    """Return a regime whose pool holds labels of the same public images, and no generator's."""
    return replace(
        base,
        name=f"{base.name}-public",
        label=f"{base.label}; of public noise in place of synthetic images",
        progress=f"{base.progress}, on public images",
        setting="optional",
        needs=tuple(f"{need}-public" if need == GENERAL else need for need in base.needs),
        carrier="public",
        by_site=True,
        primary=False,
        candidate=None,
    )


def _ensemble(name: str, first: str, second: str) -> Regime:
    return Regime(
        name=name,
        label=f"{first} and {second}, softmax averaged",
        progress=f"averaging {first} and {second}",
        trained_by="site",
        train=_TRAINING + "train_ensemble",
        setting="optional",
        releases="all",
        needs=(GENERAL, REPLAY),
        members=(first, second),
        by_site=True,
    )


def _of(name: str) -> Regime:
    return next(one for one in _BASE if one.name == name)


_MORE = (
    *(_augmented(_of(name)) for name in (CONTROL, GENERAL, "finetuned", "personalised")),
    replace(
        _augmented(_of(CONTROL)),
        name="local2x-gin",
        label=f"{_of(CONTROL).label}; intensities through random networks as well",
        progress=f"{_of(CONTROL).progress}, intensities through random networks as well",
        augmentation="da5+gin",
    ),
    *(_on_public_images(_of(name)) for name in (GENERAL, "finetuned", "personalised")),
    Regime(
        name="local-ensemble",
        label="local2x trained twice from different seeds, softmax averaged",
        progress="training and averaging local2x from two seeds",
        trained_by="site",
        train=_TRAINING + "train_two_controls",
        setting="optional",
        members=(CONTROL,),
        by_site=True,
    ),
    *(
        Regime(
            name=name,
            label=f"a model for each hospital by {title}, on real images that stay where they are",
            progress=f"federated training ({title})",
            trained_by="oracle",
            train=_TRAINING + f"train_by_{name}",
            setting="optional",
            by_hospital=True,
            by_site=True,
        )
        for name, title in (("fedbn", "FedBN"), ("ditto", "Ditto"))
    ),
    _ensemble("ensemble", CONTROL, "personalised"),
    _ensemble("ensemble-da", f"{CONTROL}-da", "personalised"),
    *map(_own_added, (0.5, 1, 2, 5, 10, 20)),
)

_ALL = (
    *_BASE,
    *_MORE,
    *map(_not_augmented, (_of(CONTROL), _of("syn"), _own_added(1))),
)

_OWN: dict[str, Regime] = {one.name: one for one in _ALL}
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
    records = map(record_of, names)
    return any(REPLAY in one.needs and one.carrier == "releases" for one in records)


def purposes_of(name: str, labeller: str) -> frozenset[str]:
    """Return what stages are for that a regime's models stand on, itself included.

    Args:
        name: the regime.
        labeller: the regime of the networks that label releases.
    """
    record = record_of(name)
    shared = PUBLIC if record.carrier == "public" else RELEASE
    draws = record.releases != "none" or record.added_per_real is not None
    of_releases = {shared, "local", labeller} if draws else set()
    own = frozenset({name, *of_releases, *(need for need in record.needs if need in _OWN)})
    return own.union(*(purposes_of(member, labeller) for member in record.members))


def record_of(name: str) -> Regime:
    """Return a regime's record; of one that only a file knows, a bare one with its name."""
    if name in REGIMES:
        return REGIMES[name]
    return Regime(name=name, label=name, progress=name, trained_by=None, control=None)


def primary() -> str:
    """Return the regime that is compared first."""
    return next(name for name, one in _OWN.items() if one.primary)
