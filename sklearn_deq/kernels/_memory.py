"""The memory budget: what will be held is compared with it before it is allocated."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from numbers import Real
from pathlib import Path, PurePosixPath

import numpy as np

# Share of the memory that the default budget is, and the memory where nothing tells.
_SHARE = 0.5
_UNKNOWN = 8 * 2**30
_GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def array_bytes(shape: tuple[int, ...], dtype: str | np.dtype = "float64") -> int:
    """Size of an array in bytes."""
    return math.prod(shape) * np.dtype(dtype).itemsize


def memory_budget(max_memory: float | None) -> float:
    """Bytes that may be held: those given, or half of what the process can have."""
    if max_memory is None:
        return _SHARE * available_memory()
    number = isinstance(max_memory, Real) and not isinstance(max_memory, bool)
    if not (number and max_memory > 0):
        raise ValueError(
            "max_memory must be a positive number of bytes, or None for half of the "
            f"machine's memory, got {max_memory!r}."
        )
    return float(max_memory)


def check_memory(
    held: Mapping[str, int], max_memory: float | None, remedy: str
) -> None:
    """Raise a MemoryError if more than the budget would be held.

    Parameters
    ----------
    held : mapping of str to int
        Everything large that is held at once: what it is, and its bytes.
    max_memory : float or None
        Budget in bytes; None: half of the memory of the machine or its container.
    remedy : str
        What helps the caller: parameters that it has.
    """
    budget, total = memory_budget(max_memory), sum(held.values())
    if total <= budget:
        return
    parts = list(held)
    if len(held) > 1:
        parts = [f"{name}: {_readable(size)}" for name, size in held.items()]
    origin = "half of the machine's memory" if max_memory is None else "max_memory"
    raise MemoryError(
        f"This needs {_readable(total)} ({'; '.join(parts)}), over the budget of "
        f"{_readable(budget)} ({origin}). {remedy}"
    )


def _readable(size: float) -> str:
    units = ("bytes", "KiB", "MiB", "GiB")
    power = min(len(units) - 1, max(0, int(math.log2(max(size, 1.0)) / 10)))
    return f"{size / 2 ** (10 * power):.3g} {units[power]}"


def available_memory() -> int:
    """Bytes of the machine's memory, or of the container's if that is less."""
    sizes = list(_group_limits())
    # Unless this is no Unix, or one that does not say.
    with suppress(AttributeError, OSError, ValueError):
        sizes.append(abs(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES"))
    # It says −1 where it does not know.
    return min((size for size in sizes if size > 0), default=_UNKNOWN)


def _group_limits() -> Iterator[int]:
    """Limits of the control groups of this process and of those above (Linux)."""
    try:
        lines = _GROUPS_OF_PROCESS.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        # "0::/path" in version 2, "4:memory:/path" in version 1.
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = _GROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _GROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        # Inside a container its own group is at the root, whatever the path says.
        for folder in (group, *group.parents):
            try:
                limit = (root / folder / name).read_text("utf-8").strip()
            except OSError:
                continue
            # Else "max": no limit.
            if limit.isdigit():
                yield int(limit)
