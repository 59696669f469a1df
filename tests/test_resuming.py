"""A training cut off at any moment goes on, and ends bit for bit where an undisturbed one ends."""

import shutil
import threading
import time
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import after_epoch, recipe_of

from covseg_lib import files
from covseg_lib.data import preprocessing
from covseg_lib.data.slices import open_slices
from covseg_lib.evaluation import metrics, prediction, tables
from covseg_lib.study import Study
from covseg_lib.training import callbacks, devices, models, run_folder, trainer
from covseg_lib.training.run_folder import RunFolder

EPOCHS = 4


def _outcome(study, name="dice"):
    """Return all that a finished run has come to, but for its times."""
    run = models.load_run(study, name)
    images, _ = open_slices(study).subset("test")
    history = run.history.drop(columns="seconds")
    return [history.to_numpy(), prediction.predict_slices(run, images), *run.model.get_weights()]


def _same(a, b):
    return len(a) == len(b) and all(
        np.array_equal(one, other) for one, other in zip(a, b, strict=True)
    )


class Cut(BaseException):
    """Stands for a disconnect."""


def _cut_after(last):
    def cut(epoch, model):
        if epoch == last:
            raise Cut

    return after_epoch(cut)


def _recipe(study):
    return recipe_of(study, epochs=EPOCHS, batch_size=2)


@pytest.fixture
def recipe(tiny_study):
    return _recipe(tiny_study)


@pytest.fixture(scope="module")
def finished_once(made_once, tmp_path_factory):
    """The tiny study with the recipe's run, trained without a break."""
    study = Study(
        shutil.copytree(made_once / "study", tmp_path_factory.mktemp("finished") / "study")
    )
    trainer.train(_recipe(study), open_slices(study))
    return study


@pytest.fixture
def finished(finished_once, tmp_path):
    return Study(shutil.copytree(finished_once.root, tmp_path / "finished"))


@pytest.fixture(scope="module")
def wanted(finished_once):
    """What an undisturbed run comes to."""
    return _outcome(finished_once)


@pytest.fixture(scope="module")
def cut_once(made_once, tmp_path_factory):
    """The tiny study with the recipe's run, cut off after its third epoch."""
    study = Study(shutil.copytree(made_once / "study", tmp_path_factory.mktemp("cut") / "study"))
    with pytest.raises(Cut):
        trainer.train(_recipe(study), open_slices(study), callbacks=[_cut_after(3)])
    return study


@pytest.fixture
def cut(cut_once, tmp_path):
    return Study(shutil.copytree(cut_once.root, tmp_path / "cut"))


def test_it_goes_on_after_the_last_backup(tiny_study, recipe):
    lines = []
    with pytest.raises(Cut):
        trainer.train(recipe, open_slices(tiny_study), callbacks=[_cut_after(3)], backup_every=2)
    run = trainer.train(recipe, open_slices(tiny_study), log=lines.append, backup_every=2)
    assert lines[0] == "resuming run dice after epoch 2 of 4"
    assert [line.split()[1] for line in lines[1:] if line.startswith("epoch")] == ["3/4", "4/4"]
    assert run.history["epoch"].tolist() == [1, 2, 3, 4]


def test_a_finished_run_is_loaded_and_more_epochs_continue_it(tiny_study, recipe, wanted):
    lines = []
    trainer.train(replace(recipe, epochs=2), open_slices(tiny_study))
    trainer.train(replace(recipe, epochs=2), open_slices(tiny_study), log=lines.append)
    assert lines == ["run dice has finished after 2 epochs: loaded, not trained again"]
    trainer.train(recipe, open_slices(tiny_study), log=lines.append)
    assert lines[1] == "resuming run dice after epoch 2 of 4"
    assert _same(_outcome(tiny_study), wanted)


def test_a_backup_that_cannot_be_written_stops_the_training(tiny_study, recipe, monkeypatch):
    def fail(path, arrays):
        raise OSError("No space left on device")

    monkeypatch.setattr(callbacks, "_write", fail)
    with pytest.raises(OSError, match="No space left"):
        trainer.train(recipe, open_slices(tiny_study), log=lambda line: None)
    assert not RunFolder.of(tiny_study, "dice").read().finished


