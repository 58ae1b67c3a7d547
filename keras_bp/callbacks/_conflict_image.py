"""A picture of conflicts: layers against pairs of tasks, the cosine as colour."""

import numpy as np

_WIDTH, _HEIGHT, _LEAST = 512, 192, 8
# Red, white and blue, as matplotlib's RdBu; grey stands for what is no number.
_COLOURS = np.array([[178, 24, 43], [247, 247, 247], [33, 102, 172]])
_GREY = np.array([128, 128, 128])


def conflict_image(cosines, layers, pairs):
    """Return the image, uint8 of shape (height, width, 3), and its description in Markdown.

    Args:
        cosines: array of shape (layers, pairs), NaN for none.
        layers: list of strings.
        pairs: list of strings.
    """
    places = np.arange(-1, 2)
    known = np.nan_to_num(cosines)
    image = np.stack([np.interp(known, places, colour) for colour in _COLOURS.T], axis=-1)
    image = np.where(np.isfinite(cosines)[..., np.newaxis], image, _GREY)
    width, height = max(_WIDTH // len(pairs), _LEAST), max(_HEIGHT // len(layers), _LEAST)
    image = np.repeat(np.repeat(image, height, axis=0), width, axis=1)
    image[::height] = image[:, ::width] = 0  # black lines part the cells
    rows = "\n".join(f"{number}. `{layer}`" for number, layer in enumerate(layers, 1))
    columns = "\n".join(f"{number}. `{pair}`" for number, pair in enumerate(pairs, 1))
    description = (
        "Mean cosine between two tasks' gradients over the epoch, from -1 (red) over 0 (white) to "
        f"1 (blue), grey where there is none. Rows from the top:\n\n{rows}\n\n"
        f"Columns from the left:\n\n{columns}"
    )
    return image.astype(np.uint8), description
