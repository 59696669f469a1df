import numpy as np
import pytest

from covseg_lib.training import augmentation


@pytest.fixture
def slices():
    """Eight slices of two CT channels and lungs: bright blocks, whose mask is the lesion."""
    masks = np.zeros((8, 32, 32, 1), np.uint8)
    masks[:, 8:14, 6:14] = 1
    ct = np.concatenate([masks * 2.0 - 1, masks * 1.0], axis=-1)
    return np.concatenate([ct, masks], axis=-1).astype(np.float32), masks


def test_masks_and_lungs_move_with_the_slice(slices):
    images, masks = augmentation.Augmentation(lungs=True)(*slices, seed=(0, 1))
    assert images.shape == (8, 32, 32, 3)
    assert images.dtype == np.float32
    assert masks.dtype == np.uint8
    assert set(np.unique(masks)) == {0, 1}
    assert (images[..., 2:] == masks).all()  # lungs that were the mask still are
    assert (masks != slices[1]).any(axis=(1, 2, 3)).all()  # each slice moved
    for image, mask in zip(images, masks[..., 0], strict=True):
        for channel in (0, 1):  # the block is still the brightest part
            values = image[..., channel]
            assert values[mask == 1].mean() > values[mask == 0].mean() + 0.5


def test_intensities_change_but_the_lungs_do_not(slices):
    images, _ = augmentation.Augmentation(lungs=True)(*slices, seed=(0, 1))
    assert set(np.unique(images[..., 2])) == {0, 1}
    assert len(np.unique(images[:, 0, 0, 0])) > 1


def test_grey_levels_that_landmarks_gave_stay(slices):
    images, masks = slices[0].copy(), slices[1]
    images[..., 1] = -1.0  # healthy lung everywhere
    changed, _ = augmentation.Augmentation(lungs=True, landmarks=True)(images, masks, seed=(0, 1))
    other, _ = augmentation.Augmentation(lungs=True)(images, masks, seed=(0, 1))
    inner = changed[:, 1:-1, 1:-1, 1]  # blurring darkens or brightens the border
    assert inner == pytest.approx(-1.0, abs=1e-5)
    assert abs(other[:, 1:-1, 1:-1, 1] + 1).max() > 0.1


def test_lesions_become_denser_up_to_soft_tissue():
    images = np.full((400, 2, 2, 1), -0.4, np.float32)
    images[:, 0] = -1.0  # healthy lung
    images[:, 1, 1] = 1.3  # brighter than soft tissue
    masks = np.ones(images.shape, np.uint8)
    masks[:, 1, 0] = np.arange(400)[:, None] % 2
    changed = augmentation.make_denser(images, masks, np.random.default_rng(0))
    outside, inside = changed[::2, 1, 0, 0], changed[1::2, 1, 0, 0]
    assert (outside == np.float32(-0.4)).all()
    assert changed[:, 0] == pytest.approx(-1.0)
    assert np.isclose(inside, -0.4, atol=1e-6).mean() == pytest.approx(0.5, abs=0.1)
    assert inside.min() == pytest.approx(-0.4)
    assert 0.4 < inside.max() <= -1 + 0.6 * np.e
    assert changed[:, 1, 1].max() == pytest.approx(1.3)


def test_the_seed_decides(slices):
    augment = augmentation.Augmentation(lungs=True)
    first, again, other = (augment(*slices, seed=(0, number))[0] for number in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_half_of_the_slices_are_mirrored(slices):
    images, masks = (np.repeat(array, 25, axis=0) for array in slices)
    _, moved = augmentation.Augmentation()(images[..., :1], masks, seed=(0,))
    column = (moved[..., 0] * np.arange(32)).sum(axis=(1, 2)) / moved.sum(axis=(1, 2, 3))
    assert (column > 15.5).mean() == pytest.approx(0.5, abs=0.12)


def test_gamma_keeps_the_range_and_half_of_the_images():
    images = np.linspace(-3, 5, 2 * 200).reshape(200, 1, 2, 1).astype(np.float32)
    images = np.concatenate([images, images.mean(axis=2, keepdims=True)], axis=2)
    changed = augmentation.change_gamma(images, np.random.default_rng(0))
    assert changed[:, 0, :2] == pytest.approx(images[:, 0, :2], abs=1e-4)
    same = np.isclose(changed[:, 0, 2], images[:, 0, 2], atol=1e-6)
    assert same.mean() == pytest.approx(0.5, abs=0.12)
