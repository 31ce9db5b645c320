"""The manifest of a release, known before its file is read, and the limits of any release.

A site signs the manifest's bytes; the manifest holds the hash of the release's file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hyfree_ray.border.arrow_layout import LayoutError
from hyfree_ray.core.errors import ReleaseError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.strict_json import StrictObject
from hyfree_ray.core.untrusted import UntrustedFileError, read_untrusted

MANIFEST_FILE = "manifest.json"
RELEASE_VERSION = 4
MIN_ROWS = 5
"""Minimum of a release: the pool validates on a fifth, and plans on equally many images per
site."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that the pool accepts from a site. Stated up front, checked before anything is
    read."""

    file_bytes: int = 8 << 30
    manifest_bytes: int = 64 << 10
    metadata_bytes: int = 256 << 10
    """Bytes of the JSON in the schema, the cards included."""
    fewest_rows: int = MIN_ROWS
    rows: int = 500_000
    channels: int = 64
    side: int = 8192
    """Pixels along height and along width."""
    highest_label: int = 255
    spacing: tuple[float, float] = (1e-4, 1e3)
    """mm between pixels: minimum and maximum."""
    extent: float = 1e4
    """mm along height and along width: resampling to 1 mm makes no image that is too large."""
    magnitude: float = 1e7
    """Maximum of a physical value, which float32 has to hold with its level."""


ROUND = 1
"""Of all releases: a pool's later rounds take the same ones in, or those of other experiments."""


UNNAMED = "unnamed"


@dataclass(frozen=True, kw_only=True)
class Addressee:
    """Whom a release is made for, by names that the parties have agreed on."""

    pool: str = UNNAMED
    federation: str = UNNAMED

    @property
    def key(self) -> str:
        """Return the third part of what a release is made for."""
        return digest_of(["addressee", self.pool, self.federation])[:32]

    def __str__(self) -> str:
        return f"pool {quoted(self.pool)} of federation {quoted(self.federation)}"


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A record that a site signs: its name, and what the record was made for and when."""

    VERSION: ClassVar[int]
    """Format version of the kind: the one that is read."""

    version: int
    site: str
    experiment: str
    """Key of the experiment that the release was, or would have been, made for."""
    round: int
    pool: str = UNNAMED
    """Whom the site signs it for: nobody else takes it."""
    federation: str = UNNAMED

    def to_json(self) -> str:
        """Return canonical JSON: equal records have equal bytes, which the signature is made
        over."""
        return canonical(dataclasses.asdict(self))

    @classmethod
    def from_json(cls: type[_Kind], text: str) -> _Kind:
        """Parse strictly, as `ReleaseMetadata.from_json` does."""
        read = StrictObject.parse(text, [field.name for field in dataclasses.fields(cls)])
        found = cls(
            version=read.integer("version", least=cls.VERSION, most=cls.VERSION),
            site=read.name("site"),
            experiment=read.name("experiment"),
            round=read.integer("round", least=0, most=1 << 31),
            pool=read.name("pool"),
            federation=read.name("federation"),
            **cls._own_fields(read),
        )
        if addressee_in(found.experiment) not in ("", found.addressee.key):
            raise ValueError("pool and federation are not those of the experiment's key")
        return found

    @property
    def addressee(self) -> Addressee:
        """Return whom it is made for."""
        return Addressee(pool=self.pool, federation=self.federation)

    @classmethod
    def _own_fields(cls, read: StrictObject) -> dict[str, Any]:
        """Return the fields of this kind alone."""
        raise NotImplementedError

    def check_made_for(self, *, site: str, experiment: str, round_number: int = ROUND) -> None:
        """Check that it is this site's, for this experiment and round.

        Raises:
            ReleaseError: rule `site`, `addressee`, `experiment` or `round`.
        """
        if self.site != site:
            raise ReleaseError(site, "site", f"made by {quoted(self.site)}")
        whom = {addressee_in(self.experiment), addressee_in(experiment)} - {""}
        if len(whom) > 1:
            raise ReleaseError(
                site,
                "addressee",
                f"made for {self.addressee}, not for this one; all parties set the same names, "
                "with --set pool=NAME and --set federation=NAME",
            )
        _check_experiment(site, self.experiment, experiment)
        if self.round != round_number:
            rounds = f"made for round {self.round}, this is round {round_number}"
            raise ReleaseError(site, "round", rounds)


_Kind = TypeVar("_Kind", bound=Signed)


@dataclass(frozen=True, kw_only=True)
class Manifest(Signed):
    """What the release's file must be, read before the file is."""

    VERSION = RELEASE_VERSION

    version: int = VERSION
    nonce: str
    """Differs between any two releases, so that an old one cannot be submitted again."""
    rows: int
    sha256: str
    """Hash of the Arrow file's bytes, in hexadecimal digits."""
    bytes: int

    @classmethod
    def _own_fields(cls, read: StrictObject) -> dict[str, Any]:
        return {
            "nonce": read.name("nonce"),
            "rows": read.integer("rows", least=0, most=1 << 40),
            "sha256": read.digest("sha256"),
            "bytes": read.integer("bytes", least=0, most=1 << 50),
        }


