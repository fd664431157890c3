"""Splits by source: a package is in one part only, so no file is held out beside its twin."""

import hashlib
from typing import Literal

from prealign.errors import ConfigError


def split_of(source: str, *, seed: int, heldout_share: float) -> Literal["train", "heldout"]:
    """Return the part that a source belongs to, by a hash of its name and the seed.

    Raises:
        ConfigError: The share is not between 0 and 1.
    """
    if not 0 < heldout_share < 1:
        raise ConfigError(f"heldout_share={heldout_share}: must be above 0 and below 1")
    digest = hashlib.blake2b(f"{seed}\0{source}".encode(), digest_size=7).digest()
    return "heldout" if int.from_bytes(digest) / 2**56 < heldout_share else "train"
