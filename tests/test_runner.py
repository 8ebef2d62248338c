"""A run keeps what was finished, names what failed in one line, and leaves no kernel behind."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from gan_tutorial.data import load_mnist
from gan_tutorial.tools import outputs, runner
from gan_tutorial.tools.tasks import NOTEBOOKS, RunError, Settings, choose_notebooks, make_tasks

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
COMMAND = [sys.executable, "-m", "gan_tutorial.tools.cli", "run"]
FIGURE = """import matplotlib.pyplot as plt
from gan_tutorial.plots import show
figure, axes = plt.subplots(figsize=(2, 2))
show(figure, "01_blank", "An empty chart.")"""
SCORE = """from IPython.display import display
mark = {"gan_tutorial": {"variant": "baseline", "accuracy": 0.875}}
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


def run(course, names=(), timeout=60, **given):
    """Run notebooks of ``course`` into ``build`` beside it and return the tasks by name."""
    settings = Settings(course.parent / "build", "quick", "sample", "cpu", jobs=2, timeout=timeout)
    tasks = make_tasks(choose_notebooks(names, course), given, {"data_source": "sample"})
    return {task.name: task for task in runner.run(tasks, settings)}


def run_command(course, *options):
    """Run all notebooks of ``course`` by the command line, into ``build`` beside it."""
    command = [*COMMAND, "--data", "sample", "--notebooks", str(course), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=course.parent, check=False)


def kept(course):
    return sorted(path.name for path in (course.parent / "build" / "notebooks").iterdir())


def executed(course, name):
    return nbformat.read(course.parent / "build" / "notebooks" / f"{name}.ipynb", as_version=4)


def manifest(course):
    return json.loads((course.parent / "build" / "figures" / "manifest.json").read_text())["figures"]


def test_the_command_leaves_notebooks_figures_a_manifest_and_a_table(course):
    write(course, "01_good", FIGURE, SCORE, "print([seed, rate, flag, data_source])", parameters=PARAMETERS)
    result = run_command(course, "-p", "seed", "7", "-p", "rate", "1e-4", "-p", "flag", "true")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "Data: the MNIST sample (4,000 training and 1,000 test images)."
    assert "01_good: started" in lines[1]  # plain lines, no bar: this is no terminal
    assert "01_good: done" in lines[2]
    assert lines[3].split() == ["notebook", "time", "result", "of", "training", "run"]
    assert lines[4].split()[-7:] == ["baseline", "87.50%,", "Fréchet", "1402.3", "(first", "try)", "ok"]
    assert executed(course, "01_good").cells[-1].outputs[0].text == "[7, 0.0001, True, 'sample']\n"
    (entry,) = manifest(course)
    figures = course.parent / "build" / "figures"
    assert entry["sha256"] == hashlib.sha256((figures / "01_blank.png").read_bytes()).hexdigest()
    assert (figures / entry["svg"]).exists()
    expected = {"notebook": "01_good", "alt": "An empty chart.", "cell": 3, "cell_id": "c0", "seed": 7}
    expected |= {"profile": "full", "data": "MNIST sample", "device": None}  # it has no parameter device_name
    assert {key: entry[key] for key in expected} == expected
    assert set(entry["versions"]) == {"python", "torch", "numpy", "matplotlib", "gan_tutorial"}


def test_in_place_puts_outputs_into_the_notebooks_without_the_injected_cell(course):
    write(course, "01_a", "print(data_source)", "6 * 7", parameters=PARAMETERS)
    tasks = run(course)
    outputs.put_back(list(tasks.values()), course.parent / "build")
    in_place = nbformat.read(course / "01_a.ipynb", as_version=4)
    assert [cell.id for cell in in_place.cells] == ["p", "c0", "c1"]
    assert [cell.execution_count for cell in in_place.cells] == [1, 2, 3]
    assert in_place.cells[1].outputs[0].text == "sample\n"
    assert in_place.cells[2].outputs[0].execution_count == 3
    assert "papermill" not in json.dumps(in_place)


