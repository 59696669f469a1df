"""Slices on their way into training, a batch at a time; nothing holds a second copy of the data set."""

import keras
import numpy as np


class Batches(keras.utils.PyDataset):
    """The given rows of images and masks, in that order, batch by batch.

    Parameters
    ----------
    images : (N, size, size, 1) float32 array or memory map
    masks : (N, size, size, 1) uint8 array or memory map
    rows : (n,) int array
    batch_size : int
    multiple : int
        A batch that is no multiple of this is filled up from its beginning, so that several devices get equally much.
    process, processes : int
        Of several processes that train together, the one that these batches are for: it gets its part of each.

    Examples
    --------
    >>> images = np.zeros((9, 4, 4, 1), np.float32)
    >>> batches = Batches(images, images.astype(np.uint8), np.array([8, 1, 5]), batch_size=2, multiple=2)
    >>> [len(batches[number][0]) for number in range(len(batches))]
    [2, 2]
    """

    def __init__(self, images, masks, rows, batch_size, multiple=1, process=0, processes=1):
        super().__init__(workers=2)  # with one, epochs wait for tf.data's tuning: docs/training.md
        self.images, self.masks = images, masks
        parts = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
        filled = [np.resize(part, -(-len(part) // multiple) * multiple) for part in parts]
        self.parts = [np.split(part, processes)[process] for part in filled]

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, number):
        part = self.parts[number]
        return self.images[part], self.masks[part]


def order(rows, seed, epoch):
    """Return the rows mixed: the order in an epoch follows from seed and epoch alone, so that it can be had again."""
    return np.random.default_rng((seed, epoch)).permutation(rows)
