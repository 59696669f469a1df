"""Baselines, intervals, surfaces, leakage, and the report's numbers."""

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import surface_distance
from click.testing import CliRunner

from covseg_lib import files
from covseg_lib.__main__ import main
from covseg_lib.batch import notebooks
from covseg_lib.data.slices import open_slices
from covseg_lib.evaluation import (
    baselines,
    leakage,
    metrics,
    prediction,
    report,
    statistics,
    surfaces,
    tables,
)
from covseg_lib.plots import charts, run_plots
from covseg_lib.study import Study
from covseg_lib.training import models, recipes, run_folder, trainer
from covseg_lib.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def compared_once(made_once, tmp_path_factory):
    """The tiny study with a Dice model of two folds and one of the slice split, predicted beside
    the baselines.
    """
    study = Study(
        shutil.copytree(made_once / "study", tmp_path_factory.mktemp("compared") / "study")
    )
    for split, fold in (("patient", 0), ("patient", 1), ("slice", 0)):
        made = recipes.make_recipe(study, "dice", fold=fold, split=split, learning_rate=1e-2)
        prediction.predict_study(
            trainer.train(replace(made, depth=2, epochs=1), open_slices(study)), open_slices(study)
        )
    baselines.predict_baselines(open_slices(study))
    return study


@pytest.fixture
def compared(compared_once, tmp_path):
    return Study(shutil.copytree(compared_once.root, tmp_path / "compared"))


def _run_like(study, run, **changes):
    """Give a study another run: a copy of its first one, with its predictions, under a changed
    recipe.
    """
    for name in ("counts", "prediction"):
        shutil.copy(study.path(name, run="dice"), study.path(name, run=run))
    folder = RunFolder.of(study, run)
    shutil.copytree(RunFolder.of(study, "dice").path, folder.path)
    state = folder.read()
    changes = {"run": run, "model": run} | changes
    folder.write(replace(state, recipe=replace(state.recipe, **changes)))


def test_the_best_intensity_range_finds_the_lesion():
    images, lesion = np.array([0.0, 1, 2, 3, 4, 5, 2]), np.array([0, 0, 1, 1, 0, 0, 0])
    low, high = baselines.best_intensity_range(images, lesion)
    assert ((images >= low) & (images <= high)).tolist() == [
        False,
        False,
        True,
        True,
        False,
        False,
        True,
    ]
    low, high = baselines.best_intensity_range(
        images, lesion, lungs=np.array([1, 1, 0, 1, 1, 1, 1])
    )
    assert ((images >= low) & (images <= high)).tolist() == [
        False,
        False,
        False,
        True,
        False,
        False,
        False,
    ]


def test_the_mean_lesion_map_has_the_threshold_with_the_highest_dice():
    masks = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]]).reshape(
        3, 2, 2, 1
    )  # shares 1, 2/3, 1/3, 0
    predicted = baselines.mean_lesion_map(masks)
    assert predicted.ravel().tolist() == [
        True,
        True,
        False,
        False,
    ]  # Dice 10/12; one 6/9, three 12/15
    assert not baselines.mean_lesion_map(np.zeros_like(masks)).any()


def test_folds_are_scored_together_and_splits_apart(compared):
    assert list(tables.predicted_runs(compared)) == ["dice", "dice_fold1", "dice_slice"]
    table = tables.score_table(compared)
    names = ["dice", *tables.BASELINES]
    assert sorted(table.index) == sorted(
        [("patient", name) for name in names]
        + [("slice", name.replace("dice", "dice_slice")) for name in names]
    )
    assert (
        table.loc["patient", ["slices", "patients", "folds"]].to_numpy().tolist()
        == [[10, 2, 2]] * 4
    )
    assert table.loc["slice", "slices"].tolist() == [2] * 4
    assert table.loc[("patient", "(empty mask)"), ["dice", "dice_by_case"]].tolist() == [0, 0]
    assert (
        table.loc[("patient", "(empty mask)"), "dice_by_slice"] == 4 / 10
    )  # two of five slices have no lesion


