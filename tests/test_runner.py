"""A run keeps what was finished, names what failed in one line, and leaves no kernel behind."""

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

from gan_tutorial import runner
from gan_tutorial.cli import main
from gan_tutorial.runner import NOTEBOOKS, RunError, choose_notebooks, make_tasks

COMMAND = [sys.executable, "-m", "gan_tutorial.cli", "run"]
FIGURE = """import matplotlib.pyplot as plt
from gan_tutorial.plots import show
figure, axes = plt.subplots(figsize=(2, 2))
show(figure, "01_blank", "An empty chart.")"""
SCORE = """from IPython.display import display
mark = {"gan_tutorial": {"variant": "baseline", "accuracy": 0.875}}
display({"text/plain": "done"}, metadata=mark, raw=True)"""
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
    settings = runner.Settings(course.parent / "build", "quick", "sample", "cpu", jobs=2, timeout=timeout)
    tasks = make_tasks(choose_notebooks(names, course), given, {"data_source": "sample"})
    return {task.name: task for task in runner.run(tasks, settings)}


def kept(course):
    return sorted(path.name for path in (course.parent / "build" / "notebooks").iterdir())


def executed(course, name):
    return nbformat.read(course.parent / "build" / "notebooks" / f"{name}.ipynb", as_version=4)


def manifest(course):
    return json.loads((course.parent / "build" / "figures" / "manifest.json").read_text())["figures"]


def test_the_command_leaves_notebooks_figures_a_manifest_and_a_table(course):
    write(course, "01_good", FIGURE, SCORE, "print([seed, rate, flag])", parameters=PARAMETERS)
    options = ["--data", "sample", "--notebooks", str(course), "--in-place"]
    given = ["-p", "seed", "7", "-p", "rate", "1e-4", "-p", "flag", "true"]
    result = subprocess.run(
        [*COMMAND, *options, *given], capture_output=True, text=True, cwd=course.parent, check=False
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "Data: the MNIST sample (4,000 training and 1,000 test images)."
    assert "01_good: done" in lines[1]  # plain lines, no bar: this is no terminal
    assert "0 of 1 to go" in lines[1]
    assert "baseline 87.50%; ok" in lines[-1]
    (entry,) = manifest(course)
    assert (entry["notebook"], entry["alt"], entry["seed"]) == ("01_good", "An empty chart.", 7)
    figures = course.parent / "build" / "figures"
    assert entry["sha256"] == hashlib.sha256((figures / "01_blank.png").read_bytes()).hexdigest()
    assert (figures / entry["svg"]).exists()
    assert entry["versions"]["torch"]
    assert executed(course, "01_good").cells[-1].outputs[0].text == "[7, 0.0001, True]\n"
    in_place = nbformat.read(course / "01_good.ipynb", as_version=4)
    assert [cell.id for cell in in_place.cells] == ["p", "c0", "c1", "c2"]
    assert [cell.execution_count for cell in in_place.cells] == [1, 2, 3, 4]
    assert in_place.cells[-1].outputs[0].text == "[7, 0.0001, True]\n"
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
    return course, run(course, timeout=5)


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_named_with_its_cell(failed_run, name):
    _, tasks = failed_run
    assert tasks[name].problem.startswith(FAILURES[name][1])


def test_the_others_still_run_and_a_failed_notebook_is_kept_under_another_name(failed_run):
    course, tasks = failed_run
    assert tasks["07_good"].problem == ""
    assert kept(course) == [*(f"{name}.failed.ipynb" for name in FAILURES), "07_good.ipynb"]


def test_the_table_names_each_failure(failed_run):
    _, tasks = failed_run
    lines = runner.table(list(tasks.values())).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(tasks)
    assert "ZeroDivisionError" in lines[1]


def test_the_command_exits_with_1_when_a_notebook_failed(course, capsys):
    write(course, "01_bad", "1 / 0")
    options = ["--data", "sample", "--notebooks", str(course), "--output", str(course.parent / "build")]
    assert main(["run", *options]) == 1
    assert "01_bad: failed in cell 1 (1 / 0): ZeroDivisionError" in capsys.readouterr().out


def test_a_failure_keeps_the_last_good_result_and_success_removes_the_failed_one(course):
    write(course, "01_a", "'first'")
    assert not run(course)["01_a"].problem
    write(course, "01_a", "1 / 0")
    assert run(course)["01_a"].problem
    assert "first" in str(executed(course, "01_a").cells[0].outputs)
    assert kept(course) == ["01_a.failed.ipynb", "01_a.ipynb"]
    write(course, "01_a", "'third'")
    assert not run(course)["01_a"].problem
    assert kept(course) == ["01_a.ipynb"]


def test_two_runs_are_equal_to_the_byte_and_a_run_of_one_keeps_the_others_figures(course):
    write(course, "01_a", FIGURE)
    write(course, "02_b", FIGURE.replace("01_blank", "02_blank"), "import torch\ntorch.manual_seed(0)\ntorch.rand(3)")
    files = []
    for names in ((), ("02",)):
        run(course, names)
        folder = course.parent / "build"
        files.append([p.read_bytes() for p in (folder / "notebooks" / "02_b.ipynb", *sorted(folder.glob("figures/*")))])
    assert files[0] == files[1]
    assert [entry["png"] for entry in manifest(course)] == ["01_blank.png", "02_blank.png"]


def test_another_kernel_called_python3_is_not_used(course, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/no/such/python"], "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
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


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to the command", "to its group"])
def test_ctrl_c_leaves_no_kernel_behind_and_keeps_what_was_finished(course, send):
    write(course, "01_quick", "1 + 1")
    write(course, "02_slow", "open('started', 'w').close()\nimport time\ntime.sleep(600)")
    options = ["--data", "sample", "--notebooks", str(course), "--jobs", "2"]
    process = subprocess.Popen([*COMMAND, *options], cwd=course.parent, start_new_session=True)
    wait_for(course.parent / "build" / "notebooks" / "01_quick.ipynb")
    wait_for(course / "started")
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("ipykernel_launcher" in " ".join(child.cmdline()) for child in children)
    send(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert kept(course) == ["01_quick.ipynb"]


def wait_for(path, seconds=90):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.1)


# ---- what to run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["03", "03_baseline_ann", "03_baseline_ann.ipynb", "notebooks/03_baseline_ann.ipynb"])
def test_a_notebook_is_found_by_number_name_or_path(name):
    assert [path.stem for path in choose_notebooks([name])] == ["03_baseline_ann"]


def test_no_name_means_all_in_order():
    assert choose_notebooks([]) == sorted(NOTEBOOKS.glob("*.ipynb"))


def test_an_unknown_notebook_is_refused_with_the_choices():
    with pytest.raises(RunError, match=r"no notebook '99'. Choose from: .*03_baseline_ann"):
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


def test_a_half_written_file_never_takes_the_name(tmp_path):
    file = tmp_path / "manifest.json"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        runner.write_text(file, "new \ud800")
    assert file.read_text() == "old"
