"""The commands of `python -m keras_bp`.

`show RUN` and `compare RUN RUN` print runs, `replay FOLDER` shows where the fault of a batch that
was kept begins.
"""

from typing import Any

from keras_bp_runs import terminal


def main() -> None:
    """Run the command line."""
    terminal.main("python -m keras_bp", [terminal.add_commands, add_replay])


def add_replay(commands: Any) -> None:
    """Add `replay` to the commands of an `argparse` parser."""
    text = "run a batch that the callback Rescue has kept, and show where its fault begins"
    replay = commands.add_parser("replay", help=text, description=text)
    replay.add_argument("folder", metavar="FOLDER", help="what Rescue has written")
    replay.set_defaults(command=_replay)


def _replay(options):
    from keras_bp import replay

    print(replay(options.folder))


if __name__ == "__main__":
    main()
