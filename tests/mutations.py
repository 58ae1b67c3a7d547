"""Faults planted one at a time, each of which the suite must notice.

    python tests/mutations.py              all of them
    python tests/mutations.py adam clip    those whose name holds one of the words

Each mutation replaces a piece of code that stands once in the package, runs the folders of tests
that should notice, until the first failure, and puts the file back. Exit status 1 if one lives.
"""

import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
MUTATIONS = {
    # ops
    "batch_norm_mean_term": (
        "x_hat * channels.spread(means[0]) + channels.spread(means[1])",
        "x_hat * channels.spread(means[0])",
        "ops",
    ),
    "batch_norm_gamma": (
        "dgamma, dbeta = channels.sum(dy * x_hat), channels.sum(dy)",
        "dgamma, dbeta = channels.sum(dy * x_hat) * 1.001, channels.sum(dy)",
        "ops",
    ),
    "mean_of_the_replicas_means": (
        "return upstream * tf.cast(factor, upstream.dtype)",
        "return upstream",
        "distribution",
    ),
    "sparse_label_smoothing": (
        "(1 - label_smoothing) * loss + label_smoothing * uniform",
        "loss + label_smoothing * uniform",
        "losses",
    ),
    "dropout_of_replicas": (
        "replica.num_replicas_in_sync > 1:",
        "replica.num_replicas_in_sync > 2:",
        "distribution",
    ),
    "layer_norm_variance_term": (
        "(g - _mean(g, axes, in_xla) - x_hat * _mean(g * x_hat, axes, in_xla))",
        "(g - _mean(g, axes, in_xla))",
        "ops",
    ),
    "dropout_scale": (
        "scale = tf.constant(1 / (1 - rate) if",
        "scale = tf.constant(1 / (1 - rate / 2) if",
        "ops",
    ),
    "dropout_infinity": (
        "return tf.where(kept, t * scale, zero)",
        "return t * scale * tf.cast(kept, t.dtype)",
        "ops",
    ),
    "crossentropy_logits_sum": (
        "return (a_minus_y + y) * total - y",
        "return a_minus_y",
        "ops losses",
    ),
    "binary_logits_stable": (
        "return tf.maximum(z, 0) - z * y + tf.math.log1p(tf.exp(-tf.abs(z))), backward",
        "return tf.maximum(z, 0) - z * y + tf.math.log1p(tf.exp(-tf.abs(z)) * 1.01), backward",
        "ops losses",
    ),
    # gradients and optimizers
    "norm_of_repeated_rows": (
        "return deduplicate(wide).values\n",
        "return wide.values\n",
        "gradients optimizers",
    ),
    "clip_not_finite": (
        "excess = tf.maximum(norm / bound, 1) + (norm - norm)",
        "excess = tf.maximum(norm / bound, 1)",
        "gradients",
    ),
    "adam_bias_correction": (
        "size = learning_rate * root / (1 - beta_1**step)",
        "size = learning_rate / (1 - beta_1**step)",
        "optimizers",
    ),
    "adam_epsilon_hat": (
        "epsilon if self.epsilon_hat else epsilon * root",
        "epsilon",
        "optimizers",
    ),
    "lamb_ratio_of_zero": (
        "usable = (weight_norm > 0) & (norm > 0)",
        "usable = norm > 0",
        "optimizers",
    ),
    "rmsprop_centered": (
        "else tf.maximum(square - tf.square(mean), 0)",
        "else square - tf.square(mean)",
        "optimizers",
    ),
    "frozen_variables": (
        "moving = [not self.is_frozen(variable) for variable in variables]",
        "moving = [True for variable in variables]",
        "optimizers",
    ),
    "longest_match": (
        "if length is not None and length >= longest[i]:",
        "if length is not None:",
        "optimizers",
    ),
    "cautious_scale": (
        "/ (tf.reduce_sum(descends) + 1)",
        "/ tf.maximum(tf.reduce_sum(descends), 1)",
        "optimizers",
    ),
    "outliers_count_as_clipped": (
        "bound = counted = tf.where(z > clip_above,",
        "bound = tf.where(z > clip_above,",
        "optimizers",
    ),
    "adaptive_clip_of_the_output": (
        "if self._in_last_layer[self._get_variable_index(variable)]:",
        "if False:",
        "optimizers",
    ),
    "swa_first_update": (
        "tf.cast(iterations, tf.int64) + 2 - start",
        "tf.cast(iterations, tf.int64) + 1 - start",
        "optimizers",
    ),
    "lookahead_start": (
        "tf.cond(step == 1, begin, lambda: None)",
        "tf.cond(step == 0, begin, lambda: None)",
        "optimizers",
    ),
    "accumulation_mean": (
        "steps = tf.cast(steps, total.dtype)\n",
        "steps = tf.cast(steps + 1, total.dtype)\n",
        "optimizers",
    ),
    "averages_counted": (
        "local(self._iterations).assign_add(1)",
        "local(self._iterations).assign_add(2)",
        "optimizers",
    ),
    "master_weights": (
        "target.assign(tf.where(same, target, tf.cast(own, target.dtype)))",
        "target.assign(tf.cast(own, target.dtype))",
        "optimizers",
    ),
    "deferred_epsilon": (
        "(root * node + epsilon)",
        "(root * node)",
        "optimizers deferred layers",
    ),
    # recording
    "monitor_accumulated_mean": (
        "gradient = (own + total) / self._cycle",
        "gradient = own + total",
        "callbacks recording",
    ),
    "monitor_accumulated_twice": (
        "own = self._mean_gradients(own, False)",
        "own = self._mean_gradients(own, True)",
        "callbacks recording",
    ),
    "monitor_run_directory": (
        "same and step > min(began for began, _ in trainings)",
        "same",
        "callbacks recording",
    ),
    "monitor_ring_order": (
        "rows = rows[np.argsort(rows[:, 0])]",
        "rows = rows[np.argsort(-rows[:, 0])]",
        "callbacks recording",
    ),
    "monitor_skipped_steps": (
        "rows = rows[rows[:, 0] > self._rows_read]",
        "rows = rows[rows[:, 0] >= self._rows_read]",
        "callbacks recording",
    ),
    "monitor_product_read_twice": ("return a * b\n", "return tensor\n", "callbacks recording"),
    # schedules
    "cyclical_half": (
        "share = tf.minimum(step, 2.0 * half - step) / half",
        "share = tf.minimum(step, 2.0 * half - step) / (half + 1)",
        "schedules",
    ),
    "warmup_end": (
        "rising = between(self.initial_learning_rate, first, share)",
        "rising = between(0.0, first, share)",
        "schedules",
    ),
    # callbacks
    "resume_random_states": (
        'set_random_states(description["begun"])',
        'description["begun"]',
        "callbacks/test_resume_inside_an_epoch.py",
    ),
    "resume_hooks_of_epochs": (
        "set_random_states(checked_states(self._at_first))",
        "checked_states(self._at_first)",
        "callbacks/test_resume_inside_an_epoch.py",
    ),
    "resume_dropped_batches": (
        "count = _keras.batches_taken(self._iterator)",
        "count = _keras.batches_taken(self._iterator) - 1",
        "callbacks/test_resume_inside_an_epoch.py",
    ),
    "resume_seeds_at_the_end": (
        "_keras.seeds_in(state) != _keras.seeds_in(self._fresh)",
        "_keras.seeds_in(state) > _keras.seeds_in(self._fresh)",
        "callbacks/test_resume_inside_an_epoch.py",
    ),
    "resume_metrics": (
        'variables |= {f"metric_{i}": v for i, v in enumerate(of_metrics)}',
        "metrics",
        "callbacks/test_resume_inside_an_epoch.py",
    ),
    "resume_last_logs": (
        'set_last_logs(self.model, metadata["logs"])',
        "set_last_logs(self.model, None)",
        "callbacks/test_resume_inside_an_epoch.py",
    ),
    "resume_flushes_monitors": (
        "other.flush()",
        "other",
        "callbacks/test_resume_inside_an_epoch.py",
    ),
    "resume_replicas": (
        'found |= {name if i == 0 else f"{name}_{i}": (p,) for i, p in enumerate(parts)}',
        "found[name] = parts",
        "callbacks/test_resume_inside_an_epoch.py",
    ),
    "signal_after_an_error": (
        "Interrupts(lambda: self in self._listed())",
        "Interrupts(lambda: True)",
        "callbacks/test_resume_inside_an_epoch.py",
    ),
    "steps_boundary": ("return self.whole < end", "return self.whole <= end", "schedules"),
    # visualization
    "page_in_training_mode": (
        "outputs = model(x, training=False)",
        "outputs = model(x, training=True)",
        "visualization",
    ),
    # runs, and what is measured beside the steps
    "runs_thinned_last": (
        "return np.append(np.arange(0, number - 1, stride), number - 1)",
        "return np.arange(0, number - 1, stride)",
        "runs",
    ),
    "runs_made_again": (
        "self._limits[:number] = np.minimum(self._limits[:number], step)",
        "pass",
        "runs",
    ),
    "runs_checksum": (
        "self._lose(numbers[part][~self._is_whole(numbers[part])])",
        "pass",
        "runs",
    ),
    "tab_extremes": (
        "most = np.maximum.reduceat(high, begins, axis=0)",
        "most = high[begins]",
        "tensorboard_plugin/test_plugin_columns.py",
    ),
    "noise_without_bias": (
        "signal = (big * big_square - small * small_square) / (big - small)",
        "signal = big_square",
        "curvature/test_noise_scale.py",
    ),
    "noise_interval": (
        "a, b, c = mean[1] ** 2 - ss, mean[0] * mean[1] - ns, mean[0] ** 2 - nn",
        "a, b, c = mean[1] ** 2, mean[0] * mean[1], mean[0] ** 2 - nn",
        "curvature/test_noise_scale.py",
    ),
    "hessian_sign": (
        "return [*_normalized(product), tf.stack([value, residual])]",
        "return [*_normalized(product), tf.stack([abs(value), residual])]",
        "curvature/test_hessian.py",
    ),
    "rescue_takes_back": (
        "of_weights = self._is_of_weights(kind, step)\n            self._assign(self._before)",
        "of_weights = self._is_of_weights(kind, step)",
        "callbacks/test_rescue.py",
    ),
    "rescue_share_of_a_small_batch": (
        "return [(levels, value * step.share) for levels, value in pairs]",
        "return [(levels, value) for levels, value in pairs]",
        "callbacks/test_rescue_faults.py",
    ),
}


