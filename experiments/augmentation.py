"""Batches of images that are shifted and mirrored at random, from a seed."""

import keras
import numpy as np


class AugmentedBatches(keras.utils.PyDataset):
    """Shuffled batches whose images are shifted by a few pixels and mirrored at random.

    A batch depends on the seed, the epoch and its index alone, so that an interrupted
    training resumes with the same images. The last images, which make no whole batch, are left out.

    Args:
        x: array of shape (n, height, width, channels).
        y: array of n labels.
        batch_size: number of images in a batch.
        shift: largest shift in pixels, up, down, left and right; zeros come in.
        mirror: whether every other image, on average, is mirrored left to right.
        seed: integer.
    """

    def __init__(self, x, y, batch_size, shift, mirror, seed):
        super().__init__()
        self.x, self.y, self.batch_size = x, y, batch_size
        self.shift, self.mirror, self.seed, self.epoch = shift, mirror, seed, 0
        self._shuffle()

    def __len__(self):
        return len(self.x) // self.batch_size

    def __getitem__(self, index):
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        # (seed, epoch, 0) would give the stream of (seed, epoch), which has shuffled the epoch.
        random = np.random.default_rng((self.seed, self.epoch, index + 1))
        shifts = random.integers(0, 2 * self.shift + 1, (len(chosen), 2))
        mirrored = random.random(len(chosen)) < 0.5 * self.mirror
        _, height, width, _ = self.x.shape
        border = [(0, 0), (self.shift, self.shift), (self.shift, self.shift), (0, 0)]
        padded = np.pad(self.x[chosen], border)
        images = np.empty_like(self.x[chosen])
        for image, source, (down, right), mirror in zip(
            images, padded, shifts, mirrored, strict=True
        ):
            window = source[down : down + height, right : right + width]
            image[...] = window[:, ::-1] if mirror else window
        return images, self.y[chosen]

    def on_epoch_end(self):
        """Keras's hook: shuffle anew."""
        self.epoch += 1
        self._shuffle()

    def _shuffle(self):
        self.order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.x))
