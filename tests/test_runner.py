"""A run keeps what was finished, names what failed in one line, and leaves no kernel behind."""

import contextlib
import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest

from gan_tutorial import _sources
from gan_tutorial.tools import checkout, runner
from gan_tutorial.tools.runner import RunError, Task, choose_notebooks, make_tasks, parse_value
from gan_tutorial.training import images_per_epoch_of_profile, of_profile

NOTEBOOKS = checkout() / "notebooks"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
COMMAND = [sys.executable, "-m", "gan_tutorial.tools.cli", "run"]
FIGURE = """import matplotlib.pyplot as plt
from gan_tutorial.plots import show
figure, axes = plt.subplots(figsize=(2, 2))
show(figure, "01_blank", "An empty chart.")"""
MARK = """from IPython.display import display
display({"text/plain": "x"}, metadata={"gan_tutorial": NOTE}, raw=True)
"""
BASELINE = MARK.replace("NOTE", "{'variant': 'baseline', 'accuracy': 0.875, 'expected': None}")
SCORE = BASELINE + MARK.replace("NOTE", "{'gan': 'first try', 'frechet': 1402.34, 'limit': None}")
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


def options(output, **others):
    usual = {"profile": "quick", "data_name": "MNIST sample", "device": "cpu", "jobs": 2, "timeout": 60, "changed": []}
    return Namespace(output=output, **(usual | others))


def run(course, names=(), **given):
    """Run notebooks of ``course`` into ``build`` beside it and return the tasks by name."""
    tasks = make_tasks(choose_notebooks(names, course), given, {"data_source": "sample"})
    runner.run(tasks, options(course.parent / "build"))
    return {task.notebook.stem: task for task in tasks}


def run_command(course, *arguments, **environment):
    """Run all notebooks of ``course`` by the command line, into ``build`` beside it."""
    command = [*COMMAND, "--data", "sample", "--notebooks", str(course), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=course.parent, check=False, env=os.environ | environment
    )


def kept(course):
    return sorted(path.name for path in (course.parent / "build" / "notebooks").iterdir())


def executed(course, name):
    return nbformat.read(course.parent / "build" / "notebooks" / f"{name}.ipynb", as_version=4)


def manifest(course, output="build"):
    return json.loads((course.parent / output / "figures" / "manifest.json").read_text())["figures"]


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


# ---- what a run leaves -----------------------------------------------------------------------------------------------


def test_parameters_reach_the_notebook_and_its_results_go_to_a_folder_of_their_own(tmp_path):
    """With Korean names and no locale, in the encoding of a Korean Windows, which has no é."""
    course = tmp_path / "과정"
    course.mkdir()
    epochs = "\nfrom gan_tutorial.training import of_profile\nepochs: int = of_profile(5, 1)  # e"
    printed = "import os, sys\nos.write(2, b'past IPython')\nprint([seed, rate, flag, data_source, epochs])"
    write(course, "01_한글", FIGURE, SCORE, printed, parameters=PARAMETERS + epochs)
    changes = ("-p", "seed", "7", "-p", "rate", "1e-4", "-p", "flag", "true", "-p", "epochs", "3")
    result = run_command(course, *changes, PYTHONIOENCODING="cp949", PYTHONUTF8="0", LC_ALL="C")
    assert (result.returncode, result.stderr) == (0, "")
    output = "build/seed=7,rate=1e-4,flag=true,epochs=3"
    where, data, started, ended, header, row = result.stdout.splitlines()  # plain lines, no bar: this is no terminal
    assert where == f"Other parameters than the notebooks': the results go to {output}."
    assert data == "Data: the MNIST sample (4,000 training and 1,000 test images)."
    assert started.endswith(": started")
    assert re.search(r": done \(\d+ s\)$", ended)
    assert header.split() == ["notebook", "time", "result", "of", "training", "run"]
    assert row.endswith(r" s  baseline 87.50%, Fr\xe9chet 1402.3 (first try)  ok")
    assert [path.name for path in (tmp_path / "build").iterdir()] == [output.removeprefix("build/")]
    done = nbformat.read(tmp_path / output / "notebooks" / "01_한글.ipynb", as_version=4)
    assert done.cells[-1].outputs[-1].text == "[7, 0.0001, True, 'sample', 3]\n"
    (entry,) = manifest(course, output)
    assert entry["sha256"] == sha256(tmp_path / output / "figures" / "01_blank.png")
    assert (tmp_path / output / "figures" / entry["svg"]).stat().st_size > 0
    assert os.fsencode(entry["notebook"]).decode() == "01_한글"
    expected = {"alt": "An empty chart.", "cell_id": "c0", "seed": 7, "profile": "full", "data": "MNIST sample"}
    expected |= {"device": None}  # it has no parameter device_name
    assert {key: entry[key] for key in expected} == expected
    assert set(entry["versions"]) == {"python", "torch", "numpy", "matplotlib", "gan_tutorial"}
    times = json.loads((tmp_path / output / "times.json").read_bytes())
    assert times["changed"] == ["seed", "rate", "flag", "epochs"]