def test_folds_that_not_all_models_have_are_left_out(compared):
    _run_like(compared, "iou", objective="iou")
    assert tables.score_table(compared).loc["patient", "slices"].tolist() == [5] * 5


def test_models_without_a_common_fold_cannot_be_compared(compared):
    _run_like(compared, "iou_fold2", model="iou", objective="iou", fold=2)
    with pytest.raises(
        ValueError,
        match=r"no fold that all models were tested on \(folds of iou \[2\]; dice \[0, 1\]\)",
    ):
        tables.score_table(compared)


def test_folds_of_two_recipes_are_not_one_model(compared):
    _run_like(compared, "dice_fold2", model="dice", epochs=2, fold=2)
    with pytest.raises(
        ValueError, match="dice_fold2 was trained with another recipe than the other folds of dice"
    ):
        tables.score_table(compared)


def test_pictures_are_of_the_studys_split_or_of_the_other(compared):
    runs = models.load_runs(compared)
    assert run_plots.representative_runs(open_slices(compared), runs) == ["dice"]
    assert run_plots.representative_runs(
        open_slices(compared), {"dice_slice": runs["dice_slice"]}
    ) == ["dice_slice"]
    assert run_plots.representative_runs(
        open_slices(compared), {"dice_fold1": runs["dice_fold1"]}
    ) == ["dice_fold1"]


def test_a_table_without_predictions_names_notebook_06(trained_study):
    with pytest.raises(FileNotFoundError, match="run notebook 06 first"):
        tables.score_table(trained_study)


def test_the_threshold_of_one_half_gives_the_tables_dice(compared):
    at, table = tables.dice_by_threshold(open_slices(compared)), tables.score_table(compared)
    for key in at:
        assert at.loc[0.5, key] == pytest.approx(table.loc[key, "dice"])


def test_pictures_and_charts_of_a_study(compared):
    assert len(run_plots.run_overlays(open_slices(compared), "dice", 2).axes) == 4
    table, _, masks, _ = run_plots._test_slices(open_slices(compared), "dice")
    largest = table.iloc[masks.sum(axis=(1, 2), dtype=int).argmax()]
    first = run_plots.run_overlays(open_slices(compared), "dice", 2).axes[0].get_title()
    assert first.startswith(f"{largest['case']}, slice {largest['slice']}\nDice")
    assert len(run_plots.best_to_worst(open_slices(compared), "dice", 1).axes) == 3
    run = models.load_run(compared, "dice_slice")
    assert run_plots.case_slider(open_slices(compared), run).startswith("<div><img src=")


def _counted(rows):
    columns = ["split", "model", "patient", *metrics.COUNTS]
    return pd.DataFrame([("patient", *row, 0) for row in rows], columns=columns)


def test_intervals_worked_by_hand():
    """Of patient x all pixels are found, of y and z none: with k times x in a draw, Dice is k / 3.

    All three are x in 1 of 27 draws, and none is in 8 of 27: both are more than 2.5 %.
    """
    rows = [("good", patient, 10, 0, 0) for patient in "xyz"]
    rows += [("third", "x", 10, 0, 0), ("third", "y", 0, 10, 10), ("third", "z", 0, 10, 10)]
    intervals = statistics.confidence_intervals(_counted(rows)).loc["patient"]
    assert intervals.loc["good", ["dice", "low", "high"]].tolist() == [1, 1, 1]
    assert intervals.loc["third", ["dice", "low", "high"]].tolist() == [1 / 3, 0, 1]
    pair = statistics.paired_differences(_counted(rows)).iloc[0]
    assert pair[["model", "other"]].tolist() == ["good", "third"]
    assert np.allclose(pair[["difference", "low", "high"]].tolist(), [2 / 3, 0, 1])
    assert pair["verdict"] == "cannot be decided with 3 patients"


