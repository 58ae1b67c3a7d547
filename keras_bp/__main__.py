"""The command line, `python -m keras_bp`: its commands are listed by `--help`."""

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m keras_bp", description="What a run has left.")
    commands = parser.add_subparsers(required=True)
    _add_replay(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1


def _add_replay(commands):
    text = "run a batch that the callback Rescue has kept, and show where its fault begins"
    parser = commands.add_parser("replay", help=text, description=text)
    parser.add_argument("folder", help="what Rescue has written")
    parser.set_defaults(run=_replay)


def _replay(options):
    from keras_bp import replay  # TensorFlow takes seconds to import

    print(replay(options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
