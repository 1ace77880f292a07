"""What the displays share: axes to draw on."""

from __future__ import annotations

from typing import Any


def axes_for(caller: str, ax: Any) -> Any:
    """Return the axes given, or new ones; matplotlib is imported here alone.

    Parameters
    ----------
    caller : str
        Who asks, for the message.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        The same, or those of a new figure.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f'{caller} needs matplotlib: pip install "sklearn-deq[plot]".'
        ) from error
    return plt.subplots()[1] if ax is None else ax
