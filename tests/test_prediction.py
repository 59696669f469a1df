from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from covseg_lib import dataset, prediction, resizing, scores, slices, training, volumes


def test_rows_are_the_test_rows(trained_study):
    run = training.load_run(trained_study, "dice")
    probabilities = prediction.predict_study(run, trained_study)
    images, masks = slices.load(trained_study, "test")
    assert probabilities.shape == images.shape
    assert (np.load(trained_study.path("prediction", run="dice")) == probabilities).all()
    counted = pd.read_csv(trained_study.path("counts", run="dice"))
    assert (len(counted), counted["case"].nunique()) == (25, 5)
    of_test = counted.loc[counted["side"] == "test", scores.COUNTS]
    assert (of_test == scores.counts_by_slice(masks, probabilities >= 0.5)).all(axis=None)


def test_a_run_of_other_slices_is_refused(trained_study):
    run = training.load_run(trained_study, "dice")
    slices.build(trained_study, 16, seed=1)
    with pytest.raises(ValueError, match="trained on another processed_data"):
        prediction.predict_study(run, trained_study)


def test_a_volume_is_predicted_as_its_slices_are(trained_study, tiny_dataset, tmp_path):
    run = training.load_run(trained_study, "dice")
    table = slices.table(trained_study).loc[slices.rows_of(trained_study, "test")].reset_index()
    case = dataset.find_cases(tiny_dataset)[int(table["case"][0][-1]) - 1]
    mask, header = prediction.predict_volume(run, case.image)
    of_slices = prediction.predict_slices(run, slices.load(trained_study, "test")[0])[table["case"] == case.name]
    for found, probability in zip(mask, of_slices[..., 0], strict=True):
        assert (found == (resizing.resize_image(probability, (16, 20)) >= 0.5)).all()
    volumes.write_mask(tmp_path / "mask.nii.gz", mask, header)
    assert nib.load(tmp_path / "mask.nii.gz").shape == nib.load(case.image).shape


def test_every_second_pixel_is_the_one_that_training_saw(tiny_study, tiny_recipe, tmp_path):
    """Of a volume whose columns run to the right, the file's first pixel is the last on screen."""
    made_with = tiny_recipe.preprocessing | {"step": 2}
    run = training.Run(replace(tiny_recipe, preprocessing=made_with), None, None, None)
    image = np.random.default_rng(0).integers(-1000, 0, (32, 32, 2)).astype(np.int16)
    nib.save(nib.Nifti1Image(image, np.diag([1.0, 1.0, 1.0, 1.0])), tmp_path / "ras.nii")
    seen, _ = volumes.read_volume(tmp_path / "ras.nii", step=2)
    expected = resizing.standardise(volumes.to_grey(seen), made_with["mean"], made_with["std"])
    given = []

    class Model:
        def predict_on_batch(self, images):
            given.append(images)
            return images * 0

    prediction.predict_volume(replace(run, model=Model()), tmp_path / "ras.nii")
    assert np.allclose(np.concatenate(given)[:2, ..., 0], expected, atol=1e-5)  # the batch is filled up


AXES = [("L", "P", "S"), ("R", "A", "S"), ("P", "L", "I"), ("S", "R", "A")]


@pytest.mark.parametrize("axes", AXES, ids="".join)
@pytest.mark.parametrize("step", [1, 2])
def test_a_mask_sent_through_slicing_and_back_is_where_it_was(tmp_path, axes, step):
    mask = np.zeros((24, 21, 17), np.uint8)
    mask[5:17, 6:15, 4:12] = 1
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(axes), mask.shape)
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "mask.nii.gz")
    sliced, header = volumes.read_volume(tmp_path / "mask.nii.gz", step)
    back = np.stack([prediction.to_scan(image, header, step) >= 0.5 for image in sliced])
    volumes.write_mask(tmp_path / "back.nii.gz", back, header)
    back = np.asarray(nib.load(tmp_path / "back.nii.gz").dataobj)
    if step == 1:
        assert (back == mask).all()
    else:
        middle = [np.argwhere(volume).mean(axis=0) for volume in (mask, back)]
        assert np.abs(middle[0] - middle[1]).max() <= 0.5
        assert scores.dice(mask, back) > 0.85
