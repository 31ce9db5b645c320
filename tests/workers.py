"""Which tests share a worker, where several run at once (pytest-xdist)."""

from __future__ import annotations

import os

import pytest

WORKERS = 3
"""On two cores: some tests wait for others' processes."""

SHARED = ("whole", "cluster", "start")
"""Fixtures that take long to make: who has one of them is run by the same worker, one after the
other, and first. All others share theirs with their file."""


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
        options.numprocesses, options.dist = WORKERS, "loadgroup"
        options.loadscopereorder = False
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    groups = {item: _group(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(
        key=lambda item: SHARED.index(groups[item]) if groups[item] in SHARED else len(SHARED)
    )


def _group(item: pytest.Item) -> str:
    used = getattr(item, "fixturenames", ())
    return next((name for name in SHARED if name in used), item.path.stem)