def _file_of(old):
    """Find the one file of the package that holds a piece of code once."""
    packages = ("keras_bp", "keras_bp_runs")
    files = (path for name in packages for path in (ROOT / name).rglob("*.py"))
    found = [path for path in files if old in path.read_text()]
    if len(found) != 1 or found[0].read_text().count(old) != 1:
        raise LookupError(f"{old!r} does not stand once: {[str(p) for p in found]}")
    return found[0]


def _is_killed(old, new, folders):
    """Tell which test notices a mutation, or None."""
    path = _file_of(old)
    source = path.read_text()
    paths = [f"tests/{name}" for name in folders.split() if (ROOT / "tests" / name).exists()]
    path.write_text(source.replace(old, new))
    try:
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "-n",
                "0",
                "-p",
                "no:cacheprovider",
                *paths,
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
    finally:
        path.write_text(source)
    failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0] if run.returncode == 1 and failed else None


def main(words):
    """Try the mutations; return 1 if one of them lives."""
    alive = 0
    for name, mutation in MUTATIONS.items():
        if words and not any(word in name for word in words):
            continue
        start = time.monotonic()
        killer = _is_killed(*mutation)
        alive += killer is None
        print(f"{name}: {killer or 'ALIVE'} ({time.monotonic() - start:.0f} s)", flush=True)
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
