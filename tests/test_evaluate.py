"""Scores of masks of any program, by hand and against other programs."""

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import LPS, write_volume

from covseg_lib import files
from covseg_lib.__main__ import main
from covseg_lib.data.slices import open_slices
from covseg_lib.evaluation import prediction, surfaces, tables
from covseg_lib.scans import evaluate
from covseg_lib.training import models


def _box(first, last):
    """Return a mask (12, 12, 6) with a box of rows `first` to `last`."""
    mask = np.zeros((12, 12, 6), np.uint8)
    mask[first:last, 2:8, 1:4] = 1
    return mask


@pytest.fixture
def folders(tmp_path):
    """Four cases of three patients: shifted by a row, equal, one empty, both empty."""
    masks, truth = tmp_path / "masks", tmp_path / "truth"
    for name, predicted, true in [
        ("phantom_01_1", _box(3, 7), _box(2, 6)),
        ("phantom_01_2", _box(2, 6), _box(2, 6)),
        ("b", _box(0, 0), _box(2, 6)),
        ("c", _box(0, 0), _box(0, 0)),
    ]:
        write_volume(masks / f"{name}.nii.gz", predicted)
        write_volume(truth / f"{name}.nii", true)
    return masks, truth


def test_scores_by_hand(folders):
    """Of 4 rows of 18 voxels three agree: Dice 2 x 54 / 144. A voxel has 1 x 1 x 2 mm."""
    scores = evaluate.evaluate_masks(evaluate.pair_masks(*folders))
    assert scores["dice"].to_dict() == pytest.approx(
        {"phantom_01_1": 0.75, "phantom_01_2": 1, "b": 0, "c": 1}
    )
    assert scores["hd95_mm"].tolist() == [np.inf, 0, 1, 0]  # b, c, phantom_01_1, phantom_01_2
    assert scores["nsd"].to_dict() == {"phantom_01_1": 1, "phantom_01_2": 1, "b": 0, "c": 1}
    assert scores["error_ml"].to_dict() == pytest.approx(
        {"phantom_01_1": 0, "phantom_01_2": 0, "b": -0.144, "c": 0}
    )
    assert scores["patient"].tolist() == ["b", "c", "phantom_01", "phantom_01"]
    means = evaluate.summary(scores)
    assert means.loc["dice", "mean"] == pytest.approx(2.75 / 4)
    assert means.loc["hd95_mm", ["mean", "cases"]].tolist() == pytest.approx([1 / 3, 3])
    assert means.loc["dice", "patients"] == 3
    assert means.loc["dice", "low"] == pytest.approx(0)
    assert means.loc["dice", "high"] == pytest.approx(1)


def test_the_numbers_are_those_of_notebook_06(trained_study, tmp_path):
    """The masks that 06 writes, against the true masks: surfaces are those of its own table."""
    run = models.load_run(trained_study, "dice")
    prediction.predict_study(run, open_slices(trained_study))
    table = surfaces.surface_table(open_slices(trained_study)).loc["patient", "dice"]
    assert len(table)
    dataset = trained_study.dataset()
    from covseg_lib.images import nifti
    from covseg_lib.scans import segment
    from covseg_lib.scans.segmenters import Segmenter

    segmenter = Segmenter((run,), (run,), run.rules)
    for case in table.index:
        mask = dataset / "Infection_Mask" / f"{case}.nii.gz"
        found = segment.segment_scan(segmenter, dataset / "CT_scans" / mask.name, mask)
        nifti.write_mask(tmp_path / "masks" / mask.name, found.mask, found.header)
        write_volume(tmp_path / "truth" / mask.name, volume_of(mask))
    scores = evaluate.evaluate_masks(evaluate.pair_masks(tmp_path / "masks", tmp_path / "truth"))
    for name in ("nsd", "hd95_mm", "true_ml", "predicted_ml", "error_ml"):
        assert scores[name].to_dict() == pytest.approx(table[name].to_dict(), abs=1e-6), name
    assert tables.compared_runs(trained_study)


def volume_of(path):
    import nibabel as nib

    return np.asarray(nib.load(path).dataobj)


def test_surface_distance_agrees(folders):
    import surface_distance

    masks, truth = folders
    scores = evaluate.evaluate_masks(
        evaluate.pair_masks(masks / "phantom_01_1.nii.gz", truth / "phantom_01_1.nii"), 0.5
    )
    distances = surface_distance.compute_surface_distances(
        _box(2, 6) > 0, _box(3, 7) > 0, (1, 1, 2)
    )
    expected = surface_distance.compute_surface_dice_at_tolerance(distances, 0.5)
    assert scores["nsd"].tolist() == pytest.approx([expected])
    assert scores["nsd"].iloc[0] < 1


def _evaluate(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_the_command_writes_table_and_figure(folders, tmp_path):
    table, figure = tmp_path / "scores.csv", tmp_path / "scores.png"
    done = _evaluate(*folders, "--table", table, "--figure", figure)
    assert done.exit_code == 0, done.output
    assert "phantom_01_1" in done.output
    assert files.read_csv(table)["case"].tolist() == ["b", "c", "phantom_01_1", "phantom_01_2"]
    assert figure.read_bytes()[1:4] == b"PNG"
    assert "WARNING" not in done.output
    done = _evaluate(folders[0] / "c.nii.gz", folders[1] / "c.nii")
    assert "WARNING: no true mask has a lesion" in done.output


def test_wrong_files_are_refused_together(folders, tmp_path):
    masks, truth = folders
    write_volume(masks / "extra.nii.gz", _box(2, 6))
    (truth / "c.nii").rename(truth / "d.nii")
    done = _evaluate(masks, truth)
    assert done.exit_code == 1
    for message in ("no mask for d", "no true mask for c", "no true mask for extra"):
        assert message in done.output
    (masks / "extra.nii.gz").unlink()
    (truth / "d.nii").rename(truth / "c.nii")
    write_volume(masks / "b.nii.gz", _box(2, 6)[:-1])
    write_volume(masks / "c.nii.gz", _box(2, 6) * 7)
    write_volume(masks / "phantom_01_2.nii.gz", _box(2, 6), LPS + np.eye(4, k=3))
    table = tmp_path / "scores.csv"
    done = _evaluate(masks, truth, "--table", table)
    assert done.exit_code == 1
    assert "b: the true mask is (12, 12, 6) and its predicted mask (11, 12, 6)" in done.output
    assert "c: mask c.nii.gz: holds the values 0, 7" in done.output
    assert "phantom_01_2: true mask and predicted mask lie in different places" in done.output
    assert not table.exists()
    (tmp_path / "empty").mkdir()
    assert "expected masks" in _evaluate(tmp_path / "empty", truth).output
    assert "two files or two folders" in _evaluate(masks, truth / "b.nii").output


def test_names_may_differ_by_what_programs_add(folders, tmp_path):
    masks, truth = folders
    names = [path.name.removesuffix(".nii.gz") for path in masks.iterdir()]
    before = ""
    for added in ("_0000", "_mask"):
        for name in names:
            path = masks / f"{name}{before}.nii.gz"
            path.rename(masks / f"{name}{added}.nii.gz")
        assert sorted(evaluate.pair_masks(masks, truth)) == sorted(names)
        before = added
    write_volume(masks / "c_seg.nii.gz", _box(0, 0))  # which of both is the mask of c?
    with pytest.raises(ValueError, match=r"no mask for c; no true mask for c_mask; .*c_seg"):
        evaluate.pair_masks(masks, truth)
