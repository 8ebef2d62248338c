"""A run keeps what was finished, names what failed in one line, and leaves no kernel behind."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest

from gan_tutorial import _sources
from gan_tutorial.data import load_mnist
from gan_tutorial.tools import checkout, outputs, runner, tasks, worker
from gan_tutorial.tools.tasks import (
    RunError,
    Settings,
    Task,
    choose_notebooks,
    declared_parameters,
    make_tasks,
    parse_value,
)
from gan_tutorial.training import images_per_epoch_of_profile, of_profile

NOTEBOOKS = checkout() / "notebooks"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
COMMAND = [sys.executable, "-m", "gan_tutorial.tools.cli", "run"]
FIGURE = """import matplotlib.pyplot as plt
from gan_tutorial.plots import show
figure, axes = plt.subplots(figsize=(2, 2))
show(figure, "01_blank", "An empty chart.")"""
SCORE = """from IPython.display import display
mark = {"gan_tutorial": {"variant": "baseline", "accuracy": 0.875, "expected": None}}
display({"text/plain": "done"}, metadata=mark, raw=True)
mark = {"gan_tutorial": {"gan": "first try", "frechet": 1402.34, "limit": None}}
display({"text/plain": "made"}, metadata=mark, raw=True)"""
SLOW_THE_FIRST_TIME = """import pathlib, time
print("one")
time.sleep(0 if pathlib.Path("seen").exists() else 1)
pathlib.Path("seen").touch()
print("two")"""
PARAMETERS = 'seed: int = 0  # a\nrate: float = 0.1  # b\nflag: bool = False  # c\ndata_source: str = "auto"  # d'


def write(folder, name, *cells, parameters=None):
    """Make a notebook of code cells; ``parameters`` becomes the tagged cell in front."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    if parameters:
        notebook.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}, id="p"))
    notebook.cells += [nbformat.v4.new_code_cell(source, id=f"c{k}") for k, source in enumerate(cells)]
    nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture
def course(tmp_path):
    folder = tmp_path / "course"
    folder.mkdir()
    return folder


def run(course, names=(), timeout=60, settings=None, **given):
    """Run notebooks of ``course`` into ``build`` beside it and return the tasks by name."""
    settings = settings or Settings(course.parent / "build", "quick", "MNIST sample", "cpu", 2, timeout)
    tasks = make_tasks(choose_notebooks(names, course), given, {"data_source": "sample"})
    runner.run(tasks, settings)
    return {task.name: task for task in tasks}


def run_command(course, *options, **environment):
    """Run all notebooks of ``course`` by the command line, into ``build`` beside it."""
    command = [*COMMAND, "--data", "sample", "--notebooks", str(course), *options]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=course.parent, check=False, env=os.environ | environment
    )


def kept(course):
    return sorted(path.name for path in (course.parent / "build" / "notebooks").iterdir())


def executed(course, name):
    return nbformat.read(course.parent / "build" / "notebooks" / f"{name}.ipynb", as_version=4)


def manifest(course):
    return json.loads((course.parent / "build" / "figures" / "manifest.json").read_text())["figures"]


def test_the_command_leaves_notebooks_figures_a_manifest_and_a_table(course):
    epochs = "\nfrom gan_tutorial.training import of_profile\nepochs: int = of_profile(full=5, quick=1)  # e"
    printed = "print([seed, rate, flag, data_source, epochs])"
    write(course, "01_good", FIGURE, SCORE, printed, parameters=PARAMETERS + epochs)
    changes = ("-p", "seed", "7", "-p", "rate", "1e-4", "-p", "flag", "true", "-p", "epochs", "3")
    result = run_command(course, *changes, "--output", "build")
    assert (result.returncode, result.stderr) == (0, "")  # not a word of papermill's on keywords in that cell
    lines = result.stdout.splitlines()
    assert lines[0] == "Data: the MNIST sample (4,000 training and 1,000 test images)."
    assert "01_good: started" in lines[1]  # plain lines, no bar: this is no terminal
    assert "01_good: done" in lines[2]
    assert lines[3].split() == ["notebook", "time", "result", "of", "training", "run"]
    assert lines[4].split()[-7:] == ["baseline", "87.50%,", "Fréchet", "1402.3", "(first", "try)", "ok"]
    assert executed(course, "01_good").cells[-1].outputs[0].text == "[7, 0.0001, True, 'sample', 3]\n"
    (entry,) = manifest(course)
    figures = course.parent / "build" / "figures"
    assert entry["sha256"] == hashlib.sha256((figures / "01_blank.png").read_bytes()).hexdigest()
    assert (figures / entry["svg"]).exists()
    expected = {"notebook": "01_good", "alt": "An empty chart.", "cell": 3, "cell_id": "c0", "seed": 7}
    expected |= {"profile": "full", "data": "MNIST sample", "device": None}  # it has no parameter device_name
    assert {key: entry[key] for key in expected} == expected
    assert set(entry["versions"]) == {"python", "torch", "numpy", "matplotlib", "gan_tutorial"}