def test_many_comparisons_widen_the_interval_of_each():
    """Of two models one pair, of four models six pairs; the first two models are the same."""
    rng = np.random.default_rng(1)
    hits = rng.integers(20, 60, (4, 10))
    rows = [
        (f"m{model}", str(patient), hits[model, patient], 10, 10)
        for model in range(4)
        for patient in range(10)
    ]
    two, four = (statistics.paired_differences(_counted(rows[:n])).iloc[0] for n in (20, 40))
    assert (two[["model", "other"]] == four[["model", "other"]]).all()
    assert four["low"] < two["low"] < two["high"] < four["high"]
    assert statistics.paired_differences(_counted(rows)).shape[0] == 6
    six_patients = _counted([row for row in rows if row[1] in "012345"])
    assert statistics.paired_differences(six_patients)["verdict"][0].startswith("cannot")


def test_a_model_is_better_only_if_the_interval_excludes_zero():
    rng = np.random.default_rng(0)
    hits = rng.integers(40, 60, 8)
    rows = [("good", str(p), hits[p], 10, 10) for p in range(8)]
    rows += [("bad", str(p), hits[p], 40, 10) for p in range(8)]
    rows += [("like good", str(p), hits[p] + (p % 2) - 0.5, 10, 10) for p in range(8)]
    pairs = statistics.paired_differences(_counted(rows)).set_index(["model", "other"])
    verdicts = pairs["verdict"]
    assert verdicts["good", "bad"] == "better"
    assert verdicts["bad", "like good"] == "worse"
    assert verdicts["good", "like good"] == "no difference shown"


@pytest.mark.parametrize("patients", ["x", "xy"])
def test_two_patients_have_no_interval(patients):
    rows = [(model, patient, 5, 1, 1) for model in ("a", "b") for patient in patients]
    intervals = statistics.confidence_intervals(_counted(rows))
    pairs = statistics.paired_differences(_counted(rows))
    assert intervals[["low", "high"]].isna().all(axis=None)
    assert pairs[["low", "high"]].isna().all(axis=None)
    assert pairs["verdict"][0].startswith("cannot be decided with")


def test_one_model_is_compared_with_none():
    pairs = statistics.paired_differences(_counted([("only", "x", 5, 1, 1)]))
    assert pairs[pairs["score"] == "dice"].empty


def test_surfaces_worked_by_hand():
    """Two cubes, one moved by two voxels of 1.5 mm along the slices."""
    cube = np.zeros((12, 8, 8), bool)
    cube[2:6, 2:6, 2:6] = True
    moved = np.roll(cube, 2, axis=0)
    nothing = np.zeros_like(cube)
    assert surfaces.surface_scores(cube, cube, (1.5, 1, 1)) == (1, 0)
    assert surfaces.surface_scores(cube, moved, (1.5, 1, 1), tolerance_mm=3) == (1, 3)
    assert surfaces.surface_scores(cube, moved, (1.5, 1, 1), tolerance_mm=0.5)[0] < 0.7
    assert surfaces.surface_scores(nothing, nothing, (1, 1, 1)) == (1, 0)
    assert surfaces.surface_scores(cube, nothing, (1, 1, 1)) == (0, np.inf)
    assert surfaces.surface_scores(nothing, cube, (1, 1, 1)) == (0, np.inf)
    assert surfaces.surface_scores(nothing, ~nothing, (1, 1, 1)) == (0, np.inf)
    voxels = np.zeros((2, 5, 5, 5))
    voxels[0, 2, 2, 2] = voxels[1, 2, 2, 3] = 1
    assert surfaces.surface_scores(*voxels, (1, 1, 2))[1] == 2


def test_surface_scores_are_those_of_surface_distance():
    rng = np.random.default_rng(0)
    for mm in ((1, 1, 1), (6, 0.7, 0.7)):
        true, pred = rng.random((2, 9, 10, 11)) < 0.2
        distances = surface_distance.compute_surface_distances(true, pred, mm)
        nsd = surface_distance.compute_surface_dice_at_tolerance(distances, 3)
        assert surfaces.surface_scores(true, pred, mm) == (
            pytest.approx(nsd),
            pytest.approx(surface_distance.compute_robust_hausdorff(distances, 95)),
        )