def test_an_interrupted_training_waits_for_its_backup(tiny_study, recipe, monkeypatch):
    """It is written in a thread; the next training would find it unfinished."""
    write, lines = callbacks._write, []
    monkeypatch.setattr(
        callbacks, "_write", lambda path, arrays: (time.sleep(0.5), write(path, arrays))
    )
    with pytest.raises(Cut):
        trainer.train(recipe, open_slices(tiny_study), callbacks=[_cut_after(3)])
    trainer.train(recipe, open_slices(tiny_study), log=lines.append)
    assert lines[0] == "resuming run dice after epoch 3 of 4"


def test_another_recipe_is_refused_with_what_differs_and_the_ways_on(finished, recipe):
    tiny_study = finished
    before = _outcome(tiny_study)
    for change, said in (
        ({"learning_rate": 0.5}, r"learning_rate 0.01, now 0.5\."),
        ({"seed": 1, "depth": 1}, r"depth 2, now 1; seed 0, now 1\."),
        ({"epochs": 3}, r"epochs 4, now 3\."),
        ({"preprocessing": recipe.preprocessing | {"size": 8}}, r"preprocessing.size 16, now 8\."),
    ):
        with pytest.raises(ValueError, match=rf"{said}.*RUN = \"dice_2\".*RESUME = False"):
            trainer.train(replace(recipe, **change), open_slices(tiny_study))
    assert _same(_outcome(tiny_study), before)


def test_processed_data_made_again_in_between_is_refused(cut):
    preprocessing.preprocess(cut, 32)
    with pytest.raises(ValueError, match=r"preprocessing\.size 16, now 32"):
        trainer.train(_recipe(cut), open_slices(cut))


