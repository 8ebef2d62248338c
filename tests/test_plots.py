"""Plots draw the numbers they are given, and `show` gives every figure a name and alternative text."""

import base64

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


@pytest.fixture
def style():
    with plt.style.context("gan_tutorial.course"):
        yield


def test_progress_is_drawn_at_the_training_steps_it_was_kept_at():
    figure = plots.plot_progress({"baseline": [0.9, 0.5, 0.1]}, every=10)
    dots, mean = figure.axes[0].lines
    np.testing.assert_allclose(dots.get_xydata(), [[10, 0.9], [20, 0.5], [30, 0.1]])
    np.testing.assert_allclose(mean.get_xydata(), dots.get_xydata())
    assert figure.axes[0].get_yscale() == "log"
    plt.close(figure)


def test_the_mean_is_of_all_losses_and_stands_at_the_last_step_of_its_window():
    losses = np.linspace(1, 0.1, 5_000)
    figure = plots.plot_progress({"baseline": losses}, every=10)
    dots, mean = figure.axes[0].lines
    x, y = mean.get_xydata()[-1]
    assert x == 50_000
    assert y == pytest.approx(losses[-200:].mean())
    assert len(dots.get_xydata()) == 1667  # every third
    np.testing.assert_allclose(dots.get_xydata()[1], [40, losses[3]])
    plt.close(figure)


def test_labels_stand_at_the_ends_of_their_lines_none_upon_another(style):
    figure = plots.plot_progress({"baseline": [1, 0.5, 0.300], "BCELoss": [2, 1, 0.302]})
    figure.draw_without_rendering()
    first, second = figure.axes[0].texts
    assert [text.get_text() for text in (first, second)] == ["baseline", "BCELoss"]
    assert [text.get_color() for text in (first, second)] == [plots.COLORS["baseline"], plots.COLORS["BCELoss"]]
    assert [text.xy[1] for text in (first, second)] == pytest.approx([0.300, 0.302])
    assert not first.get_window_extent().overlaps(second.get_window_extent())
    assert second.get_window_extent().x1 <= figure.bbox.x1
    plt.close(figure)


def test_seeds_are_pale_and_their_mean_strong(style):
    figure, axes = plt.subplots()
    plots.plot_seeds(axes, [1, 2], [[10, 4], [20, 6]], "Adam")
    one, two, mean = axes.lines
    assert (one.get_ydata().tolist(), two.get_ydata().tolist(), mean.get_ydata().tolist()) == (
        [10, 4],
        [20, 6],
        [15, 5],
    )
    assert one.get_alpha() < 0.5 < mean.get_linewidth()
    assert {line.get_color() for line in axes.lines} == {plots.COLORS["Adam"]}
    assert mean.get_marker() == plots.MARKERS["Adam"]
    plots.mistakes_axis(axes)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2", "5", "10", "20", "50"]
    plt.close(figure)


def test_the_map_of_rates_shows_mistakes_after_one_epoch_and_four(style):
    table = [(e, seed, rate, 1 - e * rate) for e in (1, 2, 4) for seed in (0, 1) for rate in (0.1, 0.01)]
    rates = pd.DataFrame(table, columns=["epoch", "seed", "rate", "accuracy"]).assign(network="Adam")
    left, right = plots.plot_rates(rates, ["Adam"]).axes
    for axes, mistakes in ((left, [1, 10]), (right, [4, 40])):
        for line in axes.lines:
            np.testing.assert_allclose(line.get_xydata(), np.transpose([[0.01, 0.1], mistakes]))
    assert [text.get_text() for text in right.texts] == ["Adam"]
    plt.close(left.figure)


def contrast_with_white(color):
    """The contrast ratio of WCAG 2: relative luminances, each with 0.05 for stray light."""
    channels = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 1.05 / (np.dot(linear, [0.2126, 0.7152, 0.0722]) + 0.05)


def test_each_variant_has_a_colour_and_a_marker_of_its_own_that_can_be_seen():
    colors = [*plots.COLORS.values(), plots.GREY, plots.FORWARD, plots.BACKWARD]
    assert len(set(colors)) == len(colors)
    assert len(set(plots.MARKERS.values())) == len(plots.COLORS)
    assert contrast_with_white("#777777") == pytest.approx(4.48, abs=0.01)
    assert [color for color in colors if contrast_with_white(color) < 3] == []


def test_mistakes_are_counted_per_thousand_of_the_true_digit_and_the_three_largest_framed():
    matrix = 90 * np.eye(10)
    matrix[4, 9], matrix[3, 5], matrix[0, 1], matrix[2, 1] = 10, 5, 3, 1
    axes = plots.plot_confusion_matrix(matrix).axes[0]
    shown = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert shown == {(4, 9): "100", (3, 5): "53", (0, 1): "32", (2, 1): "11"}
    frames = {(frame.get_y() + 0.5, frame.get_x() + 0.5) for frame in axes.patches}
    assert frames == {(4, 9), (3, 5), (0, 1)}
    plt.close(axes.figure)


def test_an_image_keeps_its_rows_and_columns():
    figure = plots.plot_images([np.arange(784)], ["a title"], columns=1)
    picture = figure.axes[0].images[0].get_array()
    assert picture.shape == (28, 28)
    assert (picture[0, 1], picture[1, 0]) == (1, 28)
    assert figure.axes[0].get_title() == "a title"
    plt.close(figure)


def test_show_displays_a_picture_with_name_and_alt_text_and_closes_the_figure(shell):
    figure, _ = plt.subplots()
    with capture_output() as captured:
        plots.show(figure, "03_test", 'A "blank" chart.')
    output = captured.outputs[0]
    start, picture = output.data["text/html"].split(";base64,")
    assert start == '<img alt="A &quot;blank&quot; chart." src="data:image/svg+xml'
    assert b"<svg" in base64.b64decode(picture.removesuffix('">'))
    assert output.metadata == {"gan_tutorial": {"figure": "03_test", "alt": 'A "blank" chart.'}}
    assert not plt.fignum_exists(figure.number)


def test_show_displays_a_png_where_an_svg_would_be_large(shell):
    figure, axes = plt.subplots()
    axes.plot(*np.random.default_rng(0).random((2, 5_000)), ".")
    with capture_output() as captured:
        plots.show(figure, "03_test", "Many dots.")
    start, picture = captured.outputs[0].data["text/html"].split(";base64,")
    assert start.endswith("data:image/png")
    assert base64.b64decode(picture.removesuffix('">')).startswith(b"\x89PNG")


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