def test_whole_cases_have_volumes_in_ml(compared):
    table = surfaces.surface_table(open_slices(compared))
    assert [key[:2] for key in table.index] == [("patient", "dice")] * 2
    case = table.index[0][2]
    with files.open_npz(compared.path("sliced_case", case=case)) as arrays:
        assert table["true_ml"].iloc[0] == pytest.approx(
            arrays["masks"].sum() * 2 / 1000
        )  # voxels of 1 x 1 x 2 mm
    assert (table["error_ml"] == table["predicted_ml"] - table["true_ml"]).all()


def test_distances_to_training_slices_are_in_mm(compared):
    table = leakage.dice_by_distance(open_slices(compared))
    assert np.isinf(table.loc[table["split"] == "patient", "mm"]).all()
    mm = set(table.loc[table["split"] == "slice", "mm"])
    assert mm <= {2.0, 4.0, 6.0, 8.0}  # slices are 2 mm apart
    distances = leakage.distance_to_training_mm(open_slices(compared), "slice")
    assert (distances[open_slices(compared).rows("train", split="slice")] == 0).all()


def test_the_nearest_training_slice_is_the_most_similar_one(tiny_study):
    images = np.load(tiny_study.path("images"))
    train, test = (open_slices(tiny_study).rows(s) for s in ("train", "test"))
    listed = open_slices(tiny_study).table
    with_lesion = [row for row in test if listed["lesion_pixels"][row]]
    images[with_lesion[0]] = images[train[-1]]
    np.save(tiny_study.path("images"), images)
    slices = open_slices(tiny_study)
    found = leakage.nearest_training_slices(slices)
    assert found.index.tolist() == with_lesion
    assert found.loc[with_lesion[0], "nearest"] == train[-1]
    assert set(found["nearest"]) <= set(train)
    assert len(leakage.nearest_training_slices(slices, most=2)) == 2
    healthy = replace(slices, table=listed.assign(lesion_pixels=0))
    assert len(leakage.nearest_training_slices(healthy)) == 5  # all test slices


def test_training_costs_are_compared_with_the_report_for_the_same_metric():
    timing = {"first_epoch_s": 4.12, "other_epochs_s": 1.0, "total_s": 5.12, "device": "CPU"}
    history = pd.DataFrame({"epoch": [1, 2]})
    run = models.Run(
        run_folder.RunState(SimpleNamespace(objective="iou"), timing=timing), None, history
    )
    assert report.training_costs(run).T.to_numpy().tolist() == [
        [2, 4.1, 1, 5.1],
        [100, 97, 17, 1780],
    ]


def test_table_2_1_and_the_numbers_of_other_slices(compared):
    table = report.table_2_1(open_slices(compared))
    assert table.loc[("patient", "dice"), ["epochs", "report_epochs", "report_test"]].tolist() == [
        1,
        250,
        0.8603,
    ]
    assert (
        table.loc[("patient", "dice"), "test"]
        == tables.score_table(compared).loc[("patient", "dice"), "dice"]
    )
    numbers = report.compare_numbers(open_slices(compared)).set_index("what")
    assert numbers.loc["slices", ["report", "ours", "verdict"]].tolist() == [
        661,
        25,
        "not comparable",
    ]
    assert numbers.loc["dice_slice model, dice, test", "verdict"] == "not comparable"
    assert numbers.loc["dice model, total_s from its epochs", ["ours", "verdict"]].tolist() == [
        4333,
        "explained",
    ]


def test_the_command_prints_the_tables_though_07_comes_after_06(compared, monkeypatch):
    files.write_csv(compared.path("table"), report.table_2_1(open_slices(compared)))
    files.write_csv(compared.path("scores"), tables.score_table(compared))
    monkeypatch.setattr(
        notebooks,
        "run_notebooks",
        lambda *_: [Path("06_predict_and_compare.ipynb"), Path("07_sweep.ipynb")],
    )
    said = CliRunner().invoke(main, ["run", "--study", str(compared.root)]).output
    assert re.search(r"Table 2\.1.*\n.*report_test\n.*\n(.*\n)*.*patient dice .* 0\.8603", said)
    assert "(empty mask)" in said


