"""Attributes of an object that are others for a while."""

import contextlib


@contextlib.contextmanager
def replaced_attributes(holder, **attributes):
    """Give an object attributes, methods for instance, and put back what it had.

    The instance's dictionary is written to directly: Keras's `__setattr__` would track them.
    """
    own = vars(holder)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(before)