def test_three_notebooks_of_the_course_run_with_every_figure_in_the_manifest(tmp_path):
    """The real command, on the real course; nbval runs the other notebooks."""
    options = ["01", "03", "10", "--profile", "quick", "--data", "sample", "--output", str(tmp_path)]
    result = subprocess.run([*COMMAND, *options], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    names = ["01_autograd", "03_baseline_ann", "10_evidence"]
    rows = result.stdout.splitlines()[-3:]
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [(name, "ok") for name in names]
    assert re.search(r"baseline \d\d\.\d\d%", rows[1])
    for name in names:
        cells = nbformat.read(tmp_path / "notebooks" / f"{name}.ipynb", as_version=4).cells
        assert all(cell.execution_count for cell in cells if cell.cell_type == "code" and cell.source.strip())
    entries = json.loads((tmp_path / "figures" / "manifest.json").read_bytes())["figures"]
    assert {entry["notebook"] for entry in entries} == set(names)
    assert {entry["png"] for entry in entries} == {path.name for path in (tmp_path / "figures").glob("*.png")}
    for entry in entries:
        assert hashlib.sha256((tmp_path / "figures" / entry["png"]).read_bytes()).hexdigest() == entry["sha256"]
        assert (tmp_path / "figures" / entry["svg"]).stat().st_size > 0
        assert entry["alt"]
    times = json.loads((tmp_path / "times.json").read_bytes())
    assert (times["profile"], times["data_name"], times["changed"]) == ("quick", "MNIST sample", [])
    assert list(times["notebooks"]) == names
    assert all(notebook["seconds"] > 1 and notebook["problem"] == "" for notebook in times["notebooks"].values())


FAILURES = {
    "01_raises": (["1", "x = 1\n1 / 0", "2"], "failed in cell 2 (x = 1): ZeroDivisionError: division by zero"),
    "02_dies": (["import os", "os._exit(1)", "2"], "failed in cell 2 (os._exit(1)): the kernel died"),
    "03_dies_last": (["import os", "os._exit(0)"], "failed in cell 2 (os._exit(0)): the kernel died"),
    "04_exits": (["import sys", "sys.exit(0)", "2"], "failed in cell 2 (sys.exit(0)): SystemExit"),
    "05_exits_last": (["import sys", "sys.exit(0)"], "failed in cell 2 (sys.exit(0)): SystemExit"),
    "06_too_long": (["import time", "time.sleep(99)", "2"], "failed in cell 2 (time.sleep(99)): the time limit"),
}


MARK = """from IPython.display import display
display({"text/plain": "x"}, metadata={"gan_tutorial": NOTE}, raw=True)"""
FOLDER = "import os, shutil\nfolder = os.environ['GAN_TUTORIAL_FIGURES']\n"
BROKEN = {
    "12_accuracy_nan": (
        MARK.replace("NOTE", "{'variant': 'a', 'accuracy': float('nan'), 'expected': None}"),
        "failed in cell 1: the accuracy of a is nan",
    ),
    "16_no_note": (MARK.replace("NOTE", "'text'"), "failed: what it made cannot be kept: ValueError"),
    "17_figures_deleted": (
        FIGURE + "\n" + FOLDER + "shutil.rmtree(folder)",
        "failed in cell 1: the files of its figure 01_blank are missing",
    ),
    "18_all_deleted": (FOLDER + "shutil.rmtree(os.path.dirname(folder))", "failed"),
}


@pytest.fixture(scope="module")
def failed_run(tmp_path_factory):
    course = tmp_path_factory.mktemp("failures") / "course"
    course.mkdir()
    for name, (cells, _) in FAILURES.items():
        write(course, name, *cells)
    for name, (cell, _) in BROKEN.items():
        write(course, name, cell)
    (course / "19_html.ipynb").write_text("<html>", encoding="utf-8")
    write(course, "20_good", "1 + 1")
    return course, run_command(course, "--timeout", "5", "--jobs", "4")


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_costs_its_own_row_and_nothing_else(failed_run, name):
    _, result = failed_run
    row = next(line for line in reversed(result.stdout.splitlines()) if line.startswith(name))
    assert BROKEN[name][1] in row
    assert result.stderr == ""


def test_a_notebook_that_is_no_json_costs_its_own_row(failed_run):
    _, result = failed_run
    assert "cannot be read as a notebook: NotJSONError" in result.stdout.splitlines()[-2]
    assert result.stdout.splitlines()[-2].startswith("19_html")


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_named_with_its_cell_in_one_line_and_in_the_table(failed_run, name):
    _, result = failed_run
    told, row = [line for line in result.stdout.splitlines() if name in line and "failed" in line]
    assert f"{name}: {FAILURES[name][1]}" in told
    assert FAILURES[name][1] in row


def test_a_failure_is_exit_code_1(failed_run):
    _, result = failed_run
    assert result.returncode == 1


def test_the_others_still_run_and_a_failed_notebook_is_kept_under_another_name(failed_run):
    course, result = failed_run
    assert result.stdout.splitlines()[-1].endswith("ok")
    good = [name for name in kept(course) if not name.endswith(".failed.ipynb")]
    assert good == ["20_good.ipynb"]
    assert {f"{name}.failed.ipynb" for name in FAILURES} < set(kept(course))


def test_a_failure_keeps_the_last_good_result_and_its_figure_and_success_removes_the_failed_one(course):
    write(course, "01_blank", FIGURE)
    assert not run(course)["01_blank"].problem
    write(course, "01_blank", FIGURE.replace("(2, 2)", "(3, 3)"), "1 / 0")
    assert run(course)["01_blank"].problem
    assert kept(course) == ["01_blank.failed.ipynb", "01_blank.ipynb"]
    assert executed(course, "01_blank").cells[0].source == FIGURE
    png = course.parent / "build" / "figures" / "01_blank.png"
    assert manifest(course)[0]["sha256"] == hashlib.sha256(png.read_bytes()).hexdigest()
    write(course, "01_blank", "'no figure any more'")
    assert not run(course)["01_blank"].problem
    assert kept(course) == ["01_blank.ipynb"]
    assert manifest(course) == []
    assert not png.exists()


def test_two_runs_are_equal_to_the_byte_and_a_run_of_one_keeps_the_others_figures(course):
    write(course, "01_a", FIGURE)
    random = "import numpy\nnumpy.random.default_rng(0).random(3)"
    write(course, "02_b", FIGURE.replace("01_blank", "02_blank"), random, SLOW_THE_FIRST_TIME, parameters=PARAMETERS)
    files = []
    for names in ((), ("02",)):
        run(course, names)
        folder = course.parent / "build"
        files.append([p.read_bytes() for p in (folder / "notebooks" / "02_b.ipynb", *sorted(folder.glob("figures/*")))])
    assert files[0] == files[1]
    assert [entry["png"] for entry in manifest(course)] == ["01_blank.png", "02_blank.png"]


def test_text_written_past_ipython_does_no_harm(course):
    write(course, "01_a", "import os\nos.write(1, b'{')\nos.system('echo past')")
    assert run(course)["01_a"].problem == ""


def test_another_kernel_called_python3_is_not_used(course, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/no/such/python"], "display_name": "Python 3", "language": "python"}))
    for variable in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")  # a virtual environment's own kernels would come first
    write(course, "01_a", "import sys\nprint(sys.executable)")
    assert run(course)["01_a"].problem == ""
    assert executed(course, "01_a").cells[0].outputs[0].text.strip() == sys.executable
    assert executed(course, "01_a").metadata.kernelspec.name == "python3"


def test_a_kernel_that_does_not_start_is_tried_once_more(course, tmp_path, monkeypatch):
    write(course, "01_a", "1")
    broken = tmp_path / "broken" / "ipykernel_launcher.py"
    broken.parent.mkdir()
    count = tmp_path / "count"
    broken.write_text(f"import sys\nopen({str(count)!r}, 'a').write('x')\nsys.exit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent), prepend=os.pathsep)
    assert run(course)["01_a"].problem.startswith("failed")
    assert count.read_text() == "xx"


@pytest.fixture
def interrupted(course):
    """A run whose first notebook is finished and whose second sleeps: (its process, the processes below it)."""
    write(course, "01_quick", FIGURE)
    (course.parent / "build").mkdir()
    (course.parent / "build" / "times.json").write_text("{}")
    write(course, "02_slow", "open('started', 'w').close()\nimport time\ntime.sleep(600)")
    options = ["--data", "sample", "--notebooks", str(course), "--jobs", "2"]
    with (course.parent / "errors.txt").open("w") as errors:
        process = subprocess.Popen([*COMMAND, *options], cwd=course.parent, start_new_session=True, stderr=errors)
    wait_for(course.parent / "build" / "figures" / "manifest.json")
    wait_for(course / "started")
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("ipykernel_launcher" in " ".join(child.cmdline()) for child in children)
    yield process, children
    for left in (process, *children):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            left.kill()


STOPS = {
    "Ctrl-C": ("killpg", "SIGINT", 130),
    "SIGTERM": ("kill", "SIGTERM", 143),
    "SIGKILL": ("kill", "SIGKILL", -9),
}


@POSIX
@pytest.mark.parametrize(("send", "name", "code"), STOPS.values(), ids=STOPS)
def test_a_stopped_run_leaves_no_kernel_and_keeps_what_was_finished(course, interrupted, send, name, code):
    process, children = interrupted
    getattr(os, send)(process.pid, getattr(signal, name))
    assert process.wait(30) == code
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    assert kept(course) == ["01_quick.ipynb"]
    assert [entry["notebook"] for entry in manifest(course)] == ["01_quick"]
    told = (course.parent / "errors.txt").read_text()
    expected = f"gan-tutorial: ended by {name}; what was finished is kept.\n"
    assert told == ("" if name == "SIGKILL" else expected)


def wait_for(path, seconds=90):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.1)


# ---- what to run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["02", "02_b", "02_b.ipynb", "course/02_b.ipynb"])
def test_a_notebook_is_found_by_number_name_or_path(course, monkeypatch, name):
    write(course, "01_a", "1")
    write(course, "02_b", "1")
    monkeypatch.chdir(course.parent)
    assert choose_notebooks([name], course) == [course / "02_b.ipynb"]


def test_a_notebook_of_the_same_name_elsewhere_is_not_mistaken_for_it(course, tmp_path):
    write(course, "01_a", "1")
    write(tmp_path, "01_a", "2")
    with pytest.raises(RunError, match="There is no notebook"):
        choose_notebooks([str(tmp_path / "01_a.ipynb")], course)


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with pytest.raises(RunError, match="There is no notebook in"):
        choose_notebooks([], tmp_path)


def test_no_name_means_all_in_order():
    assert choose_notebooks([]) == sorted(NOTEBOOKS.glob("*.ipynb"))


def test_an_unknown_notebook_is_refused_with_the_choices():
    with pytest.raises(RunError, match=r"no notebook '99' in notebooks. Choose from: .*03_baseline_ann"):
        choose_notebooks(["99"])


def test_an_unknown_parameter_is_refused_with_a_suggestion(course):
    write(course, "01_a", "1", parameters=PARAMETERS)
    with pytest.raises(RunError, match=r"no parameter 'sede' in 01_a. Did you mean seed\? Known: data_source, flag"):
        make_tasks(choose_notebooks([], course), {"sede": "1"}, {})


@pytest.mark.parametrize(("name", "value"), [("seed", "1.5"), ("seed", "x"), ("rate", "fast"), ("flag", "maybe")])
def test_a_value_of_the_wrong_type_is_refused(course, name, value):
    write(course, "01_a", "1", parameters=PARAMETERS)
    with pytest.raises(RunError, match=rf"The parameter {name} is of type \w+; '{value}' is not"):
        make_tasks(choose_notebooks([], course), {name: value}, {})


def test_common_parameters_go_only_where_they_are_declared(course):
    write(course, "01_a", "1", parameters=PARAMETERS)
    write(course, "02_b", "1")
    tasks = make_tasks(choose_notebooks([], course), {}, {"data_source": "sample", "other": 1})
    assert [task.parameters for task in tasks] == [{"seed": 0, "data_source": "sample"}, {}]


def test_the_seed_of_the_run_is_the_given_one_else_the_notebooks_own(course):
    write(course, "01_a", "1", parameters="seed: int = 5  # a")
    write(course, "02_b", "1")
    notebooks = choose_notebooks([], course)
    assert [task.parameters for task in make_tasks(notebooks, {}, {})] == [{"seed": 5}, {}]
    assert [task.parameters for task in make_tasks(notebooks, {"seed": "7"}, {})] == [{"seed": 7}, {}]


def test_a_long_silence_is_broken_by_a_line_that_tells_what_runs(course, capsys):
    write(course, "01_a", "1")
    tasks = make_tasks(choose_notebooks([], course), {}, {})
    progress = runner.Progress(1, quiet_seconds=0.0)
    time.sleep(0.01)
    progress.show(tasks)
    assert capsys.readouterr().out.endswith("] still running: 01_a; 1 to go\n")


@pytest.mark.parametrize("part", ["sample", "official"])
def test_the_checksum_in_the_manifest_is_that_of_the_training_data(part, request):
    if part == "sample":
        train, _ = request.getfixturevalue("sample")
    else:
        train, _ = load_mnist(str(request.getfixturevalue("official_folder")))
    assert outputs.DATA_SHA256[train.name] == train.sha256


def test_an_output_folder_that_cannot_be_used_is_refused(course, tmp_path):
    write(course, "01_a", "1")
    (tmp_path / "build").write_text("a file")
    with pytest.raises(RunError, match="output folder cannot be used"):
        run(course)


def test_a_cell_left_unrun_is_a_failure_and_an_empty_one_is_not(course):
    write(course, "01_a", "1", "", "2")
    notebook = nbformat.read(course / "01_a.ipynb", as_version=4)
    notebook.cells[0].execution_count = 1
    assert "failed in cell 3 (2): the cell was left unrun" in worker.find_problem(notebook)
    notebook.cells[2].execution_count = 2
    assert worker.find_problem(notebook) == ""


# ---- one broken thing costs its own row ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("note", "problem"),
    [
        ({"figure": "01_x", "alt": "y"}, "the files of its figure 01_x are missing"),
        ({"gan": "a", "frechet": float("nan"), "limit": None}, "the frechet of a is nan"),
        ({"accuracy": 0.5}, "the note of an output lacks variant, expected"),
        ({"color": "red"}, "the note of an output lacks figure, alt"),
    ],
)
def test_a_note_that_cannot_be_right_is_a_failure(tmp_path, note, problem):
    task = keep(tmp_path, note, "quick", "MNIST sample")
    assert task.problem == f"failed in cell 1: {problem}"
    assert [path.name for path in (tmp_path / "build" / "notebooks").iterdir()] == ["01_a.failed.ipynb"]


def keep(tmp_path, note, *settings):
    """Keep a notebook whose one output has this note, as of a run with these settings; return its task."""
    (tmp_path / "figures").mkdir(exist_ok=True)
    cell = nbformat.v4.new_code_cell("report()")
    cell.outputs = [nbformat.v4.new_output("display_data", {"text/plain": "x"}, metadata={"gan_tutorial": note})]
    task = Task(tmp_path / "01_a.ipynb")
    profile, data, *changed = settings
    run_settings = Settings(tmp_path / "build", profile, data, "cpu", 1, 60, tuple(changed))
    outputs.keep(task, nbformat.v4.new_notebook(cells=[cell]), tmp_path / "figures", run_settings)
    return task


def test_a_damaged_manifest_is_made_anew_from_what_the_notebooks_say(course):
    write(course, "01_a", FIGURE)
    write(course, "02_b", FIGURE.replace("01_blank", "02_blank"))
    run(course)
    before = manifest(course)
    (course.parent / "build" / "figures" / "manifest.json").write_text('{"figures": [')
    (course.parent / "build" / "notebooks" / "09_foreign.ipynb").write_text("no JSON")
    assert not run(course, ("02",))["02_b"].problem
    assert manifest(course) == before
    assert [entry["png"] for entry in before] == ["01_blank.png", "02_blank.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_or_a_folder_in_the_way_costs_the_row_of_what_could_not_be_kept(course, monkeypatch):
    write(course, "01_blank", FIGURE)
    write(course, "02_b", "1 + 1")
    write(course, "03_good", "1 + 1")
    (course.parent / "build" / "figures" / "01_blank.png" / "in the way").mkdir(parents=True)
    monkeypatch.setattr(outputs, "replacing", full_disk_for("02_b"))
    tasks = run(course)
    assert tasks["01_blank"].problem.startswith("failed: what it made cannot be kept: IsADirectoryError")
    assert "02_b.ipynb cannot be written (No space left on device)" in tasks["02_b"].problem
    assert not tasks["03_good"].problem
    assert kept(course) == ["03_good.ipynb"]


def full_disk_for(name):
    """`replacing`, but for one file as on a full disk."""

    @contextlib.contextmanager
    def replacing(path):
        if path.stem != name:
            with _sources.replacing(path) as file:
                yield file
            return
        try:
            with Path("/dev/full").open("wb") as file:
                yield file
        except OSError as problem:
            raise _sources.DataError(f"{path.name} cannot be written ({problem.strerror})") from None

    return replacing


# ---- nothing silently wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        (("full", "MNIST"), False),
        (("quick", "MNIST"), True),
        (("full", "MNIST sample"), True),
        (("full", "MNIST", "seed"), True),
    ],
)
@pytest.mark.parametrize("kind", ["accuracy", "frechet"])
def test_a_full_run_on_all_of_mnist_needs_a_recorded_band(tmp_path, kind, settings, passes):
    names = {"accuracy": ("variant", "expected"), "frechet": ("gan", "limit")}[kind]
    note = {names[0]: "a", kind: 0.5}
    problem = f"failed in cell 1: no band is recorded for the {kind} of a"
    assert keep(tmp_path, note | {names[1]: None}, *settings).problem == ("" if passes else problem)
    assert keep(tmp_path, note | {names[1]: 9.5}, *settings).problem == ""


