"""The classical segmentation methods of the report's Chapter 1, applied to one slice.

Slices are grey levels (H, W). Lengths are fractions of a slice's width, so that the same settings
fit 256 and 630 pixels.
"""

import warnings
from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import ndimage
from skfuzzy.cluster import cmeans
from skimage import feature, filters, morphology, segmentation
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from covseg_lib.evaluation import metrics

FINE = 1 / 200  # sigma of the smoothing that removes noise, as a fraction of a slice's width
COARSE = 1 / 30  # sigma of the smoothing that averages over a pixel's surroundings
LARGEST = 1 / 20  # of a slice's pixels: a closed contour around more pixels is an organ
PIXELS = 40_000  # training pixels of the small network: more do not improve it


def threshold(image: np.ndarray, level: float) -> np.ndarray:
    """Segment the pixels that are brighter than a grey level: (H, W) bool.

    >>> threshold(np.array([[1, 2, 3]]), 2)
    array([[False, False,  True]])
    """
    return image > level


def otsu(image: np.ndarray) -> np.ndarray:
    """Segment by Otsu's threshold, which separates dark and bright pixels best: (H, W) bool."""
    return threshold(image, filters.threshold_otsu(image))


def lung_field(image: np.ndarray) -> np.ndarray:
    """Segment the lungs: dark regions inside the body, closed and filled: (H, W) bool.

    Lesions that touch the chest wall and are as bright as the wall are missed.
    """
    dark = morphology.area_opening(segmentation.clear_border(~otsu(image)), image.size // 200)
    closed = morphology.closing(dark, morphology.disk(_pixels(image, 1 / 50)))
    return ndimage.binary_fill_holes(closed)


def sobel(image: np.ndarray) -> np.ndarray:
    """Detect edges: Sobel's gradient magnitude is above its Otsu threshold; (H, W) bool."""
    return otsu(filters.sobel(smooth(image, FINE)))


def canny(image: np.ndarray) -> np.ndarray:
    """Detect edges by Canny's method, as lines one pixel wide: (H, W) bool."""
    return feature.canny(image / 255, sigma=image.shape[1] / 120)


def link_edges(edges: np.ndarray) -> np.ndarray:
    """Link edges: close gaps, fill contours smaller than an organ, remove open lines.

    `edges` and the result are (H, W) bool.
    """
    disk = morphology.disk(_pixels(edges, 1 / 100))
    filled = morphology.area_closing(morphology.dilation(edges, disk), int(edges.size * LARGEST))
    return morphology.opening(morphology.erosion(filled, disk), disk)


def seed_in(image: np.ndarray, mask: np.ndarray) -> tuple[int, ...]:
    """Return a seed (row, column) well inside a mask, close to the mask's median grey level."""
    depth = ndimage.distance_transform_edt(mask)
    difference = np.abs(smooth(image, FINE) - np.median(image[mask > 0]))
    difference = np.where(depth > depth.max() / 2, difference, np.inf)
    return tuple(map(int, np.unravel_index(difference.argmin(), mask.shape)))


def region_growing(image: np.ndarray, seed: tuple[int, ...], tolerance: float) -> np.ndarray:
    """Grow a region from a seed (row, column): (H, W) bool.

    Neighbours are added while their grey level differs from the seed's by at most `tolerance`.
    """
    return segmentation.flood(smooth(image, FINE), tuple(seed), tolerance=tolerance)


def kmeans(image: np.ndarray, clusters: int, seed: int = 0) -> np.ndarray:
    """Cluster grey levels by k-means: one mask a cluster, dark to bright; (clusters, H, W) bool."""
    fitted = KMeans(clusters, n_init=3, random_state=seed).fit(image.reshape(-1, 1))
    dark_to_bright = np.argsort(fitted.cluster_centers_[:, 0])[:, None, None]
    return fitted.labels_.reshape(image.shape) == dark_to_bright


def fuzzy_cmeans(image: np.ndarray, clusters: int, seed: int = 0) -> np.ndarray:
    """Cluster grey levels by fuzzy c-means with m = 2.

    Returns memberships (clusters, H, W), dark to bright; those of a pixel sum to 1.
    """
    pixels = image.reshape(1, -1).astype(float)
    centres, memberships, *_ = cmeans(pixels, clusters, m=2, error=1e-3, maxiter=100, seed=seed)
    return memberships[np.argsort(centres[:, 0])].reshape(clusters, *image.shape)


def best_by_truth(masks: Iterable[np.ndarray], truth: np.ndarray) -> np.ndarray:
    """Return the mask (H, W) with the highest Dice: the choice needs the true mask."""
    return max(masks, key=lambda mask: metrics.dice(truth, mask))


def best_threshold(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Segment by the threshold in 0..254 that has the highest Dice: (H, W) bool."""
    return best_by_truth((threshold(image, level) for level in range(255)), truth)


def far_slices(masks: np.ndarray, number: int, count: int = 8) -> np.ndarray:
    """Choose slices with lesions that are far from a given slice of the same volume.

    Parameters
    ----------
    masks : (S, H, W) array
    number : int
        The given slice. Slices within a tenth of the volume are too similar to it.
    count : int
        At most this many slices are chosen, at regular intervals.

    Returns
    -------
    (n,) int, numbers of slices

    Raises
    ------
    ValueError
        No slice with lesions is far enough.
    """
    lesions = np.flatnonzero(masks.any(axis=(1, 2)))
    far = lesions[np.abs(lesions - number) > len(masks) // 10]
    if not len(far):
        raise ValueError(
            f"no slice with lesions more than {len(masks) // 10} slices from slice {number}: "
            "choose another SLICE"
        )
    return far[np.unique(np.linspace(0, len(far) - 1, count).astype(int))]


def pixel_features(image: np.ndarray) -> np.ndarray:
    """Return the features of each pixel: (H * W, 5) float.

    They are the grey level, the same smoothed finely and coarsely, and row and column in 0..1.
    """
    row, column = np.indices(image.shape) / np.reshape(image.shape, (2, 1, 1))
    levels = (image, smooth(image, FINE), smooth(image, COARSE))
    return np.stack([*levels, row, column], axis=-1).reshape(-1, 5)


def train_on_pixels(images: np.ndarray, masks: np.ndarray, seed: int = 0) -> Pipeline:
    """Train a small neural network that classifies single pixels.

    It has two hidden layers of 16 neurons and standardised features, and trains on `PIXELS` random
    pixels of all slices for at most 20 epochs. scikit-learn's early stopping is not used: it
    monitors accuracy, which is high for an empty mask too, and would stop too early.

    Parameters
    ----------
    images, masks : (n, H, W) arrays
        Grey levels and true masks.
    seed : int

    Returns
    -------
    scikit-learn Pipeline, for `classify`
    """
    features = np.concatenate([pixel_features(image) for image in images])
    lesion = np.ravel(masks) > 0
    drawn = np.random.default_rng(seed).permutation(len(features))[:PIXELS]
    network = MLPClassifier(
        (16, 16), learning_rate_init=3e-3, max_iter=20, n_iter_no_change=5, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 20 epochs are enough
        return make_pipeline(StandardScaler(), network).fit(features[drawn], lesion[drawn])


def classify(network: Pipeline, image: np.ndarray) -> np.ndarray:
    """Segment a slice by a trained network, pixel by pixel: (H, W) bool."""
    return network.predict(pixel_features(image)).reshape(image.shape)


def dice_table(found: dict[str, np.ndarray], truth: np.ndarray, lungs: np.ndarray) -> pd.DataFrame:
    """Compare the masks of several methods with the true mask.

    Parameters
    ----------
    found : {method: (H, W) bool}
    truth, lungs : (H, W) arrays
        The true mask, and the lung field.

    Returns
    -------
    DataFrame, one row a method: the Dice on the whole slice, and of the pixels in the lung field
    """
    inside = truth.astype(bool) & lungs
    rows = [
        (metrics.dice(truth, mask), metrics.dice(inside, mask & lungs)) for mask in found.values()
    ]
    return pd.DataFrame(rows, index=list(found), columns=["whole slice", "in the lung field"])


def smooth(image: np.ndarray, fraction: float) -> np.ndarray:
    """Smooth by a Gaussian whose sigma is a fraction of the slice's width: (H, W) float."""
    return filters.gaussian(image.astype(float), image.shape[1] * fraction)


def _pixels(image, fraction):
    """Return a fraction of a slice's width in pixels, at least 1."""
    return max(1, round(image.shape[1] * fraction))