@pytest.mark.parametrize(
    "harm", ["flipped", *(pytest.param(h, marks=pytest.mark.slow) for h in ("torn", "empty"))]
)
def test_of_two_backups_a_damaged_one_is_passed_over(cut, recipe, wanted, harm):
    tiny_study = cut
    newest = max(cut.path("backup", run="dice").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 255
    newest.write_bytes(
        {"torn": content[: len(content) // 2], "empty": b"", "flipped": content}[harm]
    )
    lines = []
    trainer.train(recipe, open_slices(tiny_study), log=lines.append)
    assert f"{newest} is damaged" in lines[0]
    assert lines[1] == "resuming run dice after epoch 2 of 4"
    assert _same(_outcome(tiny_study), wanted)


def test_with_both_backups_damaged_it_stops_and_the_best_weights_are_there(cut, recipe):
    tiny_study = cut
    for file in cut.path("backup", run="dice").iterdir():
        file.write_bytes(b"PK")
    best = tiny_study.path("weights", run="dice").read_bytes()
    with pytest.raises(ValueError, match=r"a\.npz is damaged.*b\.npz is damaged.*RESUME = False"):
        trainer.train(recipe, open_slices(tiny_study))
    assert tiny_study.path("weights", run="dice").read_bytes() == best


def test_best_weights_of_epochs_that_were_lost_do_not_stay(cut, recipe):
    tiny_study = cut
    tiny_study.path("weights", run="dice").write_bytes(b"of an epoch after the backup")
    run = trainer.train(recipe, open_slices(tiny_study))
    images, masks = open_slices(tiny_study).subset("validation")
    found = prediction.predict_slices(run, images) >= 0.5
    assert metrics.dice(masks, found) == pytest.approx(run.history["val_dice"].max(), abs=1e-4)


def test_on_a_full_disk_it_says_so_and_goes_on_when_there_is_room(
    tiny_study, recipe, wanted, tmp_path, disk
):
    with disk(tmp_path / "disk", "size=1m"):
        study = Study(tmp_path / "disk" / "study")
        shutil.copytree(tiny_study.root, study.root)
        filled = study.root / "filler"

        def fill(epoch, model):
            if epoch == 2:
                with open(filled, "wb") as file, pytest.raises(OSError, match="No space"):
                    file.write(bytes(2_000_000))

        with pytest.raises(OSError, match=r"No space left.*free some space.*run this again"):
            trainer.train(recipe, open_slices(study), callbacks=[after_epoch(fill)])
        assert study.path("weights", run="dice").stat().st_size > 0
        filled.unlink()
        lines = []
        trainer.train(recipe, open_slices(study), log=lines.append)
        assert lines[0].startswith("resuming run dice after epoch ")
        assert _same(_outcome(study), wanted)


@pytest.mark.parametrize("written", [True, False])
def test_a_study_that_vanishes_is_named_and_not_made_again(
    tiny_study, recipe, monkeypatch, written
):
    """It vanishes after the second epoch, whose backup is written already, or not yet."""
    away, write = tiny_study.root.with_name("unmounted"), callbacks._write
    if not written:
        monkeypatch.setattr(
            callbacks, "_write", lambda path, arrays: (time.sleep(0.5), write(path, arrays))
        )

    def unmount(epoch, model):
        if epoch == 2:
            while written and not (tiny_study.path("backup", run="dice") / "b.npz").exists():
                time.sleep(0.01)
            tiny_study.root.rename(away)

    with pytest.raises(FileNotFoundError, match=r"disappeared during epoch 3.*mount Drive again"):
        trainer.train(recipe, open_slices(tiny_study), callbacks=[after_epoch(unmount)])
    assert not tiny_study.root.exists()
    away.rename(tiny_study.root)
    lines = []
    trainer.train(recipe, open_slices(tiny_study), log=lines.append)
    assert lines[0] == f"resuming run dice after epoch {2 if written else 1} of 4"


def test_a_run_begun_in_one_precision_goes_on_in_another(cut, recipe, monkeypatch):
    tiny_study, recipe = cut, replace(recipe, precision="auto")
    folder = RunFolder.of(cut, "dice")
    folder.write(replace(folder.read(), recipe=recipe))
    monkeypatch.setattr(devices, "dtype_policy", lambda asked: "mixed_float16")
    run = trainer.train(recipe, open_slices(tiny_study))
    assert run.timing["precision"] == "mixed_float16"
    assert run.history["epoch"].tolist() == [1, 2, 3, 4]


def test_a_threshold_chosen_for_the_weights_before_is_forgotten(finished, recipe):
    folder = RunFolder.of(finished, "dice")
    weights = folder.read().weights
    with pytest.raises(ValueError, match="was trained again"):
        folder.choose_rules(run_folder.Postprocessing(threshold=0.3), "this test", "other weights")
    folder.choose_rules(run_folder.Postprocessing(threshold=0.3), "this test", weights)
    assert models.load_run(finished, "dice").rules.threshold == 0.3
    run = trainer.train(replace(recipe, epochs=5), open_slices(finished))
    assert run.rules.threshold == 0.5
    assert folder.read().rules_chosen_by == run_folder.NOTHING


def test_a_finished_run_without_backup_cannot_be_continued(finished, recipe):
    shutil.rmtree(finished.path("backup", run="dice"))
    with pytest.raises(ValueError, match=r"epochs 4, now 6, and no .*backup to resume from"):
        trainer.train(replace(recipe, epochs=6), open_slices(finished))
    assert pd.read_csv(finished.path("history", run="dice"))["epoch"].tolist() == [1, 2, 3, 4]


def test_float16s_loss_scale_is_in_the_backup(cut):
    """Without it a resumed run would start with the initial scale again, and end elsewhere."""
    recipe = replace(_recipe(cut), precision="mixed_float16")
    built = [models.compile_model(recipe) for _ in range(2)]
    folder = RunFolder.of(cut, "dice")
    for number, model in enumerate(built):
        rows = [{"epoch": epoch} for epoch in range(1, 7)]
        backup = callbacks.Backup(folder, rows)
        backup.set_model(model)
        if number == 0:
            model.optimizer.build(model.trainable_variables)
            model.optimizer.dynamic_scale.assign(4.0)
            model.optimizer.step_counter.assign(7)
            backup.on_train_begin()
            rows.append({"epoch": 7})
            backup.on_train_end()
        else:
            assert backup.load(print)
            backup.on_train_begin()
    scale, steps = built[1].optimizer.dynamic_scale, built[1].optimizer.step_counter
    assert (float(scale), int(steps)) == (4.0, 7)


def test_the_fit_cell_run_again_with_the_same_model_gives_the_same_bits(tiny_study, recipe, wanted):
    """As in a notebook whose kernel was interrupted, and whose cell is run again."""
    keras.utils.set_random_seed(recipe.seed)
    model = models.compile_model(recipe)

    def fit(*my_callbacks):
        with trainer.open_training(
            recipe, open_slices(tiny_study), log=lambda line: None
        ) as training:
            model.fit(
                training.batches,
                validation_data=training.validation,
                initial_epoch=training.epoch,
                epochs=recipe.epochs,
                callbacks=[*training.callbacks, *my_callbacks],
                shuffle=False,
                verbose=0,
            )

    with pytest.raises(Cut):
        fit(_cut_after(2))
    fit()
    assert _same(_outcome(tiny_study), wanted)


def test_early_stopping_works_also_after_a_resume(tiny_study, recipe):
    """A run that a callback stops has finished; more epochs continue it."""
    recipe = replace(recipe, epochs=20, learning_rate=1e-9)

    def stopping():
        return keras.callbacks.EarlyStopping(monitor="val_dice", mode="max", patience=2)

    with pytest.raises(Cut):
        trainer.train(recipe, open_slices(tiny_study), callbacks=[stopping(), _cut_after(2)])
    run = trainer.train(recipe, open_slices(tiny_study), callbacks=[stopping()])
    assert run.history["epoch"].tolist() == [1, 2, 3, 4, 5]
    lines = []
    trainer.train(recipe, open_slices(tiny_study), callbacks=[stopping()], log=lines.append)
    assert lines == ["run dice has finished after 5 epochs: loaded, not trained again"]
    more = replace(recipe, epochs=22)
    assert len(trainer.train(more, open_slices(tiny_study), callbacks=[stopping()]).history) == 8


def test_a_second_program_waits_for_the_run_and_then_loads_it(finished, recipe, capsys):
    with files.locked(finished.path("models") / ".dice.lock", "training"):
        lines = []
        second = threading.Thread(
            target=trainer.train, args=(recipe, open_slices(finished)), kwargs={"log": lines.append}
        )
        second.start()
        second.join(1)
        assert second.is_alive()
        assert lines == []
    second.join(60)
    assert lines == ["run dice has finished after 4 epochs: loaded, not trained again"]
    assert "waiting: another program is training the run dice" in capsys.readouterr().out


def test_a_run_whose_rate_follows_a_cycle_is_not_extended(tiny_study, recipe):
    """Its epochs shape the learning rate, so 4 epochs are not the first part of 6."""
    recipe = replace(recipe, optimizer="adamw")
    slices = open_slices(tiny_study)
    trainer.train(recipe, slices)
    before = _outcome(tiny_study)
    for epochs in (6, 3):
        with pytest.raises(ValueError, match=rf"epochs 4, now {epochs} \(its learning rate rises"):
            trainer.train(replace(recipe, epochs=epochs), slices)
    assert _same(_outcome(tiny_study), before)
    with pytest.raises(Cut):
        trainer.train(recipe, slices, callbacks=[_cut_after(2)], resume=False)
    with pytest.raises(ValueError, match=r"epochs 4, now 6 \(its learning rate rises"):
        trainer.train(replace(recipe, epochs=6), slices)  # it has not finished either


def test_predictions_of_the_weights_before_do_not_count(finished, recipe):
    """The run is extended and interrupted; then it is trained again with another seed."""
    slices = open_slices(finished)
    prediction.predict_study(models.load_run(finished, "dice"), slices)
    assert list(tables.predicted_runs(finished)) == ["dice"]
    longer = replace(recipe, epochs=6)
    with pytest.raises(Cut):
        trainer.train(longer, slices, callbacks=[_cut_after(5)])
    assert not tables.predicted_runs(finished)
    with pytest.raises(FileNotFoundError, match=r"has not finished \(5 of 6 epochs are done\)"):
        models.load_run(finished, "dice")
    run = trainer.train(longer, slices)
    with pytest.raises(FileNotFoundError, match=r"no dice.csv in .* by the present weights"):
        tables.read_counts(finished, "dice")
    expected = prediction.predict_slices(run, slices.subset("test")[0])
    assert (prediction.predict_study(run, slices) == expected).all()
    again = trainer.train(replace(longer, seed=1), slices, resume=False)
    assert not tables.predicted_runs(finished)
    with pytest.raises(ValueError, match=r"was trained again, .* since it was read: run this"):
        prediction.predict_study(run, slices)
    assert (prediction.predict_study(again, slices) != expected).any()


def test_a_finished_run_opens_no_slices(finished, recipe, monkeypatch):
    slices = open_slices(finished)
    monkeypatch.setattr(trainer.batches, "open_inputs", None)
    assert trainer.train(recipe, slices).recipe == recipe


def test_backups_of_an_unknown_recipe_are_refused(cut, recipe):
    RunFolder.of(cut, "dice").file("run").unlink()
    with pytest.raises(ValueError, match=r"backup holds backups, but .*run.json, .*is missing"):
        trainer.train(replace(recipe, seed=1), open_slices(cut))
    assert trainer.train(recipe, open_slices(cut), resume=False).state.epochs_done == EPOCHS
