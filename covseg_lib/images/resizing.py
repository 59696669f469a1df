"""One slice at another size and on another scale (the report's Listing 2.2)."""

import functools

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from skimage.morphology import convex_hull_image
from skimage.transform import resize

HEALTHY_QUANTILE = 0.1  # lesions can fill more than half of the lungs, rarely nine tenths
TISSUE_HU = (-200, 200)  # soft tissue: muscle, fat and blood, but no bone and no air


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a slice (H, W) to `size` (rows, columns): bilinear with anti-aliasing, float32.

    The same as scikit-image's `resize`, written as two sparse matrices, which is several times
    faster.
    """
    if image.shape == tuple(size):
        return image.astype(np.float32)
    rows, columns = map(_resize_matrix, image.shape, size)
    return (columns @ (rows @ image.astype(np.float32)).T).T


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a binary mask (H, W) to `size`: uint8, 1 where lesion covers half a pixel or more."""
    if not mask.any():
        return np.zeros(size, np.uint8)
    return (resize_image(mask, size) >= 0.5 - 1e-6).astype(np.uint8)


def resize_to_scan(
    image: np.ndarray,
    size: tuple[int, ...],
    step: int = 1,
    flipped: tuple[bool, ...] = (False, False),
) -> np.ndarray:
    """Resize a prediction back to the scan's slice: bilinear, float32.

    Parameters
    ----------
    image : (h, w) array, at the network's size
    size : (H, W) of the scan's slice
    step : int
        Every `step`-th row and column of the scan was kept when it was sliced.
    flipped : (bool, bool)
        Whether rows, and columns, run against the file's order, as `geometry.flipped_axes` returns.
        A kept pixel stays at its own place. Without this, masks would shift by half a pixel.

    Examples
    --------
    >>> resize_to_scan(np.array([[0, 10], [20, 30]]), (4, 4), step=2)[0]
    array([ 0.,  5., 10., 10.], dtype=float32)
    >>> resize_to_scan(np.array([[0, 10], [20, 30]]), (4, 4), step=2, flipped=(False, True))[0]
    array([ 0.,  0.,  5., 10.], dtype=float32)
    """
    rows, columns = map(_back_matrix, image.shape, size, (step, step), flipped)
    return (columns @ (rows @ image.astype(np.float32)).T).T


@functools.cache
def _resize_matrix(before, after):
    """Return the matrix (after, before) with which scikit-image resizes a line of pixels."""
    matrix = resize(np.eye(before), (after, before), order=1, anti_aliasing=True)
    return csr_array(matrix.astype(np.float32))


@functools.cache
def _back_matrix(before, after, step, flipped):
    """Return the matrix (after, before) that interpolates a line at the scan's pixels."""
    pixel = np.arange(after)[:: -1 if flipped else 1] / step
    place = np.clip((pixel + 0.5) * before / -(-after // step) - 0.5, 0, before - 1)
    place = before - 1 - place if flipped else place
    low = np.minimum(place.astype(int), before - 2) if before > 1 else np.zeros(after, int)
    part = (place - low).astype(np.float32)
    lines, high = np.arange(after), np.minimum(low + 1, before - 1)
    matrix = csr_array((1 - part, (lines, low)), (after, before))
    return matrix + csr_array((part, (lines, high)), (after, before))


def standardise(image: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Return (image - mean) / std as float32 (report, section 2.3.1)."""
    return ((image - np.float32(mean)) / np.float32(std)).astype(np.float32)


def normalising_scales(
    images: np.ndarray,
    cases: np.ndarray,
    normalisation: str,
    lungs: np.ndarray | None = None,
    tissue: tuple[float, float] = (-np.inf, np.inf),
) -> np.ndarray | None:
    """Return factor and offset that normalise each slice; None for "dataset".

    Parameters
    ----------
    images : (N, size, size, 1) float32 array, standardised with the data set's mean and deviation
    cases : (N,) array, the case of each slice
    normalisation : "dataset", "volume" or "landmarks"
        "dataset" changes nothing: all volumes share mean and standard deviation, as in the report.
        "volume" gives each volume a mean of 0 and a standard deviation of 1. "landmarks" maps the
        10 % quantile of a volume's lungs, which is healthy lung, to -1, and the median of its soft
        tissue to 1.
    lungs : (N, size, size, 1) uint8 array, for "landmarks"
    tissue : (low, high)
        Standardised values of soft tissue, see `TISSUE_HU`.

    Returns
    -------
    (N, 2) float32 array, or None

    Raises
    ------
    ValueError
        "landmarks" without lung masks, or a volume without lungs or without soft tissue.
    """
    if normalisation == "dataset":
        return None
    cases = np.asarray(cases)
    scales = np.empty((len(images), 2), np.float32)
    for case in pd.unique(cases):
        rows = np.flatnonzero(cases == case)
        volume = np.asarray(images[rows])
        if normalisation == "volume":
            low, high = volume.mean() - volume.std(), volume.mean() + volume.std()
        else:
            low, high = _landmarks(case, volume, None if lungs is None else lungs[rows], tissue)
            if not low < high:
                raise ValueError(
                    f"the lungs of {case} are as bright as its soft tissue, so they are probably "
                    "not lungs: look at the lung mask, or give another one"
                )
        scales[rows] = 2 / (high - low), -(high + low) / (high - low)  # low -> -1, high -> 1
    return scales


def _landmarks(case, volume, lungs, tissue):
    """Return the 10 % quantile of the lungs and the median of the soft tissue."""
    if lungs is None:
        raise ValueError(
            'normalisation="landmarks" needs lung masks: set lungs to "given", or to the name of a '
            "lung model"
        )
    inside = volume[lungs > 0]
    outside = volume[(lungs == 0) & (volume > tissue[0]) & (volume < tissue[1])]
    if not inside.size or not outside.size:
        missing = "soft tissue" if inside.size else "lungs"
        raise ValueError(
            f"no {missing} found in {case}, which the landmarks need: expected a CT of the chest; "
            "look at its slices and its unit, or give its lung mask"
        )
    return np.quantile(inside, HEALTHY_QUANTILE), np.median(outside)


def fill_lungs(lungs: np.ndarray) -> np.ndarray:
    """Return the convex hull of each lung in each slice of a volume: (S, H, W) uint8.

    Lung masks, above all predicted ones, leave out dense lesions at the chest wall. The volume is
    divided into its two sides at the mean column of the lungs, because both may touch.

    Parameters
    ----------
    lungs : (S, H, W) array, not 0 in the lungs
    """
    filled = np.array(lungs > 0, np.uint8)
    columns = np.flatnonzero(filled.any(axis=(0, 1)))
    if not columns.size:
        return filled
    per_column = filled.sum(axis=(0, 1))
    middle = round(float((per_column * np.arange(len(per_column))).sum() / per_column.sum()))
    for of_slice in filled:
        for side in (of_slice[:, :middle], of_slice[:, middle:]):
            if side.any():
                side[:] = convex_hull_image(side)
    return filled
