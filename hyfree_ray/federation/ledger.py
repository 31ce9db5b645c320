"""A hospital's own ledger: what it has released of which patients, and how often it tried.

Releases compose: several that each pass may together tell who was trained on. Audit and gate
therefore look at the union of all releases that share patients with the one at hand, over seeds,
folds, rounds and federations. The ledger lies in the hospital's store and never leaves it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace

from hyfree_ray.cohorts.site_case import SiteCase
from hyfree_ray.core.documents import Documents

FOLDER = "ledger"
_FILE = f"{FOLDER}/releases.json"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Samples that were audited to be released."""

    samples: str
    """Key of the samples."""
    cases: tuple[str, ...]
    """Digests of the cases that their generator was trained on."""
    before: tuple[str, ...]
    """Keys of earlier samples that share cases and were or may yet be released. Written once: the
    same audit sees the same ledger whenever it is repeated."""
    attempts: int
    """Audits so far of samples that share cases, this one included."""
    released: bool | None = None
    """None: it is not known yet, and counts as released."""


class Ledger:
    """The ledger of a hospital.

    Args:
        documents: the hospital's own.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    def entries(self) -> list[Entry]:
        """Return all entries, in the order in which their audits were first asked for."""
        return [
            Entry(**{**one, "cases": tuple(one["cases"]), "before": tuple(one["before"])})
            for one in self._documents.read(_FILE) or []
        ]

    def begin(self, samples: str, cases: Iterable[SiteCase]) -> Entry:
        """Return the entry of an audit, and make it at the first time.

        Args:
            samples: key of the samples that are to be released.
            cases: those that their generator was trained on.
        """
        digests = sorted(case["digest"] for case in cases)
        with self._documents.locked(FOLDER):
            entries = self.entries()
            for entry in entries:
                if entry.samples == samples:
                    return entry
            sharing = [entry for entry in entries if not set(digests).isdisjoint(entry.cases)]
            entry = Entry(
                samples=samples,
                cases=tuple(digests),
                before=tuple(one.samples for one in sharing if one.released is not False),
                attempts=len(sharing) + 1,
            )
            self._write([*entries, entry])
        return entry

    def end(self, samples: str, *, released: bool) -> None:
        """Note whether samples were released or withheld."""
        with self._documents.locked(FOLDER):
            self._write(
                [
                    replace(entry, released=released) if entry.samples == samples else entry
                    for entry in self.entries()
                ]
            )

    def patients_of(self, samples: Collection[str], cases: Iterable[SiteCase]) -> list[int]:
        """Return the patients, as the site numbers them now, that these samples were trained on."""
        known = [entry for entry in self.entries() if entry.samples in samples]
        digests = {digest for entry in known for digest in entry.cases}
        return sorted({case["patient"] for case in cases if case["digest"] in digests})

    def _write(self, entries: list[Entry]) -> None:
        self._documents.write(_FILE, [asdict(entry) for entry in entries])