FAILURES = {
    "01_raises": (["1", "x = 1\n1 / 0", "2"], "failed in cell 2 (x = 1): ZeroDivisionError: division by zero"),
    "02_dies": (["import os", "os._exit(1)", "2"], "failed in cell 2 (os._exit(1)): the kernel died"),
    "03_dies_last": (["import os", "os._exit(0)"], "failed in cell 2 (os._exit(0)): the kernel died"),
    "04_exits": (["import sys", "sys.exit(0)", "2"], "failed in cell 2 (sys.exit(0)): SystemExit"),
    "05_exits_last": (["import sys", "sys.exit(0)"], "failed in cell 2 (sys.exit(0)): SystemExit"),
    "06_too_long": (["import time", "time.sleep(99)", "2"], "failed in cell 2 (time.sleep(99)): the time limit"),
}


@pytest.fixture(scope="module")
def failed_run(tmp_path_factory):
    course = tmp_path_factory.mktemp("failures") / "course"
    course.mkdir()
    for name, (cells, _) in FAILURES.items():
        write(course, name, *cells)
    write(course, "07_good", "1 + 1")
    return course, run_command(course, "--timeout", "5", "--jobs", "4")


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
    assert kept(course) == [*(f"{name}.failed.ipynb" for name in FAILURES), "07_good.ipynb"]


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
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    assert run(course)["01_a"].problem.startswith("failed")
    assert count.read_text() == "xx"


@pytest.fixture
def interrupted(course):
    """A run whose first notebook is finished and whose second sleeps: (its process, the processes below it)."""
    write(course, "01_quick", FIGURE)
    write(course, "02_slow", "open('started', 'w').close()\nimport time\ntime.sleep(600)")
    options = ["--data", "sample", "--notebooks", str(course), "--jobs", "2"]
    process = subprocess.Popen([*COMMAND, *options], cwd=course.parent, start_new_session=True)
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
    "SIGINT to the command alone": ("kill", "SIGINT", 130),
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
    assert [task.parameters for task in tasks] == [{"data_source": "sample"}, {}]


def test_the_seed_of_the_run_is_the_given_one_else_the_notebooks_own(course):
    write(course, "01_a", "1", parameters="seed: int = 5  # a")
    write(course, "02_b", "1")
    notebooks = choose_notebooks([], course)
    assert [task.seed for task in make_tasks(notebooks, {}, {})] == [5, None]
    assert [task.seed for task in make_tasks(notebooks, {"seed": "7"}, {})] == [7, None]


def test_a_long_silence_is_broken_by_a_line_that_tells_what_runs(course, capsys):
    write(course, "01_a", "1", "2", parameters=PARAMETERS)
    tasks = make_tasks(choose_notebooks([], course), {"seed": "1"}, {})
    board = runner.Board(tasks, quiet_seconds=0.0)
    board.start(tasks[0])
    board.cell(tasks[0], index=2)
    board.tick()
    assert capsys.readouterr().out.splitlines()[-1].endswith("running 01: cell 3/4; 1 of 1 notebooks to go")


def test_pieces_of_printed_text_are_joined_only_with_their_neighbours():
    pieces = [("stdout", "a"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d")]
    pieces_of_text = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in pieces]
    pieces_of_text.insert(3, nbformat.v4.new_output("display_data", {"text/plain": "x"}))
    joined = outputs.join_streams(pieces_of_text)
    assert [output.get("text") for output in joined] == ["ab", "c", None, "d"]


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


def test_a_half_written_file_never_takes_the_name(tmp_path):
    file = tmp_path / "manifest.json"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        outputs.write_text(file, "new \ud800")
    assert file.read_text() == "old"


def test_a_cell_left_unrun_is_a_failure_and_an_empty_one_is_not(course):
    write(course, "01_a", "1", "", "2")
    (task,) = make_tasks(choose_notebooks([], course), {}, {})
    notebook = nbformat.read(course / "01_a.ipynb", as_version=4)
    notebook.cells[0].execution_count = 1
    assert "failed in cell 3 (2): the cell was left unrun" in runner.find_problem(task, notebook)
    notebook.cells[2].execution_count = 2
    assert runner.find_problem(task, notebook) == ""
