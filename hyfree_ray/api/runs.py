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
from hyfree_ray.results.contrasts import Contrast
from hyfree_ray.results.finished import Finished, read_finished
from hyfree_ray.results.summary import RunSummary


class Run:
    """A finished run: `scores`, `contrasts` and `verdicts` are pandas DataFrames.

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
    def verdicts(self) -> pd.DataFrame:
        """Would sharing help? A row a site: the advice, all that it stands on, what it costs.

        `at_home` and `elsewhere` are differences of Dice of the shared `model` to the control on
        the site's own and on the other sites' test cases, each beside its verdict; NaN where
        nothing was compared. `sentence` has it all in words; `false` is how probable it is that
        the advice is false.
        """
        return pd.DataFrame(
            {
                "site": one.site,
                "advice": one.advice,
                "sentence": one.sentence,
                "false": one.false,
                "model": one.model,
                "at_home": None if one.home is None else one.home.difference,
                "at_home_verdict": None if one.home is None else one.home.verdict,
                "elsewhere": None if one.elsewhere is None else one.elsewhere.difference,
                "elsewhere_verdict": None if one.elsewhere is None else one.elsewhere.verdict,
                "shares": one.shares,
                "keeps": one.keeps,
                "attack": one.attack,
                "device_hours": one.device_hours,
            }
            for one in self.summary.verdicts
        ).astype({"at_home": float, "elsewhere": float, "false": float, "device_hours": float})


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
