"""Give actors what they are made of in a form that Ray keeps with the actor itself.

Ray keeps small arguments with an actor and puts large ones into its object store, from where they
may be gone when the actor has to be started again: it warns of that, and it is right.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable
from typing import Any

import ray

PIECE_BYTES = 64 << 10
"""Of an argument: Ray keeps one of up to 100 KiB with the actor."""

INLINE_BYTES = 8 << 20
"""Of all arguments together: Ray keeps up to 10 MiB. That is of some 100,000 images."""


def pack(value: Any) -> tuple[Any, ...]:
    """Pickle a value as arguments that an actor's constructor takes with `unpack`.

    What is too large for Ray to keep with the actor is a reference, which the caller has to hold
    for as long as the actor may be started again.
    """
    content = zlib.compress(ray.cloudpickle.dumps(value))
    if len(content) > INLINE_BYTES:
        return (ray.put(content),)
    return tuple(content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES))


def unpack(pieces: Iterable[bytes]) -> Any:
    """Return the value that was packed; Ray has put what was referred to in its place."""
    return pickle.loads(zlib.decompress(b"".join(pieces)))
