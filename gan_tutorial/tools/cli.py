"""The command line: ``gan-tutorial run | data | doctor | study``. Nothing heavy is imported before it is needed."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PROFILES = ("full", "quick")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 1 after one clear line, or 130 when interrupted."""
    options = make_parser().parse_args(arguments)
    try:
        return options.command(options)
    except KeyboardInterrupt:
        print("gan-tutorial: stopped; what was finished is kept.", file=sys.stderr)
        return 130
    except Exception as problem:
        if not is_the_users(problem):
            raise
        print(f"gan-tutorial: error: {problem}", file=sys.stderr)
        return 1


def is_the_users(problem: Exception) -> bool:
    """Tell an error that its message explains in full from a fault of the program."""
    return type(problem).__name__ in ("DataError", "RunError", "ValueError")  # by name: nothing heavy is imported


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="gan-tutorial", description="A course from one tensor to a GAN.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    add_run(commands.add_parser("run", help="run the notebooks"))
    add_data(commands.add_parser("data", help="fetch, verify or find the MNIST files"))
    add_study(commands.add_parser("study", help="train every variant over several seeds into study.csv"))
    doctor = commands.add_parser("doctor", help="check this installation")
    doctor.add_argument("--json", action="store_true", help="the same as JSON, for a bug report")
    doctor.set_defaults(command=lambda options: doctor_command(options.json))
    return parser


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``run``."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="03, 03_baseline_ann or a path; all if none is named")
    parser.add_argument("--profile", choices=PROFILES, default="full", help="quick: little training (default: full)")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="notebooks at once (default: cores)")
    parser.add_argument("--output", type=Path, default=Path("build"), help="folder for results (default: build)")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters")
    parser.add_argument("--data", default="auto", help="auto, folder, cache, download, sample or a folder's path")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, mps or xpu (default: cpu)")
    parser.add_argument("--timeout", type=positive, default=3600, help="seconds that a cell may take (default: 3600)")
    parser.add_argument("--notebooks", type=Path, help="folder with the notebooks (default: the course's)")
    parser.add_argument("--record", action="store_true", help="keep the times in times.csv")
    parser.add_argument("--in-place", action="store_true", help="also put the outputs into the notebooks themselves")
    parser.set_defaults(command=run_command)


def positive(text: str) -> int:
    """Return a whole number above zero."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def run_command(options: argparse.Namespace) -> int:
    """Run notebooks; return 1 if one of them failed."""
    from gan_tutorial.data import notice, resolve_source
    from gan_tutorial.device import choose_device
    from gan_tutorial.tools import outputs, runner
    from gan_tutorial.tools.tasks import NOTEBOOKS, RunError, Settings, choose_notebooks, make_tasks
    from gan_tutorial.training import IMAGES_PER_EPOCH

    if options.in_place and options.parameters:
        raise RunError("--in-place with -p would store outputs that the notebook's own parameters do not give.")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends the workers first, like Ctrl-C
    notebooks = choose_notebooks(options.names, options.notebooks or NOTEBOOKS)
    given = dict(options.parameters)
    images = IMAGES_PER_EPOCH[options.profile]
    make_tasks(notebooks, given, {})  # a wrong parameter is told before anything is fetched
    device = str(choose_device(given.pop("device_name", options.device)))
    asked_for = given.pop("data_source", options.data)
    source = resolve_source(asked_for)
    print(notice(source, asked_for=asked_for), flush=True)
    path = Path(source).expanduser()
    common = {
        "images_per_epoch": images,
        "data_source": str(path.resolve()) if path.is_dir() else source,
        "device_name": device,
    }
    tasks = make_tasks(notebooks, given, common)
    settings = Settings(options.output, options.profile, source, device, options.jobs, options.timeout)
    runner.run(tasks, settings)
    print(outputs.table(tasks))
    if options.record:
        outputs.record_times(tasks, settings)
    if options.in_place:
        outputs.put_back([task for task in tasks if not task.problem], options.output)
        if not options.notebooks:
            outputs.fill_readme()
    return int(any(task.problem for task in tasks))


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``data``."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--fetch", action="store_true", help="download what is missing into the cache, verified")
    choice.add_argument("--verify", action="store_true", help="check the files of the folder or the cache")
    choice.add_argument("--where", action="store_true", help="tell where data are looked for (the default)")
    parser.set_defaults(command=data_command)


def data_command(options: argparse.Namespace) -> int:
    """Fetch, verify or find the data."""
    from gan_tutorial import data

    folder = os.environ.get(data.FOLDER_VARIABLE)
    if options.fetch:
        for path in data.fetch():
            print(f"{path}: verified")
    elif options.verify:
        source = "folder" if folder else "cache"
        for paths in data.verified_files(data.folder_of(source)).values():
            for path in paths:
                print(f"{path}: verified")
    else:
        print(f"{data.FOLDER_VARIABLE}: {folder or 'not set'}")
        print(f"cache: {data.cache_folder()}")
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
