"""The command line answers at once and tells a user's mistake in one line."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time

import pytest

from gan_tutorial.tools import checkout
from gan_tutorial.tools.cli import main

HEAVY = ("torch", "pandas", "numpy", "matplotlib", "papermill", "nbformat", "sklearn", "pooch", "psutil", "tqdm")
CLI = [sys.executable, "-m", "gan_tutorial.tools.cli"]


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
        (["run", "03", "-p", "epoch", "1"], "Did you mean epochs? Known: data_source, device_name, epochs"),
        (["run", "03", "-p", "epochs", "many"], "of type int; 'many' is not"),
        (["run", "03", "--notebooks", "nowhere"], "There is no notebook in nowhere"),
        (["run", "03", "--device", "gpu"], "There is no device called 'gpu'"),
        (["run", "03", "--data", "nowhere"], "There is no folder nowhere that can be read"),
        (["run", "03", "--data", "folder"], "GAN_TUTORIAL_DATA is not set"),
        (["data", "--verify"], "There is no folder"),
        (["figures", "03_los"], "There is no figure '03_los'. Similar: 03_loss"),
        (["figures", "zzz"], "Similar: none. `gan-tutorial figures` lists them all."),
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


def test_doctor_answers_in_json_and_its_exit_code_is_that_of_what_it_found(capsys):
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    statuses = {check["status"] for check in report["checks"]}
    worst = next(status for status in ("FAIL", "WARN", "OK") if status in statuses)
    assert report["status"] == worst
    assert code == (1 if worst == "FAIL" else 0)


def test_figures_lists_every_figure_of_the_course_with_notebook_and_alternative_text(capsys):
    assert main(["figures"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "01_descent  (01_autograd)  From x = 4 on a parabola" in "\n".join(lines)
    stored = "".join(path.read_text(encoding="utf-8") for path in (checkout() / "notebooks").glob("*.ipynb"))
    assert len(lines) == stored.count('"figure": "') > 50


def test_figures_makes_a_named_figure_again_by_running_its_notebook(tmp_path, capsys):
    options = ["--profile", "quick", "--data", "sample", "--output", str(tmp_path)]
    assert main(["figures", "01_graph", *options]) == 0
    assert [path.name for path in (tmp_path / "notebooks").iterdir()] == ["01_autograd.ipynb"]
    assert (tmp_path / "figures" / "01_graph.png").read_bytes().startswith(b"\x89PNG")


# ---- faults outside of the command ----------------------------------------------------------------------------------


def run_with(tmp_path, module, text, *arguments):
    """Run the command where ``import module`` executes ``text``."""
    broken = tmp_path / "broken" / f"{module}.py"
    broken.parent.mkdir()
    broken.write_text(text)
    path = os.pathsep.join([str(broken.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run([*CLI, *arguments], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    "fault", ["raise ImportError('libtorch.so is\\nmissing')", "raise OSError('[WinError 126] c10.dll')"]
)
@pytest.mark.parametrize("command", [["run", "01"], ["study"]], ids=" ".join)
def test_a_torch_that_cannot_be_imported_is_named_in_one_line_that_leads_to_doctor(tmp_path, fault, command):
    result = run_with(tmp_path, "torch", fault, *command)
    assert result.returncode == 1
    assert result.stderr.startswith("gan-tutorial: error: PyTorch cannot be imported (")
    assert "Run `gan-tutorial doctor`" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_missing_extra_is_told_in_one_line_with_what_to_install(tmp_path):
    fault = "raise ModuleNotFoundError(\"No module named 'psutil'\", name='psutil')"
    result = run_with(tmp_path, "psutil", fault, "run", "01", "--data", "sample")
    assert result.returncode == 1
    expected = 'gan-tutorial: error: psutil is missing, which this command needs: pip install "gan_tutorial[tools]"\n'
    assert result.stderr == expected


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize("command", [["doctor"], ["data", "--where"]], ids=" ".join)
def test_a_closed_pipe_ends_a_command_without_a_traceback(command):
    process = subprocess.Popen([*CLI, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(60)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_says_what_it_ended_and_one_that_is_ignored_stays_ignored(name):
    """Another command stands in for a long one: the signal reaches it when it is about to be imported."""
    code = (
        f"import os, signal, sys; import gan_tutorial.tools.cli as c; signal.signal(signal.{name}, signal.%s); "
        f"c._tool = lambda module: os.kill(os.getpid(), signal.{name}); sys.exit(c.main(['study']))"
    )
    heard, ignored = (
        subprocess.run([sys.executable, "-c", code % handler], capture_output=True, text=True, check=False)
        for handler in ("SIG_DFL", "SIG_IGN")
    )
    assert heard.returncode == 128 + getattr(signal, name)
    assert heard.stderr == f"gan-tutorial: ended by {name}; what was finished is kept.\n"
    assert "AttributeError" in ignored.stderr  # it went on, with what is no module
