"""Which model segments a scan: one run, an ensemble, the one that ships."""

import runpy
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import recipe_of, write_volume

from covseg_lib import files
from covseg_lib.__main__ import main
from covseg_lib.batch import folds
from covseg_lib.data.slices import open_slices
from covseg_lib.scans import segment, segmenters
from covseg_lib.training import models, run_folder, trainer
from covseg_lib.training.run_folder import RunFolder


@pytest.fixture
def folder_of_run(trained_study):
    return trained_study.path("run", run="dice").parent


def test_the_model_that_ships_is_complete_and_small():
    segmenter = segmenters.read_segmenter()
    (run,), (lung_run,) = segmenter.runs, segmenter.lung_runs
    assert run.recipe.split == lung_run.recipe.split == "all"
    assert lung_run.recipe.target == "lungs"
    folder = run_folder.SHIPPED.parent
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < 5e6
    for part in ("final", "final_lungs"):
        state = RunFolder(folder / part).read_finished()
        assert state.weights == run_folder.checksum_of_weights(folder / part / "best.weights.h5")
        assert len(state.trained_on) == 9


def test_a_shipped_run_has_the_same_weights_in_less_space(trained_study, tmp_path, project):
    """With its lung model; other weights in its folder are noticed."""
    np.save(trained_study.path("lungs"), np.ones((25, 16, 16, 1), np.uint8))
    options = {"epochs": 1, "learning_rate": 1e-2}
    folds.train_final(open_slices(trained_study), "final", lungs="lungs", **options)
    source = trained_study.path("run", run="final").parent
    script = runpy.run_path(str(project / "benchmarks" / "ship_model.py"), run_name="imported")
    command = [str(source), str(tmp_path / "shipped")]
    done = CliRunner().invoke(script["main"], command)
    assert done.exit_code == 0, done.output
    copy = tmp_path / "shipped" / "final"
    before, after = (models.read_run(folder).model.get_weights() for folder in (source, copy))
    for first, second in zip(before, after, strict=True):
        assert np.allclose(first, second, rtol=1e-3, atol=1e-6)
    assert not (copy / "backup").exists()
    segmenter = segmenters.read_segmenter([copy])  # the lung model beside it is that of the copy
    assert segmenter.lung_runs[0].recipe.run == "final_lungs"
    again = CliRunner().invoke(script["main"], command)
    assert "final_lungs exists: choose another folder" in again.output
    shutil.copy(source / "best.weights.h5", copy)
    with pytest.raises(ValueError, match=r"has not the weights that run\.json describes"):
        segmenters.read_segmenter([copy])


def test_a_run_is_not_used_with_a_lung_model_that_was_trained_again(trained_study):
    np.save(trained_study.path("lungs"), np.ones((25, 16, 16, 1), np.uint8))
    options = {"epochs": 1, "learning_rate": 1e-2}
    folds.train_final(open_slices(trained_study), "final", lungs="lungs", **options)
    lungs = RunFolder.of(trained_study, "final_lungs")
    lungs.write(replace(lungs.read(), rules=run_folder.Postprocessing(threshold=0.4)))
    with pytest.raises(ValueError, match="holds another lung model than the run final was trained"):
        segmenters.read_segmenter([trained_study.path("run", run="final").parent])


def test_weights_that_another_program_writes_are_not_called_damaged(folder_of_run, monkeypatch):
    def locked(*_):
        raise BlockingIOError(11, "Unable to synchronously open file (unable to lock file)")

    monkeypatch.setattr("keras.Model.load_weights", locked)
    with pytest.raises(OSError, match=r"best.weights.h5 is open in another program: wait until"):
        models.read_run(folder_of_run)


def test_an_ensemble_averages_the_probabilities(folder_of_run, tiny_dataset, tmp_path):
    second = tmp_path / "models" / "second"
    shutil.copytree(folder_of_run, second)
    run = models.read_run(second)
    *changed, bias = run.model.get_weights()
    run.model.set_weights([*changed, bias + 3])
    run.model.save_weights(second / "best.weights.h5")
    state = RunFolder(second).read()
    weights = run_folder.checksum_of_weights(second / "best.weights.h5")
    rules = run_folder.Postprocessing(threshold=0.3, smallest_ml=0.1)
    RunFolder(second).write(replace(state, weights=weights, rules=rules))
    scan = tiny_dataset / "CT_scans" / "scan_1.nii.gz"
    levels = [
        segment.segment_scan(segmenters.read_segmenter(of_runs), scan).levels.astype(int)
        for of_runs in ([folder_of_run], [second], [folder_of_run, second])
    ]
    assert np.abs(levels[0] - levels[1]).max() > 10
    assert np.abs(levels[2] - (levels[0] + levels[1]) / 2).max() <= 1
    both = segmenters.read_segmenter([folder_of_run, second])
    assert both.name == "runs dice, dice"
    assert both.rules.threshold == pytest.approx(0.4)
    assert both.rules.smallest_ml == pytest.approx(0.05)
    asked = segmenters.read_segmenter([folder_of_run, second], threshold=0.7, smallest_ml=0)
    assert asked.rules == run_folder.Postprocessing(0.7, 0)


