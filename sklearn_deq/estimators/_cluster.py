"""Waiting for what dask computes: with a bar, and as long as there is hope."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm

# Seconds without any worker after which a cluster is given up, unless dask's setting
# says otherwise; an adaptive one may need a minute to start some.
_PATIENCE = 120.0
_SETTING = "distributed.scheduler.no-workers-timeout"


def compute(
    values: Sequence[Any], parts: Sequence[Any] = (), *, verbose: int = 0
) -> Any:
    """Compute values; say what to do where workers are lost for good.

    Parameters
    ----------
    values : sequence
        Collections of dask; others are returned as they are.
    parts : sequence of delayed objects, default=()
        What the values are made of, for the bar.
    verbose : int, default=0
        Whether a bar over the parts is shown.

    Returns
    -------
    sequence
        The values, computed.
    """
    import dask
    from dask.callbacks import Callback

    client = _client()
    with tqdm(total=len(parts), unit=" chunks", disable=not verbose) as bar:
        if client is not None:
            computed = _gathered(client, values, parts if verbose else (), bar)
        else:
            keys = {part.key for part in parts}
            with Callback(posttask=lambda key, *_: bar.update(key in keys)):
                computed = dask.compute(*values)
        bar.update(len(parts) - bar.n)
    return computed


def _client() -> Any:
    """Client of the cluster that dask's work goes to; None: it is done here."""
    import dask

    distributed = sys.modules.get("distributed")
    client = getattr(dask.base.get_scheduler(), "__self__", None)
    ours = distributed is not None and isinstance(client, distributed.Client)
    return client if ours else None


def _gathered(
    client: Any, values: Sequence[Any], parts: Sequence[Any], bar: tqdm
) -> Any:
    """Values from a cluster, as long as it has workers."""
    with warnings.catch_warnings():
        # The maps of the features travel in the graph. What is scattered would be
        # lost for good with the worker that holds it.
        warnings.filterwarnings("ignore", message="Sending large graph")
        futures = client.compute([*values, *parts])
    while len(futures) > len(values):
        # No name is left: as long as there is one, workers keep the sums of a part.
        futures.pop().add_done_callback(lambda _: bar.update())
    over, lost = threading.Event(), threading.Event()
    patience = _patience()
    arguments = (client, futures, patience, over, lost)
    threading.Thread(target=_watch, args=arguments, daemon=True).start()
    try:
        with _aside():
            return client.gather(futures)
    except BaseException as error:
        message = _no_worker(patience) if lost.is_set() else _killed(error)
        if message is None:
            raise
        raise RuntimeError(message) from error
    finally:
        over.set()


def _patience() -> float:
    import dask

    setting = dask.utils.parse_timedelta(dask.config.get(_SETTING, None))
    return _PATIENCE if setting is None else float(setting)


def _watch(
    client: Any,
    futures: Sequence[Any],
    patience: float,
    over: threading.Event,
    lost: threading.Event,
) -> None:
    """Cancel futures when the cluster has had no worker for too long."""
    seen = time.monotonic()
    # A scheduler that cannot be reached is the affair of who waits for the futures.
    with suppress(Exception):
        while not over.wait(min(1.0, patience / 4)):
            if client.nthreads():
                seen = time.monotonic()
            elif time.monotonic() - seen >= patience:
                lost.set()
                client.cancel(futures)
                return


@contextmanager
def _aside() -> Iterator[None]:
    """Leave the threads of a worker to others while one of its tasks waits."""
    from dask import distributed

    try:
        distributed.secede()
    except (ValueError, AttributeError):
        # This is no task.
        yield
        return
    try:
        yield
    finally:
        distributed.rejoin()


def _no_worker(patience: float) -> str:
    return (
        f"The cluster has had no worker for {patience:g} seconds: none has come, or "
        "all are lost. Start some and fit again; nannies (the default of dask's "
        "command line and of LocalCluster) restart those that die. If they only take "
        f"longer to come, raise dask's setting {_SETTING}."
    )


def _killed(error: BaseException) -> str | None:
    """What to do about a block that took its workers down; None: nothing did."""
    if type(error).__name__ != "KilledWorker":
        return None
    return (
        f"A block took down every worker that tried it: {error} If memory is what "
        "they lack, make chunks of fewer rows (X.rechunk({0: ...})) or lower "
        "n_components; if machines are lost by chance, raise dask's setting "
        "distributed.scheduler.allowed-failures, and fit again."
    )
