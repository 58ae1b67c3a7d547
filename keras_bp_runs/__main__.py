"""`python -m keras_bp_runs show RUN`: as `python -m keras_bp show RUN`, without TensorFlow."""

from keras_bp_runs.terminal import main

if __name__ == "__main__":
    main("python -m keras_bp_runs")