@POSIX
def test_a_second_run_into_the_same_folder_is_refused_and_touches_nothing(course, interrupted):
    before = {path: path.read_bytes() for path in (course.parent / "build").glob("[!.]*/*")}
    result = run_command(course)
    assert result.returncode == 1
    assert result.stderr.startswith("gan-tutorial: error: Another run uses the folder build: wait for its end")
    assert result.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in (course.parent / "build").glob("[!.]*/*")} == before
    assert interrupted[0].poll() is None
    assert not (course.parent / "build" / "times.json").exists()  # those of an earlier run went at the start
    interrupted[0].send_signal(signal.SIGHUP)
    assert interrupted[0].wait(30) == 129
    told = (course.parent / "errors.txt").read_text()
    assert told == "gan-tutorial: ended by SIGHUP; what was finished is kept.\n"


def test_what_dead_runs_left_goes_at_the_next_start(course):
    left = course.parent / "build" / ".running-old" / "01_a"
    left.mkdir(parents=True)
    (left / "errors.txt").write_text("x")
    runner.run([], Settings(course.parent / "build", "quick", "MNIST sample", "cpu", 2, 60))
    assert list((course.parent / "build").glob(".running-*")) == []


def test_other_parameters_leave_the_results_of_a_default_run_alone(course):
    write(course, "01_a", FIGURE, parameters=PARAMETERS)
    result = run_command(course, "-p", "seed", "7", "-p", "rate", "1e-4")
    assert (result.returncode, result.stderr) == (0, "")
    assert "the results go to build/seed=7,rate=1e-4." in result.stdout.splitlines()[0]
    assert [path.name for path in (course.parent / "build").iterdir()] == ["seed=7,rate=1e-4"]
    entry = json.loads((course.parent / "build" / "seed=7,rate=1e-4" / "figures" / "manifest.json").read_text())
    assert entry["figures"][0]["seed"] == 7


