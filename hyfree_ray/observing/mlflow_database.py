"""MLflow's database as a file: whether it can be written, and where its artifacts lie."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

_PATIENCE_S = 5.0


def check_database(path: Path) -> None:
    """Raise unless the database can be written; MLflow tries for two minutes before it does."""
    with closing(sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")


def follow_store(path: Path, artifacts: str) -> None:
    """Point a database at the artifacts beside it: MLflow keeps where they were when it was made.

    Args:
        path: the database.
        artifacts: URI of the store's artifacts as it lies now.
    """
    with closing(sqlite3.connect(path, timeout=_PATIENCE_S)) as database, database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        if not {"experiments", "runs"} <= tables:
            return
        rows = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (before,) in rows:
            if before == artifacts or not str(before).endswith(f"/{Path(artifacts).name}"):
                continue
            database.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE experiment_id IN"
                " (SELECT experiment_id FROM experiments WHERE artifact_location = ?)",
                (artifacts, len(before) + 1, before),
            )
            database.execute(
                "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?",
                (artifacts, before),
            )


def experiment_id(path: Path, name: str) -> str | None:
    """Return the number of an experiment, without importing MLflow; None where there is none."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT experiment_id FROM experiments WHERE name = ?", (name,))
            found = rows.fetchone()
    except sqlite3.Error:
        return None
    return None if found is None else str(found[0])
