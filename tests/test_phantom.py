from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from conftest import find_cases

from covseg_lib.data import phantom, sources
from covseg_lib.data.pairs import read_pair
from covseg_lib.evaluation import baselines, metrics
from covseg_lib.images import volumes

SHAPE = (12, 96, 96)


def _volume(lesions=4, seed=0, shape=SHAPE):
    kind = phantom.Phantom(0, 0, lesions, shape)
    return phantom.draw_chest(kind, np.random.default_rng(seed), np.random.default_rng(seed + 1))


def test_one_seed_gives_one_volume():
    assert all((a == b).all() for a, b in zip(_volume(), _volume(), strict=True))
    assert (_volume()[0] != _volume(seed=3)[0]).any()


def test_lesions_lie_in_the_lungs_and_lungs_are_mostly_air():
    image, mask, lungs = _volume()
    assert image.dtype == np.int16
    assert image.min() >= -1024
    assert mask.any()
    assert (lungs[mask > 0] > 0).all()
    assert np.median(image[(lungs > 0) & (mask == 0)]) < -750
    assert -700 < np.median(image[mask > 0]) < 100


def test_a_healthy_chest_has_no_lesion():
    assert not _volume(lesions=0)[1].any()


def test_a_threshold_does_not_find_the_lesions():
    drawn = [_volume(lesions=3, seed=seed, shape=(12, 256, 256)) for seed in range(3)]
    grey = np.stack([volumes.to_grey(image) for image, _, _ in drawn]).astype(np.float32)
    masks = np.stack([mask for _, mask, _ in drawn])
    low, high = baselines.best_intensity_range(grey, masks)
    assert metrics.dice(masks, (grey >= low) & (grey <= high)) < 0.5


def test_the_data_set_holds_what_real_ones_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom, "SLICE_MM", 40.0)
    small = {}
    for case, kind in phantom.PHANTOMS.items():
        rows, columns = kind.shape[1:]
        small[case] = replace(kind, shape=(6, rows // 4, columns // 4), pixel_mm=5.6)
    gone = sources.write_phantoms(tmp_path, small) / "CT_scans" / "phantom_02.nii.gz"
    gone.unlink()  # is drawn again
    sources.write_phantoms(tmp_path, small)
    found = find_cases(tmp_path)
    assert len(found) == 12
    assert len({case.patient for case in found}) == 11
    pairs = {case.name: read_pair(case) for case in found}
    assert not pairs["phantom_03"].mask.any()
    grey = volumes.to_grey(phantom.draw_phantom(small["phantom_02"]).image)
    assert (grey == pairs["phantom_02"].image).all()
    assert (phantom.draw_phantom(small["phantom_02"]).mask == pairs["phantom_02"].mask).all()
    assert pairs["phantom_04"].image.shape[1] != pairs["phantom_04"].image.shape[2]
    stored = {case.name: nib.load(case.image).get_data_dtype() for case in found}
    assert stored["phantom_05"] == np.uint8
    assert stored["phantom_02"] == np.int16
    orientations = {nib.aff2axcodes(pair.header.get_best_affine()) for pair in pairs.values()}
    assert len(orientations) > 2
    assert pairs["phantom_02"].header.get_zooms() == pytest.approx((5.6, 5.6, 40.0))


def test_varied_phantoms_differ_as_patients_do():
    kinds = list(phantom.VARIED_PHANTOMS.values())
    for field in ("pixel_mm", "noise_hu", "window_hu", "lesion_size", "orientation"):
        assert len({getattr(kind, field) for kind in kinds}) > 3
    assert len({kind.patient for kind in kinds}) == len(kinds)
    one, other = (replace(kind, shape=(6, 40, 40), pixel_mm=8.0) for kind in kinds[1:3])
    medians = []
    for kind in (one, other):
        pair = phantom.draw_phantom(kind)
        assert pair.image.dtype == np.uint8
        healthy = (pair.lungs > 0) & (pair.mask == 0)
        medians.append(np.median(pair.image[healthy]))
    assert abs(medians[0] - medians[1]) > 20  # grey levels of healthy lungs
