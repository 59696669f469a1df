"""What the report's Chapter 1 segments with before it comes to the U-Net: a slice goes in, a mask comes out.

Slices are grey levels (H, W); lengths are shares of a slice's width, so that one setting suits 256 and 630 pixels.
"""

import warnings

import numpy as np
import pandas as pd
from scipy import ndimage
from skfuzzy.cluster import cmeans
from skimage import feature, filters, morphology, segmentation
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from covseg_lib import scores

FINE, COARSE = 1 / 200, 1 / 30  # of a slice's width: the smoothing that takes noise away, and that shows surroundings
LARGEST = 1 / 20  # of a slice's pixels: a closed contour around more is an organ
PIXELS = 40_000  # that the network on pixels is trained on: more teach it no more


def threshold(image, level):
    """Mark what is brighter than a level: (H, W) bool.

    >>> threshold(np.array([[1, 2, 3]]), 2)
    array([[False, False,  True]])
    """
    return image > level


def otsu(image):
    """Mark what is brighter than Otsu's level, which parts dark from bright best: (H, W) bool."""
    return threshold(image, filters.threshold_otsu(image))


def lung_field(image):
    """Mark the dark rooms inside the body, closed and filled: the lungs, as a threshold finds them, (H, W) bool.

    Lesions that touch the chest wall and are as bright as it fall out.
    """
    dark = morphology.area_opening(segmentation.clear_border(~otsu(image)), image.size // 200)
    return ndimage.binary_fill_holes(morphology.closing(dark, morphology.disk(_pixels(image, 1 / 50))))


def sobel(image):
    """Mark edges: where the gradient's magnitude, by Sobel's operator, is above its own Otsu level, (H, W) bool."""
    return otsu(filters.sobel(smooth(image, FINE)))


def canny(image):
    """Mark edges by Canny's operator, ridges of the gradient one pixel wide: (H, W) bool."""
    return feature.canny(image / 255, sigma=image.shape[1] / 120)


def link(edges):
    """Link edges (H, W) bool: gaps are closed, closed contours smaller than an organ filled, loose ends dropped."""
    disk = morphology.disk(_pixels(edges, 1 / 100))
    filled = morphology.area_closing(morphology.dilation(edges, disk), int(edges.size * LARGEST))
    return morphology.opening(morphology.erosion(filled, disk), disk)


def good_seed(image, mask):
    """Return the (row, column) that a reader might click: well inside a mask, and of its median grey level."""
    depth = ndimage.distance_transform_edt(mask)
    off = np.abs(smooth(image, FINE) - np.median(image[mask > 0]))
    return tuple(map(int, np.unravel_index(np.where(depth > depth.max() / 2, off, np.inf).argmin(), mask.shape)))


def grow(image, seed, tolerance):
    """Grow a region from a seed (row, column) over neighbours within `tolerance` grey levels of it: (H, W) bool."""
    return segmentation.flood(smooth(image, FINE), tuple(seed), tolerance=tolerance)


def kmeans(image, clusters, seed=0):
    """Part grey levels into clusters by k-means: (clusters, H, W) bool, dark to bright, no pixel in two of them."""
    fitted = KMeans(clusters, n_init=3, random_state=seed).fit(image.reshape(-1, 1))
    places = np.argsort(fitted.cluster_centers_[:, 0])[:, None, None]
    return fitted.labels_.reshape(image.shape) == places


def fuzzy_cmeans(image, clusters, seed=0):
    """Part grey levels into clusters by fuzzy c-means, m = 2: memberships (clusters, H, W), dark to bright, sum 1."""
    centres, memberships, *_ = cmeans(image.reshape(1, -1).astype(float), clusters, 2, 1e-3, 100, seed=seed)
    return memberships[np.argsort(centres[:, 0])].reshape(clusters, *image.shape)


def best_by_truth(masks, truth):
    """Return the mask with the highest Dice, (H, W): what only someone who has the true mask can choose."""
    return max(masks, key=lambda mask: scores.dice(truth, mask))


def best_threshold(image, truth):
    """Mark what is brighter than the level, of all of 0..254, with the highest Dice: (H, W) bool."""
    return best_by_truth((threshold(image, level) for level in range(255)), truth)


def far_slices(masks, number, count=8):
    """Return up to `count` slices with lesions that lie more than a tenth of the volume away from slice `number`.

    `masks` is (S, H, W). Raises ValueError where there is none: nothing could be learnt from this volume.
    """
    lesions = np.flatnonzero(masks.any(axis=(1, 2)))
    far = lesions[np.abs(lesions - number) > len(masks) // 10]
    if not len(far):
        raise ValueError(
            f"no slice with lesions farther than {len(masks) // 10} slices from slice {number}: choose another SLICE"
        )
    return far[np.unique(np.linspace(0, len(far) - 1, count).astype(int))]


def pixel_features(image):
    """Return what a pixel knows of itself, (H * W, 5): grey level, it smoothed little and much, row and column."""
    row, column = np.indices(image.shape) / np.reshape(image.shape, (2, 1, 1))
    levels = (image, smooth(image, FINE), smooth(image, COARSE))
    return np.stack([*levels, row, column], axis=-1).reshape(-1, 5)


def train_on_pixels(images, masks, seed=0):
    """Train a small neural network on pixels of slices (n, H, W) with true masks: the classifier, for `classify`.

    Two hidden layers of 16 neurons, standardised features, `PIXELS` pixels drawn from all slices, at most 20 epochs.
    scikit-learn's early stopping would watch accuracy, which the empty mask has too: it stops there.
    """
    features, lesion = np.concatenate([pixel_features(image) for image in images]), np.ravel(masks) > 0
    drawn = np.random.default_rng(seed).permutation(len(features))[:PIXELS]
    network = MLPClassifier((16, 16), learning_rate_init=3e-3, max_iter=20, n_iter_no_change=5, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # so few epochs are meant
        return make_pipeline(StandardScaler(), network).fit(features[drawn], lesion[drawn])


def classify(network, image):
    """Mark the pixels that a trained network calls lesion, each on its own: (H, W) bool."""
    return network.predict(pixel_features(image)).reshape(image.shape)


def table(found, truth, lungs):
    """Return the Dice of masks, {method: (H, W)}, on the whole slice and of what they mark in a lung field only."""
    marks = [(scores.dice(truth, mask), scores.dice(truth, mask & lungs)) for mask in found.values()]
    return pd.DataFrame(marks, index=list(found), columns=["whole slice", "in the lung field"])


def smooth(image, share):
    """Smooth a slice by a Gaussian of a share of its width, grey levels kept: (H, W) float."""
    return filters.gaussian(image.astype(float), image.shape[1] * share)


def _pixels(image, share):
    return max(1, round(image.shape[1] * share))
