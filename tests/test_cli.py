"""The command line answers at once and tells a user's mistake in one line."""

import json
import statistics
import subprocess
import sys
import time

import pytest

from gan_tutorial.tools.cli import main

HEAVY = ("torch", "pandas", "numpy", "matplotlib", "papermill", "nbformat", "sklearn", "pooch")


def median_seconds(*arguments):
    """The median time of three starts of Python."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def test_help_answers_within_half_a_second_of_bare_python():
    assert median_seconds("-m", "gan_tutorial.tools.cli", "--help") - median_seconds("-c", "pass") < 0.5


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = f"import sys, gan_tutorial.tools.cli as c; c.make_parser(); print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "99"], "There is no notebook '99'"),
        (["run", "03", "-p", "epoch", "1"], "Did you mean epochs?"),
        (["run", "03", "-p", "epochs", "many"], "of type int; 'many' is not"),
        (["run", "03", "-p", "epochs", "1", "--in-place"], "--in-place with -p"),
        (["run", "03", "--notebooks", "nowhere"], "There is no notebook in nowhere"),
        (["run", "03", "--device", "gpu"], "There is no device called 'gpu'"),
        (["run", "03", "--data", "nowhere"], "There is no data source 'nowhere'"),
        (["run", "03", "--data", "folder"], "GAN_TUTORIAL_DATA is not set"),
        (["data", "--verify"], "There is no folder"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_exit_code_1(arguments, message, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("gan-tutorial: error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["walk"], ["run", "--jobs", "0"], ["run", "--profile", "slow"]])
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2


def test_where_tells_the_places(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(tmp_path))
    assert main(["data", "--where"]) == 0
    assert f"GAN_TUTORIAL_DATA: {tmp_path}" in capsys.readouterr().out


def test_verify_checks_every_official_file(capsys, monkeypatch, official_folder):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(official_folder))
    assert main(["data", "--verify"]) == 0
    assert capsys.readouterr().out.count(": verified\n") == 4


def test_doctor_answers_in_json(capsys):
    main(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out)["status"] in ("OK", "WARN", "FAIL")
