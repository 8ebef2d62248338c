"""Plots draw the numbers they are given, and `show` gives every figure a name and alternative text."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from gan_tutorial import plots


@pytest.fixture
def shell():
    """IPython captures what is displayed only while a shell runs."""
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def test_running_mean_is_the_mean_of_each_window():
    np.testing.assert_allclose(plots.running_mean([1, 2, 6, 3], window=2), [1.5, 4, 4.5])
    np.testing.assert_allclose(plots.running_mean([1, 2, 6, 3], window=4), [3])


def test_running_mean_of_too_few_values_is_empty():
    assert len(plots.running_mean([1, 2], window=3)) == 0


def test_progress_is_drawn_at_the_training_steps_it_was_kept_at():
    figure = plots.plot_progress({"baseline": [0.9, 0.5, 0.1]}, every=10)
    dots, mean = figure.axes[0].lines
    np.testing.assert_allclose(dots.get_xydata(), [[10, 0.9], [20, 0.5], [30, 0.1]])
    assert (dots.get_alpha(), figure.axes[0].get_ylim()) == (0.1, (0, 1))
    np.testing.assert_allclose(mean.get_xydata(), dots.get_xydata())
    plt.close(figure)


def test_the_mean_stands_at_the_last_step_of_its_window():
    losses = np.linspace(1, 0, 5_000)
    figure = plots.plot_progress({"baseline": losses}, every=10)
    x, y = figure.axes[0].lines[1].get_xydata()[-1]
    assert x == 50_000
    assert y == pytest.approx(losses[-200:].mean())
    plt.close(figure)


def test_compared_networks_share_their_axes():
    figure = plots.plot_progress({"baseline": [1, 0.5], "BCELoss": [2, 3]})
    assert [axes.get_title() for axes in figure.axes] == ["baseline", "BCELoss"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() == (0, 1)
    plt.close(figure)


def test_an_image_keeps_its_rows_and_columns():
    figure = plots.plot_image(np.arange(784), "a title")
    picture = figure.axes[0].images[0].get_array()
    assert picture.shape == (28, 28)
    assert (picture[0, 1], picture[1, 0]) == (1, 28)
    assert figure.axes[0].get_title() == "a title"
    plt.close(figure)


def test_show_displays_a_png_with_name_and_alt_text_and_closes_the_figure(shell):
    figure, _ = plt.subplots()
    with capture_output() as captured:
        plots.show(figure, "03_test", "A blank chart.")
    output = captured.outputs[0]
    assert output.data["image/png"].startswith(b"\x89PNG")
    assert output.metadata["image/png"]["alt"] == "A blank chart."
    assert output.metadata["gan_tutorial"] == {"figure": "03_test", "alt": "A blank chart."}
    assert not plt.fignum_exists(figure.number)


def test_show_saves_png_and_svg_where_a_folder_is_named(monkeypatch, tmp_path, shell):
    monkeypatch.setenv("GAN_TUTORIAL_FIGURES", str(tmp_path / "figures"))
    figure, _ = plt.subplots()
    with capture_output():
        plots.show(figure, "03_test", "A blank chart.")
    assert (tmp_path / "figures" / "03_test.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "figures" / "03_test.svg").read_bytes()


@pytest.mark.parametrize("file_format", ["png", "svg"])
def test_the_same_figure_gives_the_same_bytes(file_format):
    files = []
    for _ in range(2):
        figure = plots.plot_progress({"baseline": [1, 0.5, 0.25]})
        files.append(plots.render(figure, file_format))
        plt.close(figure)
    assert files[0] == files[1]


def test_tiles_lie_in_rows_and_the_rest_is_black():
    images = np.arange(1, 4)[:, None] * np.ones((3, 784))
    images[0, 1] = 9  # second pixel of the first row of the first image
    board = plots.tile(images, columns=2)
    assert board.shape == (56, 56)
    assert board[0, :2].tolist() == [1, 9]
    assert [board[5, 30], board[30, 5], board[30, 30]] == [2, 3, 0]


def test_a_game_is_drawn_as_running_means_with_the_lines_of_a_draw():
    rounds = {"discriminator_loss": 1.0, "generator_loss": 0.7, "real_score": 0.6, "generated_score": 0.4}
    history = pd.DataFrame([{name: value + 0.01 * (-1) ** k for name, value in rounds.items()} for k in range(100)])
    left, right = plots.plot_game(history, draw=0.25).axes
    means = [line.get_ydata() for axes in (left, right) for line in axes.lines[::2]]
    assert [len(values) for values in means] == [99] * 4  # a window of two of the 100 rounds
    assert [values[0] for values in means] == pytest.approx(list(rounds.values()))
    assert [line.get_ydata()[0] for line in left.lines[1::2]] == [0.5, 0.25]
    assert [line.get_ydata()[0] for line in right.lines[1::2]] == [0.5, 0.5]
