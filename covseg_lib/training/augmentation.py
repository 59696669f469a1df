"""Random changes of the training slices, so that the network sees more patients than there are."""

import keras
import numpy as np
from keras import layers, ops

VALUES = (-6.0, 6.0)  # normalised images are within; the layers below need a range
HEALTHY, SOFT_TISSUE = -1.0, 1.0  # their grey levels by landmarks, and roughly by other scales


class Augmentation:
    """Change slices at random: the geometry together with their masks, then the grey levels.

    Each slice is mirrored left-right (half of them), rotated, zoomed and shifted; the mask and the
    channel of the lungs move with it. Some slices are blurred. In half of all slices, what the mask
    shows becomes denser: lesions, or for a lung model the lungs, as if they were full of lesions.
    The layers are Keras' own, except for `make_denser` and `change_gamma`.

    Contrast, brightness and gamma of the whole slice change as well, but not with landmarks: these
    give healthy lung the same grey level in all patients, and soft tissue too.

    The changes follow from the seed alone, so a resumed training sees the same slices.

    Parameters
    ----------
    lungs : bool
        Whether the last channel is a lung mask, whose values do not change.
    landmarks : bool
        Whether the slices are normalised by landmarks.
    """

    def __init__(self, lungs: bool = False, landmarks: bool = False):
        self.lungs, self.landmarks = lungs, landmarks
        options = {"fill_mode": "nearest"}
        self.geometric = [
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(30 / 360, **options),
            layers.RandomZoom(0.25, **options),
            layers.RandomTranslation(0.1, 0.1, **options),
        ]
        self.intensity = [
            layers.RandomGaussianBlur(0.3, kernel_size=3, sigma=1.0, value_range=VALUES)
        ]
        if not landmarks:
            self.intensity += [
                layers.RandomContrast(0.3, value_range=VALUES),
                layers.RandomBrightness(0.03, value_range=VALUES),  # of the range: 0.36
            ]

    def __call__(
        self, images: np.ndarray, masks: np.ndarray, seed: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return changed slices and masks.

        Parameters
        ----------
        images : (B, size, size, channels) float32 array
        masks : (B, size, size, 1) uint8 array
        seed : tuple of int
            The same seed gives the same changes.
        """
        rng = np.random.default_rng(seed)
        seeds = keras.random.SeedGenerator(int(rng.integers(2**31)))
        channels = images.shape[-1] - self.lungs  # of CT
        moved = np.concatenate([images, masks.astype(np.float32)], axis=-1)
        moved = ops.convert_to_tensor(moved)  # CT, lungs if they are a channel, and the mask
        for layer in self.geometric:
            change = layer.get_random_transformation(moved, seed=seeds)
            moved = layer.transform_images(moved, change)
        ct, binary = moved[..., :channels], ops.convert_to_numpy(moved[..., channels:])
        for layer in self.intensity:
            change = layer.get_random_transformation(ct, seed=seeds)
            ct = layer.transform_images(ct, change)
        binary = (binary >= 0.5).astype(np.float32)  # bilinear interpolation blurs edges
        ct = make_denser(ops.convert_to_numpy(ct), binary[..., -1:], rng)
        ct = ct if self.landmarks else change_gamma(ct, rng)
        images = np.concatenate([ct, binary[..., :-1]], axis=-1)
        return images, binary[..., -1:].astype(np.uint8)


def change_gamma(images: np.ndarray, rng: np.random.Generator, strength: float = 0.5) -> np.ndarray:
    """Raise half of the images to a random power: scaled to 0..1, and back to their range.

    Parameters
    ----------
    images : (B, H, W, C) float32 array
    rng : numpy.random.Generator
    strength : float
        The exponent is exp(-strength) to exp(strength).
    """
    exponent = np.exp(rng.uniform(-strength, strength, len(images)))
    exponent[rng.random(len(images)) < 0.5] = 1
    low = images.min(axis=(1, 2, 3), keepdims=True)
    span = np.maximum(images.max(axis=(1, 2, 3), keepdims=True) - low, 1e-6)
    return ((images - low) / span) ** exponent.astype(np.float32)[:, None, None, None] * span + low


def make_denser(
    images: np.ndarray, masks: np.ndarray, rng: np.random.Generator, strength: float = 1.0
) -> np.ndarray:
    """Make what the masks show denser in half of the images, up to soft tissue.

    The difference between its grey levels and healthy lung is multiplied by a random factor. So the
    network sees dense lesions even if most training patients have only pale ones.

    Parameters
    ----------
    images : (B, H, W, C) float32 array
    masks : (B, H, W, 1) array in {0, 1}
    rng : numpy.random.Generator
    strength : float
        The factor is 1 to exp(strength).
    """
    factor = np.exp(rng.uniform(0, strength, len(images))).astype(np.float32)
    factor[rng.random(len(images)) < 0.5] = 1
    changed = HEALTHY + (images - HEALTHY) * factor[:, None, None, None]
    changed = np.minimum(changed, np.maximum(images, SOFT_TISSUE))
    return np.where(masks > 0, changed, images)
