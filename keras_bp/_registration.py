"""How the package's classes become known to Keras's serialization."""

import keras

PACKAGE = "keras_bp"

serializable = keras.saving.register_keras_serializable(package=PACKAGE)
"""Class decorator: registers the class as `keras_bp>ClassName`.

A `.keras` file then loads with `safe_mode=True` and without `custom_objects`, as soon as
`keras_bp` has been imported.
"""
