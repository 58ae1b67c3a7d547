"""The commands of `python -m keras_bp`: `show RUN` and `compare RUN RUN` print runs."""

from keras_bp_runs import terminal

if __name__ == "__main__":
    terminal.main("python -m keras_bp", [terminal.add_commands])
