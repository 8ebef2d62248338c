"""The rows of ``benchmarks/bench.csv``, and the figure drawn from them."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from gan_tutorial.data import replacing
from gan_tutorial.records import RESULTS

ROOT = Path(__file__).parents[1]
KEY = ["case", "method", "against", "threads"]
COLUMNS = [
    *KEY,
    "kind",  # measured, or computed from measured rows
    "rounds",
    "seconds",  # of the method, median; its quartiles follow
    "seconds_q1",
    "seconds_q3",
    "against_seconds",
    "ratio",  # seconds / against_seconds, round by round: median; its quartiles follow
    "ratio_q1",
    "ratio_q3",
    "target",  # the largest ratio wished for
    "note",
    "versions",
    "machine",
    "cores",
    "date",
]

# Epochs of 60,000 images, shown one by one, that each notebook trains in the full profile; smaller trials not counted.
EPOCHS_TRAINED = {
    "03_baseline_ann": 4,
    "05_loss_function": 4,  # BCELoss; the baseline comes from the record
    "06_activation_function": 4,  # LeakyReLU; the others come from the record
    "07_optimizer": 4,  # Adam
    "08_normalization": 4,  # LayerNorm
    "09_combination": 4,  # combination
}


def write_rows(file: Path, rows: pd.DataFrame) -> None:
    """Put ``rows`` into ``file``, in place of those with the same case, method, opponent and threads."""
    if file.exists():
        rows = pd.concat([pd.read_csv(file), rows], ignore_index=True).drop_duplicates(KEY, keep="last")
    rows = rows.copy()
    for column in ("seconds", "seconds_q1", "seconds_q3", "against_seconds", "ratio", "ratio_q1", "ratio_q3", "target"):
        rows[column] = rows[column].map(lambda value: float(f"{value:.4g}"))
    with replacing(file) as unfinished:
        unfinished.write(rows.sort_values(KEY).to_csv(index=False, lineterminator="\n").encode())


def draw(rows: pd.DataFrame) -> Figure:
    """Draw every ratio beside its target: a point and its quartiles, on a logarithmic axis."""
    cases = list(dict.fromkeys(zip(rows["case"], rows["method"], rows["against"], strict=True)))[::-1]
    figure, axes = plt.subplots(figsize=(10, 0.36 * len(cases) + 1.6), layout="constrained")
    styles = {1: ("o", "#0072B2", 0.15), 2: ("s", "#E69F00", -0.15)}
    for threads, (marker, color, shift) in styles.items():
        chosen = rows[(rows["threads"] == threads) & (rows["kind"] == "measured")]
        heights = [cases.index(key) + shift for key in zip(chosen["case"], chosen["method"], chosen["against"])]  # noqa: B905
        spread = [chosen["ratio"] - chosen["ratio_q1"], chosen["ratio_q3"] - chosen["ratio"]]
        label = f"{threads} thread{'s' * (threads > 1)}: median and quartiles"
        axes.errorbar(chosen["ratio"], heights, xerr=spread, fmt=marker, color=color, markersize=5, label=label)
    targets = [rows.loc[rows[KEY[:3]].eq(list(key)).all(axis=1), "target"].iloc[0] for key in cases]
    computed = rows[rows["kind"] == "computed"]
    heights = [cases.index(key) + 0.15 for key in zip(computed["case"], computed["method"], computed["against"])]  # noqa: B905
    axes.plot(computed["ratio"], heights, "o", markerfacecolor="white", markersize=5, label="computed", color="#0072B2")
    axes.scatter(targets, range(len(cases)), marker="|", s=260, color="#D55E00", label="target: not to the right of it")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(cases)), [f"{case}: {method}  /  {against}" for case, method, against in cases])
    axes.tick_params(axis="y", labelsize=8)
    axes.set(xscale="log", xlabel="time of the course / time of what it is compared with (less is faster)")
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.legend(loc="lower center", bbox_to_anchor=(0.2, 1), ncols=4, frameon=False, fontsize=8)
    return figure


def course_row(rows: pd.DataFrame, times: pd.DataFrame) -> pd.DataFrame:
    """Compute the row about the whole course: its recorded time, against the post's loop for as many images.

    The loop is that of the baseline, the cheapest variant, so the ratio errs against the course.
    """
    post = rows[(rows["case"] == "one whole epoch") & (rows["against"] == "the post's loop")].iloc[-1]
    images_timed = int(re.findall(r"[\d,]+", post["note"])[0].replace(",", ""))
    images = 60_000 * sum(EPOCHS_TRAINED.values())
    part_one = times[(times["profile"] == "full") & (times["notebook"] < "12")]  # 12 on: short bad runs, GANs
    jobs = part_one["jobs"].max()
    seconds, against = part_one["seconds"].sum() / jobs, post["against_seconds"] / images_timed * images
    row = post.to_dict() | {"case": "the course", "method": "make notebooks, full profile", "kind": "computed"}
    row |= {"seconds": seconds, "against_seconds": against, "ratio": seconds / against, "target": 1 / 4, "rounds": 0}
    row |= {name: float("nan") for name in ("seconds_q1", "seconds_q3", "ratio_q1", "ratio_q3")}
    row["note"] = (
        f"seconds of notebooks 00 to 11 in times.csv, added up and divided by the {jobs} that run at once, "
        f"against {images:,} images one after the other at the loop's time an image"
    )
    return pd.DataFrame([row])


def main() -> None:
    """Add the computed row and draw the figure."""
    file = ROOT / "benchmarks" / "bench.csv"
    write_rows(file, course_row(pd.read_csv(file), pd.read_csv(RESULTS / "times.csv")))
    draw(pd.read_csv(file)).savefig(ROOT / "docs" / "pictures" / "bench.png", dpi=110)


if __name__ == "__main__":
    main()