def test_the_longest_notebook_comes_first_and_one_of_unknown_length_before_it():
    names = ("01_autograd", "03_baseline_ann", "09_combination", "98_new")  # 6, 95 and 223 seconds are recorded
    tasks = [Task(Path(f"{name}.ipynb")) for name in names]
    in_order = [task.name for task in runner.longest_first(tasks, "full")]
    assert in_order == ["98_new", "09_combination", "03_baseline_ann", "01_autograd"]


def test_a_notebook_has_one_thread_and_the_word_sample_stays_a_word(course, monkeypatch):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", "sample")
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", "cache")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.chdir(course.parent)
    names = "('OMP_NUM_THREADS', 'GAN_TUTORIAL_DATA', 'GAN_TUTORIAL_CACHE', 'GAN_TUTORIAL_PROFILE')"
    write(course, "01_a", f"import os\nprint([os.environ[name] for name in {names}])")
    run(course)
    text = executed(course, "01_a").cells[0].outputs[0].text
    assert text.strip() == str(["1", "sample", str(course.parent / "cache"), "quick"])


# ---- any encoding, any reader ----------------------------------------------------------------------------------------


def test_output_works_in_the_encoding_of_a_korean_windows(course):
    write(course, "01_a", SCORE)
    result = run_command(course, PYTHONIOENCODING="cp949")
    assert (result.returncode, result.stderr) == (0, "")
    assert r"87.50%, Fr\xe9chet 1402.3 (first try)  ok" in result.stdout.splitlines()[-1]


