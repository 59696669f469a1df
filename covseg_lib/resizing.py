"""One slice to another size and scale: Listing 2.2 of the report, put right."""

import functools

import numpy as np
from scipy.sparse import csr_array
from skimage.transform import resize


def resize_image(image, size):
    """Resize a slice (H, W) to `size` (rows, columns): bilinear with anti-aliasing, float32 grey levels.

    What scikit-image's `resize` does to rows and then to columns, as two sparse matrices: several times as fast.
    """
    if image.shape == tuple(size):
        return image.astype(np.float32)
    rows, columns = (_weights(before, after) for before, after in zip(image.shape, size, strict=True))
    return (columns @ (rows @ image.astype(np.float32)).T).T


def resize_mask(mask, size):
    """Resize a mask (H, W) to `size`, binary before and after: uint8, 1 where lesion fills half a pixel or more."""
    if not mask.any():
        return np.zeros(size, np.uint8)
    return (resize_image(mask, size) >= 0.5 - 1e-6).astype(np.uint8)


def enlarge(image, size, step=1, from_end=(False, False)):
    """Bring a resized slice back to the scan: bilinear, float32 of `size` (rows, columns).

    Parameters
    ----------
    image : (h, w) array, what `resize_image` made of every `step`-th pixel of the scan's slice
    size : (H, W) of the scan's slice
    step : int
    from_end : (bool, bool)
        Whether rows, and columns, were counted from their ends when every `step`-th was kept. A pixel that was kept
        stands for the place where it lay, not for the middle of the pixels skipped: else all would shift by half a
        pixel.

    Examples
    --------
    >>> enlarge(np.array([[0, 10], [20, 30]]), (4, 4), step=2)[0]
    array([ 0.,  5., 10., 10.], dtype=float32)
    >>> enlarge(np.array([[0, 10], [20, 30]]), (4, 4), step=2, from_end=(False, True))[0]
    array([ 0.,  0.,  5., 10.], dtype=float32)
    """
    rows, columns = map(_places, image.shape, size, (step, step), from_end)
    return (columns @ (rows @ image.astype(np.float32)).T).T


def standardise(image, mean, std):
    """Return (image - mean) / std as float32 (report, section 2.3.1)."""
    return ((image - np.float32(mean)) / np.float32(std)).astype(np.float32)


@functools.cache
def _places(before, after, step, from_end):
    """Return the matrix (after, before) that reads a line of `before` pixels where the scan's `after` pixels lie."""
    pixel = np.arange(after)[:: -1 if from_end else 1] / step
    place = np.clip((pixel + 0.5) * before / -(-after // step) - 0.5, 0, before - 1)
    place = before - 1 - place if from_end else place
    low = np.minimum(place.astype(int), before - 2) if before > 1 else np.zeros(after, int)
    part = (place - low).astype(np.float32)
    lines = np.arange(after)
    matrix = csr_array((1 - part, (lines, low)), (after, before))
    return matrix + csr_array((part, (lines, np.minimum(low + 1, before - 1))), (after, before))


@functools.cache
def _weights(before, after):
    """Return the matrix (after, before) by which scikit-image resizes a line of pixels."""
    return csr_array(resize(np.eye(before), (after, before), order=1, anti_aliasing=True).astype(np.float32))
