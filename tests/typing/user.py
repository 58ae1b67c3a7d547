"""The package used as its users do, for mypy to check."""

from typing import assert_type

import keras
import numpy as np

import keras_bp
from keras_bp import GradientCheckReport, LearningRateCurve, check_gradients, find_learning_rate
from keras_bp.callbacks import GradientConflict, GradientMonitor
from keras_bp.gradient_check import GradientCheckRow
from keras_bp.layers import BatchNormalization, Dense, Dropout
from keras_bp.losses import BinaryCrossentropy
from keras_bp.multitask import MultiTaskModel, PCGrad
from keras_bp.optimizers import SGD, AdamW
from keras_bp.schedules import CosineAnnealing, Warmup, WarmupCosine
from keras_bp.visualization import OptimizerComparison, compare_optimizers, train_with_schedules


def fit(x: np.ndarray, y: np.ndarray) -> keras.Model:
    model = keras.Sequential(
        [
            Dense(64, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-4)),
            BatchNormalization(momentum=0.9),
            Dropout(0.3, seed=1),
            Dense(1, activation="sigmoid"),
        ]
    )
    optimizer = AdamW(WarmupCosine(3e-3, 80, 8), weight_decay=1e-2, global_clipnorm=1.0)
    model.compile(optimizer, BinaryCrossentropy(label_smoothing=0.1))
    model.fit(x, y, epochs=5, callbacks=[GradientMonitor(log_dir="tb_logs/first")])
    return model


def optimizers() -> list[keras.optimizers.Optimizer]:
    return [SGD(0.1), SGD(Warmup(CosineAnnealing(0.1, 100), 10), momentum=0.9), SGD(lambda: 0.1)]


def check(model: keras.Model, x: np.ndarray, y: np.ndarray) -> list[str]:
    report = check_gradients(model, x, y, loss="mse", max_entries=100)
    assert_type(report, GradientCheckReport)
    assert_type(report.rows, tuple[GradientCheckRow, ...])
    assert_type(check_gradients(lambda a: a**2, x).verdict, str)
    return [row.path for row in report.rows if row.verdict == "wrong"]


def rate(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float | None:
    curve = find_learning_rate(model, x, y, batch_size=16, steps=50)
    assert_type(curve, LearningRateCurve)
    return curve.suggest()


def suggested(model: keras.Model) -> keras.optimizers.Optimizer:
    optimizer, why = keras_bp.suggest_optimizer(model, examples=1000, epochs=3)
    assert_type(why, str)
    return optimizer


def several_tasks(inputs: keras.KerasTensor, outputs: dict[str, keras.KerasTensor]) -> list[dict]:
    model = MultiTaskModel(inputs, outputs, combiner=PCGrad())
    conflict = GradientConflict("tb_logs/conflict")
    model.compile(keras_bp.optimizers.Adam(1e-3), "mse")
    model.fit(np.ones((4, 2)), callbacks=[conflict])
    return conflict.table()


def compare(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    comparison = compare_optimizers(
        lambda x, y: keras.Sequential([Dense(1)]), {"SGD": lambda: SGD(0.1)}, {"d": (x, y)}, "mse"
    )
    assert_type(comparison, OptimizerComparison)
    assert_type(comparison.seconds("d", "SGD"), np.ndarray)
    return train_with_schedules({"constant": 0.1}, epochs=3)
