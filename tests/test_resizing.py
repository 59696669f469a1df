import numpy as np
import pytest
from skimage.transform import resize

from covseg_lib.images import resizing


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


def test_landmarks_become_minus_one_and_one():
    """Lungs of 0 and 10 in two scans, soft tissue of 4 and 30; bone of 90 is no soft tissue."""
    images, lungs = np.full((4, 2, 3, 1), 90, np.float32), np.zeros((4, 2, 3, 1), np.uint8)
    lungs[:, 0] = 1
    images[:2, 0], images[2:, 0] = 0, 10
    images[:2, 1, :2], images[2:, 1, :2] = 4, 30
    cases = np.array(["a", "a", "b", "b"])
    scales = resizing.normalising_scales(images, cases, "landmarks", lungs, (3, 50))
    assert scales == pytest.approx(np.array([[0.5, -1], [0.5, -1], [0.1, -2], [0.1, -2]]))
    assert resizing.normalising_scales(images, cases, "dataset") is None


@pytest.mark.parametrize(("lung", "missing"), [(0, "lungs"), (1, "soft tissue")])
def test_a_scan_without_landmarks_is_named(lung, missing):
    images, lungs = np.zeros((1, 2, 2, 1), np.float32), np.full((1, 2, 2, 1), lung, np.uint8)
    with pytest.raises(ValueError, match=f"no {missing} found in leg, which the landmarks need"):
        resizing.normalising_scales(images, np.array(["leg"]), "landmarks", lungs, (-1, 1))


def test_lungs_are_filled_side_by_side():
    """A lung with a dent at the chest wall, another one beside it: the gap between stays."""
    lungs = np.zeros((2, 9, 12), np.uint8)
    lungs[0, 1:8, 1:5] = lungs[0, 1:8, 7:11] = 1
    lungs[0, 3:6, 1:3] = 0  # a dense lesion that a lung model leaves out
    filled = resizing.fill_lungs(lungs)
    assert filled[0, 1:8, 1:5].all()
    assert filled[0].sum() == 56
    assert not filled[0, :, 5:7].any()
    assert not filled[1].any()
    assert not resizing.fill_lungs(lungs * 0).any()
