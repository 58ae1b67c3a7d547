"""The commands that print runs: `python -m keras_bp show RUN`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from keras_bp_runs.compare import compare_runs
from keras_bp_runs.run import read_run
from keras_bp_runs.text import run_text


def add_commands(commands: Any) -> None:
    """Add `show` and `compare` to the commands of an `argparse` parser."""
    show = commands.add_parser("show", help="print what a run holds")
    show.add_argument("run", metavar="RUN", help="the directory of a run, such as tb_logs/first")
    show.set_defaults(command=lambda options: print(run_text(read_run(options.run))))
    compare = commands.add_parser("compare", help="print in what runs differ")
    compare.add_argument("runs", metavar="RUN", nargs="+", help="the directories of two runs")
    compare.add_argument(
        "--tolerance", type=float, default=0.0, help="relative difference that counts as equal"
    )
    compare.add_argument("--plot", metavar="FILE", help="draw the curves, as PNG or SVG")
    compare.set_defaults(command=_compare)


def main(program: str, add: Sequence[Callable[[Any], None]] = (add_commands,)) -> None:
    """Run a command line; an argument that cannot be used ends it with one line."""
    parser = argparse.ArgumentParser(program)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for each in add:
        each(commands)
    options = parser.parse_args()
    try:
        options.command(options)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"{program}: {error}")


def _compare(options):
    comparison = compare_runs(options.runs, options.tolerance)
    print(comparison)
    if options.plot:
        comparison.plot(options.plot)
