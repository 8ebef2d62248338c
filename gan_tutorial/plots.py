"""Numbers in, figures out: the charts of the course, `show`, which displays them, and the line of progress."""

import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from tqdm import tqdm

FIGURES_VARIABLE = "GAN_TUTORIAL_FIGURES"  # a folder; when set, `show` also saves each figure there
MARK = "gan_tutorial"  # under this name the metadata of an output hold its note
_RUNNING_MEAN = 200  # kept losses averaged for the line over the faint dots

# One colour per variant, the same in every notebook (Okabe and Ito's palette, safe for colour-blind readers).
COLORS = {
    "loss": "#0072B2",
    "baseline": "#0072B2",
    "BCELoss": "#E69F00",
    "LeakyReLU": "#009E73",
    "Adam": "#CC79A7",
    "LayerNorm": "#D55E00",
    "combination": "#000000",
}


def show(figure: Figure, name: str, alt: str) -> None:
    """Display ``figure`` as a PNG with a name and alternative text, and close it.

    If the environment variable ``GAN_TUTORIAL_FIGURES`` names a folder, ``name.png`` and ``name.svg`` are saved there.

    Args:
        figure: what to show.
        name: unique in the course and led by the notebook's number, e.g. ``"03_loss"``.
        alt: a sentence that tells a reader who cannot see the figure what it shows.
    """
    png = render(figure, "png")
    if folder := os.environ.get(FIGURES_VARIABLE):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{name}.png").write_bytes(png)
        Path(folder, f"{name}.svg").write_bytes(render(figure, "svg"))
    plt.close(figure)
    bundle = {"image/png": png, "text/plain": f"Figure {name}: {alt}"}
    show_marked(bundle, {"figure": name, "alt": alt}, **{"image/png": {"alt": alt}})


def show_marked(bundle: Mapping[str, object], note: Mapping[str, object], **metadata: object) -> None:
    """Display ``bundle`` (MIME type to content) with a note in its metadata, which a run of the course reads."""
    display(bundle, metadata={MARK: dict(note)} | metadata, raw=True)


def render(figure: Figure, file_format: str) -> bytes:
    """Return the figure as the bytes of a ``png`` or ``svg`` file: the same figure gives the same bytes."""
    buffer = io.BytesIO()
    undated = {"Date": None} if file_format == "svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "gan_tutorial"}):
        figure.savefig(buffer, format=file_format, dpi=100, metadata=undated)
    return buffer.getvalue()


def progress_bar(images: int, quiet: bool = False) -> tqdm:
    """Return a line that counts images, without times, so that what a stored notebook keeps can be repeated."""
    form = "{bar:20} {n:,} of {total:,} images{postfix}"
    return tqdm(total=images, file=sys.stdout, disable=quiet, bar_format=form, ncols=120, mininterval=0.5)


def show_loss(bar: tqdm, losses: Sequence[float], label: str = "loss") -> None:
    """Write the mean of the last 100 kept losses behind the bar."""
    if recent := losses[-100:]:
        text = f"{label} {sum(recent) / len(recent):.4f} (mean of the last {len(recent)} kept)"
        bar.set_postfix_str(text, refresh=False)


def running_mean(values: ArrayLike, window: int = _RUNNING_MEAN) -> np.ndarray:
    """Average each run of ``window`` neighbours; (n,) becomes (n - window + 1,), empty if n < window."""
    sums = np.cumsum(np.concatenate([[0.0], np.asarray(values, dtype=float)]))
    return (sums[window:] - sums[:-window]) / window if len(sums) > window else np.empty(0)


