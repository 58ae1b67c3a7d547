"""The reference has no part in Keras's state, so its tests need not pay for clearing it."""

import pytest


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Stand in for the fixture of the same name one folder up."""
