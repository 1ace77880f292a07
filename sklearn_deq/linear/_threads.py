"""BLAS on one thread for a while, whatever other threads of Python do meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController, threadpool_limits

from sklearn_deq._shared import SharedSetting


@contextmanager
def _one_thread_for_all() -> Iterator[None]:
    """Limit the pools that all threads of the process have in common."""
    pools = [
        pool
        for pool in ThreadpoolController().lib_controllers
        # Limits of OpenMP are of the thread that sets them.
        if pool.user_api == "blas" and getattr(pool, "threading_layer", "") != "openmp"
    ]
    before = [pool.get_num_threads() for pool in pools]
    _set(pools, [1] * len(pools))
    try:
        yield
    finally:
        _set(pools, before)


def _set(pools: list[Any], sizes: list[int | None]) -> None:
    for pool, size in zip(pools, sizes, strict=True):
        pool.set_num_threads(size)
        # Since threadpoolctl 3.8 a pool obeys none but the thread that has set it; here
        # another one may put it back.
        getattr(pool, "clear_controlling_thread", lambda: None)()


_ONE_FOR_ALL = SharedSetting(_one_thread_for_all)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS work on one thread, in this thread of Python at least."""
    with _ONE_FOR_ALL(), threadpool_limits(1, user_api="blas"):
        yield