@POSIX
def test_korean_names_work_without_a_locale(tmp_path):
    course = tmp_path / "과정"
    course.mkdir()
    write(course, "01_한글", FIGURE, parameters=PARAMETERS)
    result = run_command(course, PYTHONUTF8="0", LC_ALL="C")
    assert (result.returncode, result.stderr) == (0, "")
    assert kept(course) == ["01_한글.ipynb"]
    assert [entry["notebook"] for entry in manifest(course)] == ["01_한글"]


@POSIX
def test_a_run_goes_on_when_nobody_reads_its_output_any_more(course):
    write(course, "01_a", FIGURE)
    write(course, "02_b", "1")
    command = [*COMMAND, "--data", "sample", "--notebooks", str(course), "--jobs", "1"]
    process = subprocess.Popen(command, cwd=course.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("Data: ")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0
    assert kept(course) == ["01_a.ipynb", "02_b.ipynb"]


# ---- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_parameter_of_the_course_can_be_given(path):
    """The names are those that papermill finds, and each value, as text, is read back as what the notebook has."""
    declared = declared_parameters(path)
    assert set(declared) == set(papermill.inspect_notebook(str(path)))
    namespace = {"images_per_epoch_of_profile": images_per_epoch_of_profile, "of_profile": of_profile}
    for name, (kind, default) in declared.items():
        value = namespace[name] = eval(default, namespace)
        back = parse_value(name, str(value), kind)
        assert (back, type(back)) == (value, type(value))


def test_a_parameter_without_a_type_has_that_of_its_default_or_is_refused_in_clear_words(course):
    write(course, "01_a", "1", parameters="seed = 3\nrate = 0.5\nimages = int(7)")
    notebooks = choose_notebooks([], course)
    assert make_tasks(notebooks, {"seed": "7", "rate": "1"}, {})[0].parameters == {"seed": 7, "rate": 1.0}
    with pytest.raises(RunError, match=r"does not say that its parameter images is one of: .*`images: int = ..."):
        make_tasks(notebooks, {"images": "7"}, {})


def test_without_a_checkout_the_notebooks_have_to_be_named(monkeypatch):
    monkeypatch.setattr(tasks, "checkout", lambda: None)
    with pytest.raises(RunError, match="The notebooks are no part of the package: name their folder"):
        choose_notebooks([])