def test_three_notebooks_of_the_course_run_with_every_figure_in_the_manifest(tmp_path):
    """The real command, on the real course; nbval runs the other notebooks."""
    arguments = ["01", "03", "10", "--profile", "quick", "--data", "sample", "--output", str(tmp_path)]
    result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
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
        assert sha256(tmp_path / "figures" / entry["png"]) == entry["sha256"]
        assert (tmp_path / "figures" / entry["svg"]).stat().st_size > 0
        assert entry["alt"]
    times = json.loads((tmp_path / "times.json").read_bytes())
    assert (times["profile"], times["data_name"], times["changed"]) == ("quick", "MNIST sample", [])
    assert list(times["notebooks"]) == names
    assert all(notebook["seconds"] > 1 and notebook["problem"] == "" for notebook in times["notebooks"].values())


def test_runs_are_equal_to_the_byte_and_one_of_some_notebooks_keeps_the_figures_of_the_others(course):
    """Also when the manifest was damaged in between, or a foreign file lies among the notebooks."""
    slow_once = "import pathlib, time\nprint('one')\ntime.sleep(0 if pathlib.Path('s').exists() else 1)\n"
    write(course, "01_a", FIGURE)
    random = "import numpy\nnumpy.random.default_rng(0).random(3)"
    slow_once += "pathlib.Path('s').touch()\nprint('two')"
    write(course, "02_b", FIGURE.replace("01_blank", "02_blank"), random, slow_once, parameters=PARAMETERS)
    build, files = course.parent / "build", []
    for names in ((), ("02",)):
        assert run(course, names)["02_b"].problem == ""
        files.append([p.read_bytes() for p in (build / "notebooks" / "02_b.ipynb", *sorted(build.glob("figures/*")))])
        (build / "figures" / "manifest.json").write_text('{"figures": [')
        (build / "notebooks" / "09_foreign.ipynb").write_text("no JSON")
    assert files[0] == files[1]
    assert [entry["png"] for entry in json.loads(files[1][-1])["figures"]] == ["01_blank.png", "02_blank.png"]


def test_a_failure_keeps_the_last_good_result_and_its_figure_and_success_removes_the_failed_one(course):
    write(course, "01_blank", FIGURE)
    assert not run(course)["01_blank"].problem
    write(course, "01_blank", FIGURE.replace("(2, 2)", "(3, 3)"), "1 / 0", "'never run'")
    assert run(course)["01_blank"].problem
    assert kept(course) == ["01_blank.failed.ipynb", "01_blank.ipynb"]
    assert executed(course, "01_blank").cells[0].source == FIGURE
    png = course.parent / "build" / "figures" / "01_blank.png"
    assert manifest(course)[0]["sha256"] == sha256(png)
    write(course, "01_blank", "'no figure any more'")
    assert not run(course)["01_blank"].problem
    assert kept(course) == ["01_blank.ipynb"]
    assert manifest(course) == []
    assert not png.exists()