def test_verdicts_of_the_reports_own_slices(compared, monkeypatch):
    monkeypatch.setattr(report, "is_report_data", lambda listed: True)
    numbers = report.compare_numbers(open_slices(compared)).set_index("what")
    assert numbers.loc["slices, train (split by slices)", "verdict"] == "slip"
    of_model = {"dice": [0.8, 0], "low": [0.7, 0], "high": [0.9, 0], "patients": [5, 5]}
    intervals = pd.DataFrame(of_model, index=["m", "(empty mask)"])
    reason = "5 patients, 0.70 to 0.90; the empty mask has 0.000"
    assert report._test_verdict("dice", 0.86, "m", {"dice": intervals}) == ("compatible", reason)
    narrow = intervals.assign(low=[0.84, 0], high=[0.88, 0])
    assert report._test_verdict("dice", 0.86, "m", {"dice": narrow})[0] == "reproduced"
    assert report._test_verdict("dice", 0.95, "m", {"dice": intervals})[0] == "not reproduced"
    ious = {
        "iou": intervals.rename(columns={"dice": "iou"}),
        "mean_iou": intervals.rename(columns={"dice": "mean_iou"}) + 0.1,
    }
    assert report._test_verdict("iou", 0.95, "m", ious)[0] == "explained"


def test_the_reports_iou_fits_the_mean_over_both_classes():
    dice = report.REPORT_TABLE["dice"]["test"]
    lesion = dice / (2 - dice)
    assert lesion == pytest.approx(0.755, abs=1e-3)
    assert (lesion + 0.995) / 2 == pytest.approx(report.REPORT_TABLE["iou"]["test"], abs=2e-3)


def test_models_that_share_the_loss_are_compared(compared):
    """Two runs whose recipes differ in the metric only; their histories are one here."""
    for run in ("accuracy", "iou"):
        _run_like(compared, run, objective=run)
        history = files.read_csv(compared.path("history", run="dice")).rename(
            columns={"val_dice": f"val_{run}"}
        )
        files.write_csv(compared.path("history", run=run), history)
    shared = report.compare_losses(compared)
    assert shared[["run", "other"]].to_numpy().tolist() == [["accuracy", "iou"]]
    assert shared["largest_loss_difference"].iloc[0] == 0


def test_two_runs_of_one_fold_are_not_counted_twice(compared):
    _run_like(compared, "dice_fold0")  # RUN = "dice_fold0" is a model of its own
    names = tables.score_table(compared).loc["patient"].index.tolist()
    assert names == ["dice", "dice_fold0", *tables.BASELINES]
    _run_like(compared, "copied", model="dice")
    with pytest.raises(ValueError, match="copied and dice are both fold 0 of the model dice"):
        tables.score_table(compared)


def test_the_reports_numbers_open_each_file_of_a_run_once(compared):
    opened = []
    sys.addaudithook(
        lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None
    )
    report.compare_numbers(open_slices(compared))
    opened = [path for path in opened if path.startswith(str(compared.root))]
    tables_read = [path for path in opened if path.endswith(".csv")]
    assert sorted(tables_read) == sorted(set(tables_read))


def test_no_test_slice_with_a_lesion_is_a_message_and_no_crash(compared):
    """Notebook 06 stopped with "No objects to concatenate"."""
    for run in [*tables.predicted_runs(compared), tables.BASELINES_FILE]:
        path = compared.path("counts", run=run)
        files.write_csv(path, files.read_csv(path).assign(tp=0, fn=0))
    table = leakage.dice_by_distance(open_slices(compared))
    assert table.empty
    assert "no test slice has a lesion" in [
        text.get_text() for text in charts.dice_by_distance_chart(table).axes[0].texts
    ]
    assert (
        statistics.confidence_intervals(tables.pixel_counts(compared))["dice"].between(0, 1)
    ).all()
