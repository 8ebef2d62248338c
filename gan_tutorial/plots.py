"""Numbers in, figures out: the charts of the course, `show`, which displays them, and the line of progress."""

import base64
import html
import io
import math
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
_LARGEST_SVG = 200_000  # bytes
_RUNNING_MEAN = 200  # kept losses averaged for the line over the faint dots
_DOTS = 2_000  # of a network, at most twice as many: more would hide each other

# One colour and one marker per variant in all notebooks, with contrast on white. Forward and back: 01, 03 and 11.
COLORS = {
    "baseline": "#0072B2",
    "BCELoss": "#A66A00",
    "LeakyReLU": "#00845A",
    "Adam": "#B04A8A",
    "LayerNorm": "#6A51A3",
    "combination": "#8C1C3A",
}
MARKERS = dict(zip(COLORS, "os^DvP", strict=True))
GREY, FORWARD, BACKWARD = "#707070", "#000000", "#D55E00"


def show(figure: Figure, name: str, alt: str) -> None:
    """Display ``figure`` with a name and alternative text, in HTML, where screen readers find it; close it.

    If the environment variable ``GAN_TUTORIAL_FIGURES`` names a folder, ``name.png`` and ``name.svg`` are saved there.

    Args:
        figure: what to show.
        name: unique in the course and led by the notebook's number, e.g. ``"03_loss"``.
        alt: a sentence that tells a reader who cannot see the figure what it shows.
    """
    pictures = {kind: render(figure, kind) for kind in ("png", "svg")}
    if folder := os.environ.get(FIGURES_VARIABLE):
        Path(folder).mkdir(parents=True, exist_ok=True)
        for kind, picture in pictures.items():
            Path(folder, f"{name}.{kind}").write_bytes(picture)
    plt.close(figure)
    kind = "svg+xml" if len(pictures["svg"]) < _LARGEST_SVG else "png"
    data = base64.b64encode(pictures[kind[:3]]).decode()
    image = f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{data}">'
    show_marked({"text/html": image, "text/plain": f"Figure {name}: {alt}"}, {"figure": name, "alt": alt})


def show_marked(bundle: Mapping[str, object], note: Mapping[str, object]) -> None:
    """Display ``bundle`` (MIME type to content) with a note in its metadata, which a run of the course reads."""
    display(bundle, metadata={MARK: dict(note)}, raw=True)


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


def label_ends(axes: Axes) -> None:
    """Write the label of each line behind its last point, in its colour, none upon another: instead of a legend."""
    axes.figure.canvas.draw()  # settles where on the paper the points lie
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    ends = [tuple(np.asarray(line.get_xydata())[-1]) for line in lines]
    heights = axes.transData.transform(ends)[:, 1] * 72 / axes.figure.dpi
    lowest = -math.inf
    for k in np.argsort(heights):
        lowest = max(heights[k], lowest + 1.1 * mpl.rcParams["font.size"])
        text, shift, color = str(lines[k].get_label()), (8, lowest - heights[k]), lines[k].get_color()
        axes.annotate(text, ends[k], shift, textcoords="offset points", va="center", color=color)


def plot_seeds(axes: Axes, x: ArrayLike, runs: ArrayLike, name: str) -> None:
    """Draw a variant's ``runs`` (seeds, len(x)) against ``x``: each seed pale, their mean strong with its marker."""
    x, runs, color = np.asarray(x), np.asarray(runs), COLORS.get(name, GREY)
    axes.plot(x, runs.T, color=color, alpha=0.3, linewidth=0.8)
    axes.plot(x, runs.mean(axis=0), color=color, marker=MARKERS.get(name, "o"), label=name)


def mistakes_axis(axes: Axes) -> None:
    """Make y the axis of classification errors in percent, logarithmic, the same in every notebook."""
    axes.set(yscale="log", ylabel="mistakes (%)", yticks=[2, 5, 10, 20, 50], yticklabels=[2, 5, 10, 20, 50])
    axes.yaxis.minorticks_off()


def plot_progress(losses: Mapping[str, Sequence[float]], every: int = 10) -> Figure:
    """Draw losses on one log axis: some as faint dots, and the running mean of all (notebooks 03 and 05 to 09).

    Args:
        losses: for each network its kept losses, as in ``ANN.progress``; a name in `COLORS` sets the colour.
        every: training steps between two kept losses.
    """
    figure, axes = plt.subplots()
    for name, values in losses.items():
        steps, color = every * np.arange(1, len(values) + 1), COLORS.get(name, COLORS["baseline"])
        dots = slice(None, None, 1 + len(values) // _DOTS)
        axes.plot(steps[dots], values[dots], ".", color=color, alpha=0.2, markersize=2, rasterized=True, label="_kept")
        window = max(1, min(_RUNNING_MEAN, len(values) // 10))
        axes.plot(steps[window - 1 :][dots], running_mean(values, window)[dots], color=color, label=name)
    axes.set(xlabel="training steps", ylabel="loss", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
    label_ends(axes)
    return figure


def plot_rates(rates: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Draw the mistakes of networks against the rates of `records.read_rates`, after one epoch and four (05 to 08)."""
    figure, panels = plt.subplots(1, 2, sharey=True)
    for axes, epoch in zip(panels, (1, 4), strict=True):
        for name in names:
            runs = rates.query("network == @name and epoch == @epoch")
            table = 100 - 100 * runs.pivot(index="seed", columns="rate", values="accuracy")
            plot_seeds(axes, table.columns.to_numpy(), table, name)
        mistakes_axis(axes)
        axes.set(xscale="log", xlabel="learning rate")
        axes.set_title(f"after {epoch} epoch{'s' * (epoch > 1)}", fontweight="normal")
    panels[1].set_ylabel("")
    label_ends(panels[1])
    return figure


def plot_images(images: ArrayLike, titles: Sequence[str] | None = None, columns: int = 10) -> Figure:
    """Draw images (n, 784) in rows of ``columns``, each with its title if given (notebook 02)."""
    pictures = np.asarray(images, dtype=float).reshape(-1, 28, 28)
    rows = -(-len(pictures) // columns)
    width = mpl.rcParams["figure.figsize"][0] if columns > 1 else 3
    size = (width, rows * width / columns * (1.25 if titles else 1.0))
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
    """Draw the mistakes of a confusion matrix (10, 10), rows the true digit, columns the answer (notebook 03).

    Each cell tells how many of 1,000 images of that digit get that wrong answer; the three largest are framed.
    """
    counts = np.asarray(matrix, dtype=float)
    errors = 1000 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(errors, 0)  # right answers: they would drown the rest
    figure, axes = plt.subplots(figsize=(6.4, 5.6))
    axes.imshow(errors, cmap="Greys", vmax=1.5 * errors.max())
    axes.grid(visible=False)
    for (row, column), error in np.ndenumerate(errors):
        if round(error) > 0:
            axes.text(column, row, f"{error:.0f}", ha="center", va="center", fontsize=10)
    for row, column in zip(*np.unravel_index(np.argsort(errors, axis=None)[-3:], errors.shape), strict=True):
        axes.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=BACKWARD, linewidth=2))
    axes.set(xlabel="answer", ylabel="true digit", xticks=range(10), yticks=range(10))
    return figure