# ---- one broken thing costs its own row ------------------------------------------------------------------------------

FOLDER = "import os, shutil\nfolder = os.environ['GAN_TUTORIAL_FIGURES']\n"
FAILURES = {
    "01_raises": (["1", "x = 1\n1 / 0", "2"], "failed in cell 2 (x = 1): ZeroDivisionError: division by zero"),
    "02_dies": (["import os", "os._exit(1)", "2"], "failed in cell 2 (os._exit(1)): the kernel died"),
    "03_dies_last": (["import os", "os._exit(0)"], "failed in cell 2 (os._exit(0)): the kernel died"),
    "04_exits": (["import sys", "sys.exit(0)", "2"], "failed in cell 2 (sys.exit(0)): SystemExit"),
    "05_exits_last": (["import sys", "sys.exit(0)"], "failed in cell 2 (sys.exit(0)): SystemExit"),
    "06_too_long": (["import time", "time.sleep(99)", "2"], "failed in cell 2 (time.sleep(99)): the time limit"),
    "07_no_magic": (["%%nosuch\n1"], "failed in cell 1 (%%nosuch): UsageError: Cell magic"),
    "08_left_unrun": (["1", "", "2"], "failed in cell 3 (2): the cell was left unrun"),  # tagged below
    "09_input": (["input()"], "failed in cell 1 (input()): StdinNotImplementedError"),
    "11_nan": ([BASELINE.replace("0.875", "float('nan')")], "failed: the accuracy of baseline is nan"),
    "12_no_note": ([MARK.replace("NOTE", "'text'")], "failed: ValueError"),
    "13_half_a_note": ([MARK.replace("NOTE", "{'accuracy': 0.5}")], "failed: KeyError"),
    "14_other_note": ([MARK.replace("NOTE", "{'color': 'red'}")], "failed: KeyError"),
    "15_no_files": ([FIGURE + f"\n{FOLDER}shutil.rmtree(folder)"], "failed: FileNotFoundError"),
    "16_no_svg": ([FIGURE + f"\n{FOLDER}os.remove(folder + '/01_blank.svg')"], "failed: FileNotFoundError"),
}


@pytest.fixture(scope="module")
def failed_run(tmp_path_factory):
    course = tmp_path_factory.mktemp("failures") / "course"
    course.mkdir()
    for name, (cells, _) in FAILURES.items():
        write(course, name, *cells)
    unrun = nbformat.read(course / "08_left_unrun.ipynb", as_version=4)
    unrun.cells[2].metadata["tags"] = ["skip-execution"]
    nbformat.write(unrun, course / "08_left_unrun.ipynb")
    (course / "19_html.ipynb").write_text("<html>", encoding="utf-8")
    write(course, "20_good", "1 + 1", "")
    return course, run_command(course, "--timeout", "5", "--jobs", "4")


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_broken_is_named_in_one_line_and_in_its_row_of_the_table(failed_run, name):
    _, result = failed_run
    told, row = [line for line in result.stdout.splitlines() if name in line and "failed" in line]
    assert told.startswith(f"{name}: {FAILURES[name][1]}")
    assert FAILURES[name][1] in row


