"""The command ``gan-tutorial run | figures | data | doctor | study``. Nothing heavy is imported before it is needed."""

import argparse
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after one clear line, or 128 and the number of the signal that ended it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An é that the terminal's encoding lacks ends nothing, and a line is out as soon as it is written.
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    options = make_parser().parse_args(arguments)
    _hear_signals()
    try:
        return options.command(options)
    except BrokenPipeError:  # nobody reads on, as in `gan-tutorial figures | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt as stop:
        number = signal.Signals(stop.args[0] if stop.args else signal.SIGINT)
        text, code = f"ended by {number.name}; what was finished is kept.", 128 + number
    except Exception as problem:
        if not (message := _explain(problem)):
            raise
        text, code = f"error: {message}", 1
    print(f"gan-tutorial: {text}", file=sys.stderr)
    if code > 128 and threading.active_count() > 1:  # a thread still waits for a dead kernel; all else is tidied up
        os._exit(code)
    return code


def _hear_signals() -> None:
    """Have SIGTERM and SIGHUP end a command like Ctrl-C, tidily; one that is ignored (``nohup``) stays ignored."""

    def stop(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(number)

    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no SIGHUP
        if signal.getsignal(number) == signal.SIG_DFL:
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
    explains_itself = type(problem).__name__ in ("DataError", "RunError", "ValueError")  # no need to import them
    return message if explains_itself or isinstance(problem, OSError) else ""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="gan-tutorial", description="A course from one tensor to a GAN.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    shared, notebooks = _shared_options()
    run = commands.add_parser("run", help="run the notebooks", parents=[shared, notebooks])
    run.add_argument("names", nargs="*", metavar="NAME", help="03, 03_baseline_ann or a path; all if none is named")
    run.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters")
    run.set_defaults(command=lambda options: _tool("runner").run_command(options))
    text = "list the course's figures, or make some of them again"
    figures = commands.add_parser("figures", help=text, parents=[shared, notebooks])
    figures.add_argument("figures", nargs="*", metavar="NAME", help="such as 03_loss; all are listed if none is named")
    figures.set_defaults(command=lambda options: _tool("runner").figures_command(options))
    data = commands.add_parser("data", help="fetch, verify or find the MNIST files").add_mutually_exclusive_group()
    data.add_argument("--fetch", action="store_true", help="download what is missing into the cache, verified")
    data.add_argument("--verify", action="store_true", help="check the files of the folder or the cache")
    data.add_argument("--where", action="store_true", help="tell where data are looked for (the default)")
    commands.choices["data"].set_defaults(command=_data)
    text = "train every variant over several seeds into study.csv"
    study = commands.add_parser("study", help=text, parents=[shared])
    study.add_argument("names", nargs="*", metavar="NAME", help="networks to train (default: those of 03 to 09)")
    study.add_argument("--images", type=_positive, help="images in an epoch, instead of the profile's")
    study.add_argument("--seeds", type=_positive, help="how many, from seed 0 on (default: 5; 3 with --rates)")
    study.add_argument("--factorial", action="store_true", help="all 16 combinations of the four improvements")
    text = "each network with each learning rate, into rates.csv, read on training images held out"
    study.add_argument("--rates", action="store_true", help=text)
    text = "what the networks of seed 0 answer to the test images, into answers.npz"
    study.add_argument("--answers", action="store_true", help=text)
    study.add_argument("--fewer-seeds", action="store_true", help="allow bands that come from fewer seeds than before")
    study.add_argument("--scheduler", default="", metavar="ADDRESS", help="train on the Dask cluster at this address")
    study.set_defaults(command=lambda options: _tool("study").main(options))
    doctor = commands.add_parser("doctor", help="check this installation")
    doctor.add_argument("--json", action="store_true", help="the same as JSON, for a bug report")
    doctor.set_defaults(command=lambda options: _tool("doctor").main(options.json))
    return parser


def _shared_options() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Return the options of all commands that train, and those of the ones that run notebooks."""
    shared, notebooks = argparse.ArgumentParser(add_help=False), argparse.ArgumentParser(add_help=False)
    shared.add_argument("--profile", choices=("full", "quick"), default="full", help="quick: little training")
    shared.add_argument("--data", default="auto", help="auto, folder, cache, download, sample or a folder's path")
    shared.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, help="how many at once (default: cores)")
    shared.add_argument("--output", type=Path, help="folder for results; of a study, the CSV file to add to")
    notebooks.add_argument("--device", default="cpu", help="auto, cpu, cuda, mps or xpu (default: cpu)")
    notebooks.add_argument("--timeout", type=_positive, default=3600, help="seconds that a cell may take")
    notebooks.add_argument("--notebooks", type=Path, help="folder with the notebooks (default: the course's)")
    return shared, notebooks


def _positive(text: str) -> int:
    """Return a whole number above zero."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _tool(name: str) -> ModuleType:
    """Import a module of the command when it is needed."""
    return import_module(f"gan_tutorial.tools.{name}")


def _data(options: argparse.Namespace) -> int:
    """Fetch, verify or find the data."""
    from gan_tutorial import _sources

    folder = os.environ.get(_sources.FOLDER_VARIABLE)
    if options.fetch:
        verified = list(_sources.fetch())
    elif options.verify:
        parts = _sources.official_paths("folder" if folder else "cache").values()
        verified = [path for paths in parts for path in paths]
        for path in verified:
            _sources.read_official(path)
    else:
        print(f"{_sources.FOLDER_VARIABLE}: {folder or 'not set'}\ncache: {_sources.cache_folder()}")
        return 0
    print("\n".join(f"{path}: verified" for path in verified))
    return 0


if __name__ == "__main__":
    sys.exit(main())
