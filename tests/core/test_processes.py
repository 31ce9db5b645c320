"""What a process holds."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from hyfree_ray.core.processes import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    return [b"x" * (12 << 20) for _ in range(6)]
step()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator")
def test_memory_that_is_kept_is_not_mapped_and_cleared_again() -> None:
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", FAULTS, how]))
        for how in ("given back", "kept")
    }
    assert faults["given back"] > 4000
    assert faults["kept"] < 100
