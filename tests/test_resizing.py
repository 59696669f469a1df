import numpy as np
import pytest
from skimage.transform import resize

from covseg_lib.data import resizing


def test_resizing_to_the_same_size_changes_nothing():
    mask = np.random.default_rng(0).integers(0, 2, (12, 12)).astype(np.uint8)
    assert (resizing.resize_mask(mask, (12, 12)) == mask).all()
    assert (resizing.resize_image(mask * 255, (12, 12)) == mask * 255).all()


def test_a_mask_of_half_a_picture_stays_half():
    mask = np.zeros((10, 10), np.uint8)
    mask[:, :5] = 1
    for size in (4, 6, 20):
        resized = resizing.resize_mask(mask, (size, size))
        assert resized[:, : size // 2].all()
        assert not resized[:, size // 2 :].any()


@pytest.mark.parametrize(
    ("before", "after"), [((315, 315), (256, 256)), ((100, 128), (64, 64)), ((20, 16), (32, 40))]
)
def test_resizing_is_scikit_images(before, after):
    image = np.random.default_rng(0).integers(0, 256, before).astype(np.float32)
    expected = resize(image, after, order=1, anti_aliasing=True, preserve_range=True)
    assert np.abs(resizing.resize_image(image, after) - expected).max() < 0.01
