"""Sums over blocks in a file, from which a fit that was interrupted goes on."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sklearn_deq._warnings import warn
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


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a path beside which no file can be made, before anything is computed."""
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(
            f"checkpoint={str(path)!r} is in a folder that does not exist: make it, or "
            "give another path."
        )
    try:
        # Its name is as long as that of the file itself.
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=path.stem, suffix="-.npz.part"
        ):
            pass
    except OSError as error:
        raise ValueError(
            f"checkpoint={str(path)!r} cannot be written: {error}. Give another path."
        ) from error


class Progress(NamedTuple):
    """What is known after some rows.

    Attributes
    ----------
    done : int
        Number of rows.
    sums : FeatureSums or None
        The sums over them; None before the first.
    digest : str
        Of the rows, block by block.
    """

    done: int = 0
    sums: FeatureSums | None = None
    digest: str = ""

    def after(self, stop: int, X: np.ndarray, sums: FeatureSums | None) -> Progress:
        """Progress after one more block, X, which ends at row ``stop``."""
        return Progress(stop, sums, fingerprint(self.digest, X))


class Checkpoint:
    """The sums over the first rows, in an .npz file.

    Parameters
    ----------
    path : str or path-like
        The file, to whose name the first digits of the identity are added, so that
        fits to other data, as in cross-validation, have files of their own.
    identity : str
        Fingerprint of data and settings: a file with another one is not used.
    n_rows : int
        Number of rows in all.
    shapes : list of (int, int)
        Numbers of features and of targets of each ridge regression.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: str,
        n_rows: int,
        shapes: list[tuple[int, int]],
    ) -> None:
        path = Path(path)
        name = f"{path.stem}-{identity[:8]}{path.suffix or '.npz'}"
        self._path, self._identity = path.with_name(name), identity
        self._n_rows, self._shapes = n_rows, shapes
        self._written = time.monotonic()

    def load(self) -> Progress:
        """Read the file, if there is one.

        Returns
        -------
        Progress
            What the file has; whether its rows are those at hand is not yet known.
        """
        if not self._path.exists():
            return Progress()
        try:
            with (
                self._path.open("rb") as stream,
                np.load(stream, allow_pickle=False) as file,
            ):
                content = dict(file)
            if str(content["identity"]) != self._identity:
                return Progress()
            done = int(content["done"])
            if not 0 < done <= self._n_rows:
                raise ValueError(f"{done} of {self._n_rows} rows are done")
            return Progress(done, self._sums(content), str(content["digest"]))
        except Exception as error:
            reason = f"{error.args[0]} is missing" if type(error) is KeyError else error
            raise ValueError(
                f"checkpoint: {str(self._path)!r} is not a file of sums: {reason}. "
                "Delete it, or give another path."
            ) from error

    def _sums(self, content: dict[str, np.ndarray]) -> FeatureSums:
        """Sums from the file, of the type and shapes that are expected, and finite."""
        members = []
        for i, (m, t) in enumerate(self._shapes):
            shapes = zip(SUMS, ((m, m), (m, t), (m,), (t,), ()), strict=True)
            arrays = {name: content[f"{name}_{i}"] for name in SUMS}
            for name, shape in shapes:
                array = arrays[name]
                same = array.dtype == np.dtype("float64") and array.shape == shape
                if not (same and np.isfinite(array).all()):
                    raise ValueError(
                        f"{name}_{i} must be finite, of float64 and shape {shape}"
                    )
            members.append(NormalEquations(**arrays))
        return FeatureSums(members)

    def save_now_and_then(self, progress: Progress) -> None:
        """Write the file, unless that was tried a moment ago.

        If it cannot be written there is a warning, and the fit goes on.
        """
        if time.monotonic() - self._written >= _PAUSE:
            try:
                self.save(progress)
            except OSError as error:
                warn(self._not_written(error))
            self._written = time.monotonic()

    def save_at_last(self, progress: Progress, reason: BaseException) -> None:
        """Write the file before the fit ends; if that fails, the reason has a note."""
        try:
            self.save(progress)
        except OSError as error:
            reason.add_note(self._not_written(error))

    def _not_written(self, error: OSError) -> str:
        return f"checkpoint: {str(self._path)!r} could not be written: {error}."

    def save(self, progress: Progress) -> None:
        """Write the file: the old one stays until the new one is complete."""
        if progress.sums is None:
            return
        arrays = {
            f"{name}_{i}": getattr(member, name)
            for i, member in enumerate(progress.sums.members)
            for name in SUMS
        }
        beside = self._path.with_name(self._path.name + ".part")
        with beside.open("wb") as file:
            np.savez(
                file,
                identity=np.array(self._identity),
                done=np.array(progress.done),
                digest=np.array(progress.digest),
                **arrays,
            )
        beside.replace(self._path)

    def remove(self) -> None:
        """Delete the file: the fit is complete."""
        self._path.unlink(missing_ok=True)