def test_a_run_uses_the_lung_model_beside_it(trained_study, tiny_dataset):
    np.save(trained_study.path("lungs"), np.ones((25, 16, 16, 1), np.uint8))
    options = {"epochs": 1, "learning_rate": 1e-2}
    folds.train_final(open_slices(trained_study), "final", lungs="lungs", **options)
    assert list(run_folder.finished_runs(trained_study)) == [
        "dice"
    ]  # models of all patients are not compared with others
    folder = trained_study.path("run", run="final").parent
    segmenter = segmenters.read_segmenter([folder], mirror=True)
    assert segmenter.lung_runs[0].recipe.run == "final_lungs"
    assert segmenter.runs[0].rules.mirror
    found = segment.segment_scan(segmenter, tiny_dataset / "CT_scans" / "scan_1.nii.gz")
    assert found.mask.shape == found.lungs.shape == (5, 16, 20)
    folder.with_name("final_lungs").rename(folder.with_name("away"))
    with pytest.raises(
        FileNotFoundError, match=r"no lung model in .*final_lungs, which the run final needs"
    ):
        segmenters.read_segmenter([folder])


def test_what_does_not_fit_together_is_refused(folder_of_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder_of_run, other)
    state = files.read_json(other / "run.json")
    state["recipe"]["preprocessing"]["step"] = 2
    files.write_json(other / "run.json", state)
    for message, call in {
        "an ensemble needs runs of the same slices": {"folders": [folder_of_run, other]},
        "a run is given twice": {"folders": [folder_of_run, folder_of_run]},
        "is a lung model: expected a run that segments": {"folders": [segmenters.SHIPPED_LUNGS]},
        "the threshold is 0: expected above 0": {"folders": [folder_of_run], "threshold": 0},
        "smallest lesion is -1 ml: expected 0": {"folders": [folder_of_run], "smallest_ml": -1},
    }.items():
        with pytest.raises(ValueError, match=message):
            segmenters.read_segmenter(**call)


def test_a_scan_unlike_the_training_scans_gets_a_warning(folder_of_run, tmp_path):
    """A bright scan with slices 20 mm apart and a lung of 12 ml; the table keeps the warnings."""
    bright = np.full((20, 16, 3), 200, np.int16)
    bright[:2] = -1000
    scan = write_volume(tmp_path / "scan.nii.gz", bright, np.diag([1.0, 1.0, 20.0, 1.0]))
    lungs = np.zeros((20, 16, 3), np.uint8)
    lungs[:10, :, :2] = lungs[:10, :10, 2] = 1
    mask = write_volume(tmp_path / "lungs.nii.gz", lungs, np.diag([1.0, 1.0, 20.0, 1.0]))
    found = segment.segment_scan(segmenters.read_segmenter([folder_of_run]), scan, mask)
    first, second, third = found.warnings
    assert "the mean grey level is" in first
    assert second == "slices are 20 mm apart (expected 0.5 to 10)"
    assert third.startswith("the lungs have 8 ml (expected 1000 to 10000)")
    table, previews = tmp_path / "table.csv", tmp_path / "previews"
    command = ["predict", scan, "--out", tmp_path / "mask.nii.gz", "--run", folder_of_run]
    command += ["--lungs", mask, "--table", table, "--preview", previews, "--threshold", "0.9"]
    done = CliRunner().invoke(main, [*map(str, command), "--smallest", "1", "--mirror"])
    assert done.exit_code == 0, done.output
    assert "WARNING: scan.nii.gz: the mean grey" in done.output
    row = files.read_csv(table).iloc[0]
    assert (row["case"], row["state"], row["ml"]) == ("scan", "done", 0)
    assert second in row["message"]
    assert (previews / "scan.png").read_bytes()[1:4] == b"PNG"


def test_training_starts_from_the_weights_of_another_run(trained_study, folder_of_run):
    recipe = recipe_of(trained_study, run="again", start_from=str(folder_of_run), epochs=1)
    model = models.compile_model(recipe)
    models.load_first_weights(model, recipe)
    first = models.read_run(folder_of_run).model.get_weights()
    assert all((a == b).all() for a, b in zip(model.get_weights(), first, strict=True))
    trainer.train(recipe, open_slices(trained_study))
    state = RunFolder.of(trained_study, "again").read()
    assert state.recipe.start_from == str(folder_of_run)
    wider = replace(recipe, base_filters=4, norm_layer="instance")
    message = (
        "whose network is another one .base_filters 2 there and 4 here, "
        "norm_layer 'none' there and 'instance' here"
    )
    with pytest.raises(ValueError, match=message):
        models.load_first_weights(models.compile_model(wider), wider)
    with pytest.raises(FileNotFoundError, match="no run in nowhere"):
        models.load_first_weights(model, replace(recipe, start_from="nowhere"))
