from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import find_cases
from skimage import transform

from covseg_lib.batch import folds
from covseg_lib.data import preprocessing
from covseg_lib.data.slices import open_slices
from covseg_lib.evaluation import metrics, prediction
from covseg_lib.images import nifti, resizing, volumes
from covseg_lib.scans import segment
from covseg_lib.scans.segmenters import Segmenter
from covseg_lib.training import batches, models, run_folder


def _alone(run):
    """Return a segmenter of one run, for scans with lung masks."""
    return Segmenter((run,), (run,), run.rules)


def test_rows_are_the_test_rows(trained_study):
    run = models.load_run(trained_study, "dice")
    probabilities = prediction.predict_study(run, open_slices(trained_study))
    images, masks = open_slices(trained_study).subset("test")
    assert probabilities.shape == images.shape
    assert (np.load(trained_study.path("prediction", run="dice")) == probabilities).all()
    counted = pd.read_csv(trained_study.path("counts", run="dice"))
    assert (len(counted), counted["case"].nunique()) == (25, 5)
    of_test = counted.loc[counted["subset"] == "test", metrics.COUNTS]
    assert (of_test == metrics.counts_by_slice(masks, probabilities >= 0.5)).all(axis=None)


def test_a_run_of_other_slices_is_refused(trained_study):
    run = models.load_run(trained_study, "dice")
    preprocessing.preprocess(trained_study, 16, seed=1)
    with pytest.raises(ValueError, match="trained on other slices than"):
        prediction.predict_study(run, open_slices(trained_study))


def test_a_volume_is_predicted_as_its_slices_are(trained_study, tiny_dataset, tmp_path):
    run = models.load_run(trained_study, "dice")
    table = (
        open_slices(trained_study).table.loc[open_slices(trained_study).rows("test")].reset_index()
    )
    case = find_cases(tiny_dataset)[int(table["case"][0][-1]) - 1]
    found = segment.segment_scan(_alone(run), case.image, case.mask)
    mask, header = found.mask, found.header
    of_slices = prediction.predict_slices(run, open_slices(trained_study).subset("test")[0])[
        table["case"] == case.name
    ]
    for found, probability in zip(mask, of_slices[..., 0], strict=True):
        assert (found == (resizing.resize_image(probability, (16, 20)) >= 0.5)).all()
    nifti.write_mask(tmp_path / "mask.nii.gz", mask, header)
    assert nib.load(tmp_path / "mask.nii.gz").shape == nib.load(case.image).shape


def test_a_step_keeps_the_same_pixels_as_in_training(tiny_study, tiny_recipe, tmp_path):
    """If columns run to the right, the first pixel of the file is the last one upright."""
    made_with = tiny_recipe.preprocessing | {"step": 2}
    recipe = replace(tiny_recipe, preprocessing=made_with)
    image = np.random.default_rng(0).integers(-1000, 0, (32, 32, 2)).astype(np.int16)
    nib.save(nib.Nifti1Image(image, np.diag([1.0, 1.0, 1.0, 1.0])), tmp_path / "ras.nii")
    seen, _ = volumes.read_volume(tmp_path / "ras.nii", step=2)
    expected = resizing.standardise(volumes.to_grey(seen), made_with["mean"], made_with["std"])
    given = []

    class Model:
        input_shape = (None, 16, 16, 1)

        def predict_on_batch(self, images):
            given.append(images)
            return images * 0

    nib.save(nib.Nifti1Image((image * 0 + 1).astype("u1"), np.eye(4)), tmp_path / "lungs.nii")
    run = models.Run(run_folder.RunState(recipe), Model())
    segment.segment_scan(_alone(run), tmp_path / "ras.nii", tmp_path / "lungs.nii")
    assert np.allclose(
        np.concatenate(given)[:2, ..., 0], expected, atol=1e-5
    )  # the batch is filled up


AXES = [("L", "P", "S"), ("R", "A", "S"), ("P", "L", "I"), ("S", "R", "A")]


@pytest.mark.parametrize("axes", AXES, ids="".join)
@pytest.mark.parametrize("step", [1, 2])
def test_a_mask_keeps_its_place_through_slicing_and_back(tmp_path, axes, step):
    mask = np.zeros((24, 21, 17), np.uint8)
    mask[5:17, 6:15, 4:12] = 1
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(axes), mask.shape)
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "mask.nii.gz")
    sliced, header = volumes.read_volume(tmp_path / "mask.nii.gz", step)
    back = np.stack([segment.to_scan(image, header, step) >= 0.5 for image in sliced])
    nifti.write_mask(tmp_path / "back.nii.gz", back, header)
    back = np.asarray(nib.load(tmp_path / "back.nii.gz").dataobj)
    if step == 1:
        assert (back == mask).all()
    else:
        middle = [np.argwhere(volume).mean(axis=0) for volume in (mask, back)]
        assert np.abs(middle[0] - middle[1]).max() <= 0.5
        assert metrics.dice(mask, back) > 0.85