def test_the_others_still_run_and_what_failed_is_kept_under_another_name(failed_run):
    course, result = failed_run
    assert (result.returncode, result.stderr) == (1, "")
    html, good = result.stdout.splitlines()[-2:]
    assert html.startswith("19_html ")
    assert "cannot be read as a notebook: NotJSONError" in html
    assert good.endswith("ok")
    assert kept(course) == [*(f"{name}.failed.ipynb" for name in FAILURES), "20_good.ipynb"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_or_a_folder_in_the_way_costs_the_row_of_what_could_not_be_kept(course, monkeypatch):
    write(course, "01_blank", FIGURE)
    write(course, "02_b", FIGURE.replace("01_blank", "02_blank"))
    write(course, "03_start", "1 + 1")
    write(course, "04_good", "1 + 1")
    figures = course.parent / "build" / "figures"
    (figures / "01_blank.png" / "in the way").mkdir(parents=True)
    (figures / "02_blank.png").write_text("of an earlier run")
    monkeypatch.setattr(runner, "replacing", full_disk_for("02_b"))
    monkeypatch.setattr(Path, "mkdir", no_space_for("03_start"))
    tasks = run(course)
    assert tasks["03_start"].problem == "failed: OSError: [Errno 28] No space left on device"
    assert tasks["01_blank"].problem.startswith("failed: IsADirectoryError")
    assert "02_b.ipynb cannot be written (No space left on device)" in tasks["02_b"].problem
    assert (figures / "02_blank.png").read_text() == "of an earlier run"
    assert "04_good.ipynb" in kept(course)


def no_space_for(name, mkdir=Path.mkdir):
    """`Path.mkdir`, but for one folder as on a full disk."""

    def full(path, *arguments, **others):
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        mkdir(path, *arguments, **others)

    return full


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


# ---- nothing silently wrong, nothing left behind ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "passes"),
    [
        ({"profile": "full", "data_name": "MNIST"}, False),
        ({"data_name": "MNIST"}, True),
        ({"profile": "full"}, True),
        ({"profile": "full", "data_name": "MNIST", "changed": ["seed"]}, True),
    ],
)
@pytest.mark.parametrize("kind", ["accuracy", "frechet"])
def test_a_full_run_on_all_of_mnist_needs_a_recorded_band(course, kind, conditions, passes):
    named, band = {"accuracy": ("variant", "expected"), "frechet": ("gan", "limit")}[kind]
    for limit in (None, 9.5):
        note = {named: "a", kind: 0.5, band: limit}
        cell = nbformat.v4.new_code_cell("report()")
        cell.outputs = [nbformat.v4.new_output("display_data", {"text/plain": "x"}, metadata={"gan_tutorial": note})]
        fault = None if passes or limit else pytest.raises(RunError, match=f"no band is recorded for the {kind} of a")
        with fault or contextlib.nullcontext():
            made = nbformat.v4.new_notebook(cells=[cell])
            runner.keep(Task(Path("01_a.ipynb")), made, course, options(course / "build", **conditions))


@pytest.fixture
def interrupted(course):
    """A run whose first notebook is finished and whose second sleeps: (its process, the processes below it)."""
    left = course.parent / "build" / ".running" / "01_old"  # by a run that was killed
    left.mkdir(parents=True)
    (course.parent / "build" / "times.json").write_text("{}")
    write(course, "01_quick", FIGURE)
    sleep = "import os, subprocess, time\nsubprocess.Popen(['sleep', '600'])\nopen('started', 'w').close()"
    write(course, "02_slow", sleep + "\ntime.sleep(600)")
    write(course, "03_slow", "import time\ntime.sleep(600)")
    arguments = ["--data", "sample", "--notebooks", str(course), "--jobs", "2"]
    with (course.parent / "errors.txt").open("w") as errors, (course.parent / "told.txt").open("w") as told:
        process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=course.parent, start_new_session=True, stdout=told, stderr=errors
        )
    wait_for(course.parent / "build" / "figures" / "manifest.json")
    wait_for(course / "started")
    assert not left.exists()
    assert not (course.parent / "build" / "times.json").exists()  # those of an earlier run went at the start
    children = {" ".join(child.cmdline()): child for child in psutil.Process(process.pid).children(recursive=True)}
    assert sum("ipykernel_launcher" in command for command in children) == 2
    assert "sleep 600" in children
    yield process, children
    for left in (process, *children.values()):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            left.kill()