def plot_progress(losses: Mapping[str, Sequence[float]], every: int = 10) -> Figure:
    """Draw the losses of one or more networks side by side on equal axes (the loss chart of notebooks 03 and 05-09).

    Args:
        losses: for each network its kept losses, as in ``ANN.progress``; a name in `COLORS` sets the colour.
        every: training steps between two kept losses.
    """
    figure, row = plt.subplots(
        1,
        len(losses),
        figsize=(8, 4) if len(losses) == 1 else (10, 4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, (name, values) in zip(row[0], losses.items(), strict=True):
        _draw_progress(axes, values, name, every)
    row[0][0].set_ylabel("loss")
    return figure


def _draw_progress(axes: Axes, values: Sequence[float], name: str, every: int) -> None:
    """Draw one network's kept losses on ``axes``: faint dots, a running mean, y from 0 to 1 as in the original post."""
    color = COLORS.get(name, COLORS["loss"])
    axes.plot(
        every * np.arange(1, len(values) + 1),
        values,
        ".",
        color=color,
        alpha=0.1,
        markersize=3,
        rasterized=True,
    )
    window = max(1, min(_RUNNING_MEAN, len(values) // 10))
    means = running_mean(values, window)
    axes.plot(
        every * (np.arange(len(means)) + window),
        means,
        color="black",
        label=f"mean of {window * every:,} steps",
    )
    axes.set(title=name, xlabel="training steps", ylim=(0, 1), yticks=(0, 0.25, 0.5))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
    axes.grid()
    axes.legend(loc="upper right")


def plot_image(values: ArrayLike, title: str = "") -> Figure:
    """Draw one image from its 784 values as a 28 x 28 picture, 0 black and the largest value white (notebook 02)."""
    return plot_images(np.asarray(values)[np.newaxis], [title], columns=1)


def plot_images(images: ArrayLike, titles: Sequence[str] | None = None, columns: int = 10) -> Figure:
    """Draw images (n, 784) in rows of ``columns``, each with its title if given (notebook 02)."""
    pictures = np.asarray(images, dtype=float).reshape(-1, 28, 28)
    rows = -(-len(pictures) // columns)
    size = (3, 3.2) if len(pictures) == 1 else (columns, rows * (1.25 if titles else 1.0))
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, title in zip(grid.flat, pictures, titles or [""] * len(pictures), strict=False):
        axes.imshow(picture, cmap="gray")
        axes.set_title(title, fontsize=9)
    return figure


def plot_game(history: pd.DataFrame, draw: float) -> Figure:
    """Draw losses and answers of a GAN, each as a running mean over a fiftieth of the rounds (notebooks 20, 23, 24).

    Args:
        history: a row for each round, with the fields of `gan.Round`: ``pd.DataFrame(train_gan(...))``.
        draw: the generator's loss at a draw, 0.25 with MSELoss, ln 2 with BCE; the discriminator's is twice that.
    """
    figure, row = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    window = max(1, len(history) // 50)
    lines = {
        "discriminator_loss": (row[0], "discriminator, two questions", COLORS["baseline"], 2 * draw),
        "generator_loss": (row[0], "generator", COLORS["BCELoss"], draw),
        "real_score": (row[1], "to real images, D(x)", COLORS["baseline"], 0.5),
        "generated_score": (row[1], "to generated images, D(G(z))", COLORS["BCELoss"], 0.5),
    }
    for field, (axes, label, color, level) in lines.items():
        means = running_mean(history[field], window)
        axes.plot(np.arange(len(means)) + window, means, color=color, label=label)
        axes.axhline(level, color=color, linestyle=":", zorder=0)
    row[0].set(title=f"losses (mean of {window} rounds; dotted: a draw)", xlabel="round", ylim=(0, None))
    row[1].set(title="the discriminator's answers", xlabel="round", ylim=(0, 1))
    for axes in row:
        axes.legend(fontsize="small")
    return figure


def tile(images: ArrayLike, columns: int = 8) -> np.ndarray:
    """Lay images (n, 784) side by side in rows of ``columns``, the rest black: one picture (28 rows, 28 columns).

    One picture is shown faster, and stored in less space, than n small ones (notebooks 22 to 27).
    """
    pictures = np.asarray(images, dtype=float).reshape(-1, 28, 28)
    rows = -(-len(pictures) // columns)
    board = np.zeros((rows * columns, 28, 28))
    board[: len(pictures)] = pictures
    return board.reshape(rows, columns, 28, 28).swapaxes(1, 2).reshape(rows * 28, columns * 28)


def plot_confusion_matrix(matrix: ArrayLike) -> Figure:
    """Draw a confusion matrix (10, 10), rows the true digit and columns the predicted one (notebook 03)."""
    from sklearn.metrics import ConfusionMatrixDisplay

    figure, axes = plt.subplots(figsize=(6.5, 6), layout="constrained")
    ConfusionMatrixDisplay(np.asarray(matrix)).plot(ax=axes, cmap="Blues", colorbar=False)
    axes.set(xlabel="predicted digit", ylabel="true digit")
    return figure


def plot_scores(scores: ArrayLike, label: int) -> Figure:
    """Draw the ten scores of one image as bars, the true digit's in another colour (notebook 03)."""
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    colors = [COLORS["BCELoss"] if digit == label else COLORS["baseline"] for digit in range(10)]
    axes.bar(range(10), np.asarray(scores), color=colors)
    axes.set(xticks=range(10), xlabel="digit", ylabel="score", ylim=(0, 1), title=f"the true digit is {label}")
    return figure