def key_of(task: str, recipe: str, addressee: Addressee | None = None) -> str:
    """Return what a release is made for: the joint task, how the experiment makes releases, and
    who may take them."""
    return f"{task}-{recipe}-{(addressee or Addressee()).key}"


def task_in(key: str) -> str:
    """Return the first part of such a key."""
    return key.split("-")[0]


def recipe_in(key: str) -> str:
    """Return the second part of such a key, empty if it is not one."""
    return "".join(key.split("-")[1:2])


def addressee_in(key: str) -> str:
    """Return the third part of such a key, empty if it is not one."""
    return "".join(key.split("-")[2:3])


def _check_experiment(site: str, made_for: str, experiment: str) -> None:
    """Refuse another experiment, saying what the parties have to agree on."""
    if made_for == experiment:
        return
    task, recipe = task_in(experiment), recipe_in(experiment)
    differ = []
    if task_in(made_for) != task:
        differ.append("--seed, --fold, data set name, channels or structures")
    if recipe_in(made_for) != recipe:
        differ.append("--budget, --generator, --config, --set or version of hyfree-ray")
    raise ReleaseError(
        site,
        "experiment",
        f"made for {quoted(made_for)}, this is {experiment}: the parties' "
        f"{', and their '.join(differ)} differ",
    )


def check_rows(site: str, rows: int, limits: Limits) -> None:
    if not limits.fewest_rows <= rows <= limits.rows:
        taken = f"{limits.fewest_rows} to {limits.rows} are allowed"
        raise ReleaseError(site, "rows", f"{rows} rows; {taken}")


def read_manifest(folder: Path, *, site: str = "release", limits: Limits | None = None) -> Manifest:
    """Read the manifest of a release strictly, trusting its site, experiment and round.

    Args:
        site: who submitted it, named in errors; unknown if read by hand.

    Raises:
        ReleaseError: see `read_release`.
    """
    with as_release_error(site, "manifest"):
        text = read_untrusted(folder / MANIFEST_FILE, most=(limits or Limits()).manifest_bytes)
    return parse_manifest(text, site=site)


def parse_manifest(text: bytes, *, site: str = "release") -> Manifest:
    """Parse a manifest from bytes that were read before, as to check their signature."""
    with as_release_error(site, "manifest"):
        return Manifest.from_json(text.decode())


def canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, indent=1) + "\n"


def quoted(text: str) -> str:
    """Shorten somebody else's text to one line, fit for a message or a log."""
    return ascii(text[:80])


@contextmanager
def as_release_error(site: str, rule: str) -> Iterator[None]:
    """Turn any error inside into a ReleaseError; `rule` applies where the error names none."""
    try:
        yield
    except (LayoutError, UntrustedFileError) as error:
        raise ReleaseError(site, error.rule, str(error)) from error
    except ValueError as error:
        raise ReleaseError(site, rule, str(error)) from error
