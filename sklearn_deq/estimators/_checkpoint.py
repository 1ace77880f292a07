"""Sums over blocks in a file, from which a fit that was interrupted goes on."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from sklearn_deq.estimators._features import FeatureSums
from sklearn_deq.linear import SUMS, NormalEquations

# Seconds between two writes.
_PAUSE = 60.0


def fingerprint(*parts: Any) -> str:
    """Digest of arrays, and of the representations of other values.

    Parameters
    ----------
    *parts : object
        Whatever a sum depends on.

    Returns
    -------
    str
        Equal for equal parts, in other processes too.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.shape} {part.dtype}".encode())
            part = part.tolist() if part.dtype == object else part
        content = (
            part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
        )
        digest.update(content)
    return digest.hexdigest()


class Checkpoint:
    """The sums over the first rows, in an .npz file.

    Parameters
    ----------
    path : str or path-like
        The file, which need not be there.
    identity : str
        Fingerprint of data and settings, which those of the file must have.
    """

    def __init__(self, path: str | os.PathLike[str], identity: str) -> None:
        self._path, self._identity = Path(path), identity
        self._written = time.monotonic()

    def load(self) -> tuple[int, FeatureSums | None]:
        """Read the file, if there is one.

        Returns
        -------
        done : int
            Number of rows.
        sums : FeatureSums or None
            The sums over them.
        """
        if not self._path.parent.is_dir():
            raise ValueError(
                f"checkpoint={str(self._path)!r} is in a folder that does not exist: "
                "make it, or give another path."
            )
        if not self._path.exists():
            return 0, None
        try:
            with np.load(self._path, allow_pickle=False) as file:
                content = dict(file)
            identity, done = str(content["identity"]), int(content["done"])
        except Exception as error:
            raise ValueError(
                f"checkpoint={str(self._path)!r} is not a file of sums: {error}. "
                "Delete it, or give another path."
            ) from error
        if identity != self._identity:
            raise ValueError(
                f"checkpoint={str(self._path)!r} is of other data or parameters: "
                "delete it to begin anew, or give another path."
            )
        members = range(int(content["members"]))
        return done, FeatureSums(
            [
                NormalEquations(**{name: content[f"{name}_{i}"] for name in SUMS})
                for i in members
            ]
        )

    def save_now_and_then(self, done: int, sums: FeatureSums) -> None:
        """Write the file, unless it was written a moment ago."""
        if time.monotonic() - self._written >= _PAUSE:
            self.save(done, sums)

    def save(self, done: int, sums: FeatureSums | None) -> None:
        """Write the file: the old one stays until the new one is complete."""
        if sums is None:
            return
        arrays = {
            f"{name}_{i}": getattr(member, name)
            for i, member in enumerate(sums.members)
            for name in SUMS
        }
        beside = self._path.with_name(self._path.name + ".part")
        with beside.open("wb") as file:
            np.savez(
                file,
                identity=np.array(self._identity),
                done=np.array(done),
                members=np.array(len(sums.members)),
                **arrays,
            )
        beside.replace(self._path)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Delete the file: the fit is complete."""
        self._path.unlink(missing_ok=True)
