"""The command ``gan-tutorial run | figures | data | doctor | study``. Nothing heavy is imported before it is needed."""

import argparse
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from gan_tutorial.tools import closed_pipe_is_no_fault

PROFILES = ("full", "quick")
_USERS = ("DataError", "RunError", "ValueError")  # errors that explain themselves; by name: nothing heavy is imported


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after one clear line, or 128 and the number of the signal that ended it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an é that the terminal's encoding lacks ends nothing
    options = make_parser().parse_args(arguments)
    _hear_signals()
    code = 1
    try:
        with closed_pipe_is_no_fault():
            code = options.command(options)
            sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        number = signal.Signals(stop.args[0] if stop.args else signal.SIGINT)
        text, code = f"ended by {number.name}; what was finished is kept.", 128 + number
    except Exception as problem:
        if not (message := _explain(problem)):
            raise
        text, code = f"error: {message}", 1
    print(f"gan-tutorial: {text}", file=sys.stderr)
    return code


def _hear_signals() -> None:
    """Have SIGTERM and SIGHUP end a command like Ctrl-C, tidily; one that is ignored (``nohup``) stays ignored."""

    def stop(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)


def _explain(problem: Exception) -> str:
    """Return in one line what the user has to know of an error; an empty string for a fault of the program."""
    modules = {str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(problem.__traceback__)}
    missing = problem.name or "" if isinstance(problem, ModuleNotFoundError) else ""
    message = " ".join(str(problem).split())
    if isinstance(problem, ImportError | OSError) and (missing == "torch" or "torch" in modules):
        return f"PyTorch cannot be imported ({message}). Run `gan-tutorial doctor`: it tells what to do."
    if missing and not missing.startswith("gan_tutorial"):
        return f'{missing} is missing, which this command needs: pip install "gan_tutorial[tools]"'
    return message if type(problem).__name__ in _USERS else ""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="gan-tutorial", description="A course from one tensor to a GAN.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    run = commands.add_parser("run", help="run the notebooks")
    run.add_argument("names", nargs="*", metavar="NAME", help="03, 03_baseline_ann or a path; all if none is named")
    run.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters")
    _add_conditions(run, _run_command)
    figures = commands.add_parser("figures", help="list the course's figures, or make some of them again")
    figures.add_argument("figures", nargs="*", metavar="NAME", help="such as 03_loss; all are listed if none is named")
    _add_conditions(figures, _figures_command)
    add_data(commands.add_parser("data", help="fetch, verify or find the MNIST files"))
    add_study(commands.add_parser("study", help="train every variant over several seeds into study.csv"))
    doctor = commands.add_parser("doctor", help="check this installation")
    doctor.add_argument("--json", action="store_true", help="the same as JSON, for a bug report")
    doctor.set_defaults(command=lambda options: doctor_command(options.json))
    return parser


def _add_conditions(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    """Add the options that say how notebooks are run, and what runs them."""
    parser.add_argument("--profile", choices=PROFILES, default="full", help="quick: little training (default: full)")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="notebooks at once (default: cores)")
    parser.add_argument("--output", type=Path, help="folder for results (default: build; with -p one in it)")
    parser.add_argument("--data", default="auto", help="auto, folder, cache, download, sample or a folder's path")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, mps or xpu (default: cpu)")
    parser.add_argument("--timeout", type=positive, default=3600, help="seconds that a cell may take (default: 3600)")
    parser.add_argument("--notebooks", type=Path, help="folder with the notebooks (default: the course's)")
    parser.set_defaults(command=command)