def wait_for(path, seconds=90):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.1)


@POSIX
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_a_stopped_run_leaves_no_process_and_keeps_what_was_finished(course, interrupted, name):
    process, children = interrupted
    if name == "SIGINT":  # and meanwhile a second run into the same folder is refused and touches nothing
        before = {path: path.read_bytes() for path in (course.parent / "build").glob("[!.]*/*")}
        result = run_command(course)
        assert result.returncode == 1
        assert result.stderr.startswith("gan-tutorial: error: Another run uses the folder build: wait for its end")
        assert result.stderr.count("\n") == 1
        assert {path: path.read_bytes() for path in (course.parent / "build").glob("[!.]*/*")} == before
        assert process.poll() is None
    send = os.killpg if name == "SIGINT" else os.kill  # Ctrl-C reaches the whole group
    send(process.pid, number := getattr(signal, name))
    assert process.wait(30) == (-number if name == "SIGKILL" else 128 + number)
    if name == "SIGKILL":
        children.pop("sleep 600").kill()  # what a notebook has started itself is beyond reach then
    _, alive = psutil.wait_procs(list(children.values()), timeout=20)
    assert alive == []
    assert kept(course) == ["01_quick.ipynb"]
    assert [entry["notebook"] for entry in manifest(course)] == ["01_quick"]
    expected = f"gan-tutorial: ended by {name}; what was finished is kept.\n"
    assert (course.parent / "errors.txt").read_text() == ("" if name == "SIGKILL" else expected)
    assert (course.parent / "build" / ".running").exists() == (name == "SIGKILL")