@pytest.mark.parametrize("zoom", [1.0, 1.5])
def test_a_volume_with_neighbours_and_lungs_is_predicted_as_its_slices_are(
    tiny_study, tiny_recipe, tiny_dataset, tmp_path, zoom
):
    masks = np.load(tiny_study.path("masks"))
    np.save(tiny_study.path("lungs"), masks)
    changes = {"normalisation": "volume", "neighbours": 1, "lungs": "given"}
    recipe = replace(tiny_recipe, **changes)
    run = models.Run(run_folder.RunState(recipe), models.build_model(recipe))
    run = models.with_rules(run, run_folder.Postprocessing(zoom=zoom))
    inputs = batches.open_inputs(recipe, open_slices(tiny_study))
    of_slices = prediction.predict_slices(run, inputs[:5])[..., 0]
    case = find_cases(tiny_dataset)[0]
    levels = segment.segment_scan(_alone(run), case.image, case.mask).levels
    for level, probability in zip(levels, of_slices, strict=True):
        whole = resizing.resize_to_scan(probability, (16, 20))
        assert np.abs(level / 255 - whole).max() < 0.01
    moved = nib.load(case.mask)
    nib.save(
        nib.Nifti1Image(moved.dataobj, moved.affine + 9 * np.eye(4, k=3)), tmp_path / "moved.nii.gz"
    )
    with pytest.raises(ValueError, match="lung mask lie in different places"):
        segment.segment_scan(_alone(run), case.image, tmp_path / "moved.nii.gz")


def test_small_parts_are_dropped_in_three_dimensions():
    """A part of 3 voxels over two slices stays, single voxels go; diagonals do not connect."""
    mask = np.zeros((3, 4, 4), bool)
    mask[0, 0, :2] = mask[1, 0, 0] = True
    mask[2, 3, 3] = mask[1, 1, 1] = True
    found = prediction.drop_small(mask, 3)
    assert found.sum() == 3
    assert found[0, 0, :2].all()
    assert prediction.drop_small(mask, 1).sum() == 5


def test_postprocessing_is_chosen_by_validation_slices(trained_study, monkeypatch):
    """Probabilities of 0.33 in lesions, 0.27 around, and one healthy pixel of 0.9 on its own."""
    masks = np.load(trained_study.path("masks"))
    probabilities = np.where(masks, 0.33, 0.27).astype(np.float32)
    probabilities[::5, 15, 15] = 0.9
    run = models.load_run(trained_study, "dice")
    rows = open_slices(trained_study).rows("validation")
    monkeypatch.setattr(prediction, "predict_slices", lambda run, inputs: probabilities[rows])
    folds.choose_by_validation(open_slices(trained_study), run.recipe)
    chosen = models.load_run(trained_study, "dice").rules
    assert (chosen.threshold, chosen.mirror) == (0.3, False)
    assert chosen.smallest_ml > 0
    found = prediction.study_masks(
        trained_study,
        open_slices(trained_study).table["case"].loc[rows],
        probabilities[rows],
        chosen,
    )
    assert (found == masks[rows]).all()


def test_mirror_averaging_predicts_both_sides(trained_study):
    run = models.load_run(trained_study, "dice")
    images, _ = open_slices(trained_study).subset("test")
    mirroring = models.with_rules(run, run_folder.Postprocessing(mirror=True))
    found = prediction.predict_slices(mirroring, images)
    sides = (
        prediction.predict_slices(run, images),
        prediction.predict_slices(run, images[:, :, ::-1]),
    )
    assert found == pytest.approx((sides[0] + sides[1][:, :, ::-1]) / 2)


@pytest.mark.parametrize(("zoom", "size"), [(1.25, 20), (1.5, 24)])
def test_a_zoom_enlarges_the_slices_for_the_network_and_reduces_its_prediction(
    trained_study, zoom, size
):
    run = models.load_run(trained_study, "dice")
    images, _ = open_slices(trained_study).subset("test")
    zoomed = models.with_rules(run, run_folder.Postprocessing(zoom=zoom))
    assert zoomed.model.input_shape == (None, size, size, 1)
    large = np.stack([transform.resize(image, (size, size), order=1) for image in images])
    predicted = zoomed.model.predict_on_batch(large)
    small = [transform.resize(one, (16, 16), order=1, anti_aliasing=True) for one in predicted]
    found = prediction.predict_slices(zoomed, images)
    assert found.shape == images.shape
    inside = (slice(None), slice(2, -2), slice(2, -2))  # scikit-image's edges are others
    assert np.abs(found - np.stack(small))[inside].max() < 0.05
    assert not np.allclose(found, prediction.predict_slices(run, images))
    folder = run_folder.RunFolder.of(trained_study, "dice")
    folder.choose_rules(zoomed.rules, "this test", run.state.weights)
    again = models.load_run(trained_study, "dice")
    assert again.rules == zoomed.rules
    assert (prediction.predict_slices(again, images) == found).all()
