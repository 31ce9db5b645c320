"""Finished runs, as tables."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.evaluation.scores import COLUMNS
from hyfree_ray.results.answers import answers
from hyfree_ray.results.contrasts import Contrast
from hyfree_ray.results.finished import Finished, read_finished
from hyfree_ray.results.summary import RunSummary


class Run:
    """A finished run: `scores`, `contrasts` and `answers` are pandas DataFrames.

    Args:
        finished: what it left in its folder.
    """

    def __init__(self, finished: Finished) -> None:
        self._finished = finished

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def name(self) -> str:
        """The run's name, as in `hyfree-ray results NAME`."""
        return self._finished.name

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._finished.folder

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, sorted."""
        return self._finished.sites

    @property
    def summary(self) -> RunSummary:
        """All of `summary.json`: the printed table as numbers, outcomes, costs, what crossed."""
        return self._finished.summary

    @property
    def settings(self) -> Experiment:
        """The experiment, by value.

        Raises:
            HyfreeError: a run of another version, whose settings are other ones;
                `summary.experiment` has them as they were written.
        """
        try:
            return Experiment.model_validate_json(json.dumps(self.summary.experiment))
        except (ValidationError, HyfreeError) as error:
            raise HyfreeError(
                "run.other-version",
                f"{self.name}: its settings are of another version; see summary.experiment, or "
                "run its 'simulate' command again with this version",
            ) from error

    @property
    def scores(self) -> pd.DataFrame:
        """The rows of `results.csv`: one a regime, model, test case, label and metric."""
        rows = self._finished.rows
        return pd.DataFrame({name: [getattr(row, name) for row in rows] for name in COLUMNS})

    @property
    def contrasts(self) -> pd.DataFrame:
        """Differences of Dice between two regimes on the same patients, with interval and verdict.

        `site` is None for the mean over all sites; `verdict` and `words` are what the interval
        allows to say.
        """
        names = [field.name for field in dataclasses.fields(Contrast)]
        columns = [*names, "verdict", "words"]
        rows = [[getattr(one, name) for name in columns] for one in self.summary.contrasts]
        return pd.DataFrame(rows, columns=columns)

    @property
    def answers(self) -> pd.DataFrame:
        """Would sharing help? A row a site: what it shares, would keep, and would gain by that.

        `at_home` and `elsewhere` are differences of Dice to the control on the site's own and on
        the other sites' test cases, each beside its verdict; NaN where nothing was compared.
        """
        summary = self.summary
        _, found = answers([site.outcome for site in summary.sites], summary.contrasts)
        return pd.DataFrame(
            {
                "site": one.site,
                "shares": one.shares,
                "keeps": one.keeps,
                "at_home": None if one.own is None else one.own.difference,
                "at_home_verdict": None if one.own is None else one.own.verdict,
                "elsewhere": None if one.foreign is None else one.foreign.difference,
                "elsewhere_verdict": None if one.foreign is None else one.foreign.verdict,
                "attack": one.attack,
            }
            for one in found
        ).astype({"at_home": float, "elsewhere": float})


def load_run(path: str | Path) -> Run:
    """Load a finished run.

    Example:
        >>> run = load_run("hyfree-store/runs/Phantom-2374f181")  # doctest: +SKIP
        >>> run.scores.query("metric == 'dice'").groupby("regime").value.mean()  # doctest: +SKIP

    Args:
        path: its folder, `STORE/runs/NAME`.

    Raises:
        HyfreeError: there is none, or it is damaged.
    """
    return Run(read_finished(Path(path)))
