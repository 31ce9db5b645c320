"""Which tests share a worker, where several run at once (pytest-xdist)."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

WORKERS = 3
"""On two cores: some tests wait for others' processes."""

SHARED = {"whole": "whole: tuple[Path, str]", "cluster": "cluster: Any"}
"""Fixtures that take long to make, and how tests ask for one: the files that do are one worker's.
All others share theirs with their file."""

FIRST = ("whole", "tests/plugins/test_plugins.py", "cluster")
"""Groups that take longest: begun first, so that no worker ends with one."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite is run by several workers, but for what kills clusters; named files by one
    process."""
    options = config.option
    if (
        config.pluginmanager.hasplugin("xdist")
        and "PYTEST_XDIST_WORKER" not in os.environ  # a worker has none of its own
        and config.args_source is pytest.Config.ArgsSource.TESTPATHS
        and options.numprocesses is None
        and "not chaos" in options.markexpr
        and not (options.usepdb or options.collectonly)
    ):
        options.numprocesses, options.dist = WORKERS, "loadscope"
        options.loadscopereorder = False
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out tests by their group. `--dist loadgroup` reads marks in names, which pytest 9.2
    no longer lets it write."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.split("::", maxsplit=1)[0])

    return ByGroup(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    groups = {item: group_of(item.nodeid.split("::", maxsplit=1)[0]) for item in items}
    items.sort(key=lambda item: (*FIRST, groups[item]).index(groups[item]))


@cache
def group_of(file: str) -> str:
    """Return whose tests a file's share a worker with, by its path from the project's folder."""
    text = (Path(__file__).parent.parent / file).read_text()
    return next((name for name, asked in SHARED.items() if asked in text), file)