@POSIX
def test_a_run_ends_tidily_when_nobody_reads_its_output_any_more(course):
    write(course, "01_a", "import time\ntime.sleep(600)")
    command = [*COMMAND, "--data", "sample", "--notebooks", str(course), "--jobs", "1"]
    write(course, "02_b", "1")
    process = subprocess.Popen(command, cwd=course.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("Data: ")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141
    assert not (course.parent / "build" / ".running").exists()


def test_a_kernel_is_of_this_python_with_one_thread_and_the_word_sample_stays_a_word(course, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/no/such/python"], "display_name": "Python 3", "language": "python"}))
    for variable in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")  # a virtual environment's own kernels would come first
    monkeypatch.setenv("GAN_TUTORIAL_DATA", "sample")
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", "cache")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.chdir(course.parent)
    names = "('OMP_NUM_THREADS', 'GAN_TUTORIAL_DATA', 'GAN_TUTORIAL_CACHE', 'GAN_TUTORIAL_PROFILE')"
    write(course, "01_a", f"import os, sys\nprint([sys.executable, *(os.environ[name] for name in {names})])")
    assert run(course)["01_a"].problem == ""
    text = executed(course, "01_a").cells[0].outputs[0].text
    assert text.strip() == str([sys.executable, "1", "sample", str(course.parent / "cache"), "quick"])
    assert executed(course, "01_a").metadata.kernelspec.name == "python3"


def test_a_kernel_that_does_not_start_is_tried_once_more(course, tmp_path, monkeypatch):
    write(course, "01_a", "1")
    broken = tmp_path / "broken" / "ipykernel_launcher.py"
    broken.parent.mkdir()
    count = tmp_path / "count"
    broken.write_text(f"import sys\nopen({str(count)!r}, 'a').write('x')\nsys.exit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent), prepend=os.pathsep)
    assert run(course)["01_a"].problem.startswith("failed: RuntimeError: Kernel died before replying")
    assert count.read_text() == "xx"


def test_an_output_folder_that_cannot_be_used_is_refused(course, tmp_path):
    write(course, "01_a", "1")
    (tmp_path / "build").write_text("a file")
    with pytest.raises(RunError, match="output folder cannot be used"):
        run(course)


# ---- what to run -----------------------------------------------------------------------------------------------------


def test_the_longest_notebook_comes_first_and_one_of_unknown_length_before_it():
    names = ("01_autograd", "03_baseline_ann", "09_combination", "98_new")  # 6, 95 and 223 seconds are recorded
    tasks = [Task(Path(f"{name}.ipynb")) for name in names]
    in_order = [task.notebook.stem for task in runner.longest_first(tasks, "full")]
    assert in_order == ["98_new", "09_combination", "03_baseline_ann", "01_autograd"]


@pytest.mark.parametrize("name", ["02", "02_b", "02_b.ipynb", "course/02_b.ipynb"])
def test_a_notebook_is_found_by_number_name_or_path(course, monkeypatch, name):
    write(course, "01_a", "1")
    write(course, "02_b", "1")
    monkeypatch.chdir(course.parent)
    assert choose_notebooks([name], course) == [course / "02_b.ipynb"]


def test_a_notebook_that_is_not_there_is_refused_with_the_choices(course, tmp_path, monkeypatch):
    with pytest.raises(RunError, match="There is no notebook in"):
        choose_notebooks([], course)
    write(course, "01_a", "1")
    write(tmp_path, "01_a", "2")
    with pytest.raises(RunError, match=r"There is no notebook '.*01_a.ipynb' in course"):  # the same name elsewhere
        choose_notebooks([str(tmp_path / "01_a.ipynb")], course)
    with pytest.raises(RunError, match=r"no notebook '99' in notebooks. Choose from: .*03_baseline_ann"):
        choose_notebooks(["99"])
    assert choose_notebooks([]) == sorted(NOTEBOOKS.glob("*.ipynb"))
    monkeypatch.setattr(runner, "checkout", lambda: None)
    with pytest.raises(RunError, match="The notebooks are no part of the package: name their folder"):
        choose_notebooks([])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "sede",
            "1",
            r"no parameter 'sede' in the notebooks chosen. Did you mean seed\? Known: data_source, flag, rate, seed",
        ),
        ("seed", "1.5", "The parameter seed is of type int; '1.5' is not"),
        ("seed", "x", "The parameter seed is of type int; 'x' is not"),
        ("rate", "fast", "The parameter rate is of type float; 'fast' is not"),
        ("flag", "maybe", "The parameter flag is of type bool; 'maybe' is not"),
        ("size", "7", r"does not say that its parameter size is one of: int, .*`size: int = ..."),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused(course, name, value, message):
    write(course, "01_a", "1", parameters=f"{PARAMETERS}\nsize = 3")
    with pytest.raises(RunError, match=message):
        make_tasks(choose_notebooks([], course), {name: value}, {})


def test_parameters_and_the_own_seed_go_where_they_are_declared(course):
    write(course, "01_a", "1", parameters=PARAMETERS.replace("0", "5", 1))
    write(course, "02_b", "1")
    notebooks = choose_notebooks([], course)
    tasks = make_tasks(notebooks, {}, {"data_source": "sample", "other": 1})
    assert [task.parameters for task in tasks] == [{"seed": 5, "data_source": "sample"}, {}]
    assert [task.parameters for task in make_tasks(notebooks, {"seed": "7"}, {})] == [{"seed": 7}, {}]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_parameter_of_the_course_can_be_given(path):
    """Papermill finds all names that the cell assigns, and each value, as text, is read back as what the cell has."""
    (cell,) = [c for c in nbformat.read(path, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    namespace = {"images_per_epoch_of_profile": images_per_epoch_of_profile, "of_profile": of_profile}
    exec(cell.source, namespace)
    declared = papermill.inspect_notebook(str(path))
    assert set(declared) == set(namespace["__annotations__"])
    for name, parameter in declared.items():
        back = parse_value(name, str(namespace[name]), parameter["inferred_type_name"])
        assert (back, type(back)) == (namespace[name], type(namespace[name]))