def positive(text: str) -> int:
    """Return a whole number above zero."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _run_command(options: argparse.Namespace) -> int:
    """Run notebooks; return 1 if one of them failed."""
    from gan_tutorial.data import MNIST, SAMPLE, notice, resolve_source
    from gan_tutorial.device import choose_device
    from gan_tutorial.tools import runner
    from gan_tutorial.tools.tasks import Settings, choose_notebooks, make_tasks
    from gan_tutorial.training import IMAGES_PER_EPOCH

    given = dict(options.parameters)
    notebooks = choose_notebooks(options.names, options.notebooks)
    make_tasks(notebooks, given, {})  # a wrong parameter is told before anything is fetched
    output = options.output or _usual_output(given)
    changed = tuple(given)
    device = str(choose_device(given.pop("device_name", options.device)))
    asked_for = given.pop("data_source", options.data)
    source = resolve_source(asked_for)
    print(notice(source, asked_for=asked_for), flush=True)
    folder = Path(source).expanduser()
    common = {
        "images_per_epoch": IMAGES_PER_EPOCH[options.profile],
        "data_source": str(folder.resolve()) if folder.is_dir() else source,
        "device_name": device,
    }
    data_name = SAMPLE if source == "sample" else MNIST
    settings = Settings(output, options.profile, data_name, device, options.jobs, options.timeout, changed)
    tasks = make_tasks(notebooks, given, common)
    runner.run(tasks, settings)
    return int(any(task.problem for task in tasks))


def _usual_output(given: dict[str, str]) -> Path:
    """Return ``build``, or with other parameters a folder in it: they must not replace the course's own results."""
    if not given:
        return Path("build")
    output = Path("build", re.sub(r"[^\w.,=+-]+", "-", ",".join(f"{name}={given[name]}" for name in given))[:100])
    print(f"Other parameters than the notebooks': the results go to {output}.")
    return output


def _figures_command(options: argparse.Namespace) -> int:
    """List the figures that the notebooks show, or run the notebooks of those that are named."""
    from gan_tutorial.tools.outputs import figures_of
    from gan_tutorial.tools.tasks import RunError, choose_notebooks, suggest

    known = figures_of(choose_notebooks([], options.notebooks))
    if unknown := [name for name in options.figures if name not in known]:
        advice = suggest(unknown[0], known) or " `gan-tutorial figures` lists them."
        raise RunError(f"There is no figure {unknown[0]!r}.{advice}")
    for name in known if not options.figures else []:
        print(f"{name}  ({known[name][0]})  {known[name][1]}")
    options.names = sorted({known[name][0] for name in options.figures})
    options.parameters = []
    return _run_command(options) if options.names else 0


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``data``."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--fetch", action="store_true", help="download what is missing into the cache, verified")
    choice.add_argument("--verify", action="store_true", help="check the files of the folder or the cache")
    choice.add_argument("--where", action="store_true", help="tell where data are looked for (the default)")
    parser.set_defaults(command=data_command)


def data_command(options: argparse.Namespace) -> int:
    """Fetch, verify or find the data."""
    from gan_tutorial import _sources

    folder = os.environ.get(_sources.FOLDER_VARIABLE)
    if options.fetch:
        for path in _sources.fetch():
            print(f"{path}: verified")
    elif options.verify:
        for paths in _sources.official_paths("folder" if folder else "cache").values():
            for path in paths:
                _sources.read_official(path)
                print(f"{path}: verified")
    else:
        print(f"{_sources.FOLDER_VARIABLE}: {folder or 'not set'}")
        print(f"cache: {_sources.cache_folder()}")
    return 0


def doctor_command(as_json: bool) -> int:
    """Check the installation."""
    from gan_tutorial.tools import doctor

    return doctor.main(as_json)


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``study``."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks to train (default: those of 03 to 09)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="CSV file to add to (default: the checkout's)")
    parser.add_argument("--data", default="auto", help="as for run")
    parser.add_argument("--profile", choices=PROFILES, default="full", help="images in an epoch, as for run")
    parser.add_argument("--images", type=positive, help="images in an epoch, instead of the profile's")
    parser.add_argument("--seeds", type=positive, help="how many, from seed 0 on (default: 5; 1 with --factorial)")
    parser.add_argument("--factorial", action="store_true", help="all 16 combinations of the four improvements")
    parser.add_argument("--fewer-seeds", action="store_true", help="allow bands that come from fewer seeds than before")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="trainings at once (default: cores)")
    place.add_argument("--scheduler", default="", metavar="ADDRESS", help="train on the Dask cluster at this address")
    parser.set_defaults(command=study_command)


def study_command(options: argparse.Namespace) -> int:
    """Add the runs that are missing to the study, and bring the bands up to date."""
    from gan_tutorial.tools import study

    return study.main(options)


if __name__ == "__main__":
    sys.exit(main())
