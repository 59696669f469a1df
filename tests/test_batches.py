"""What the network sees of a study's slices: channels, normalisation, sampling."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from covseg_lib.data.slices import open_slices
from covseg_lib.training import batches, devices


@pytest.fixture
def landmarks(tiny_study, tiny_recipe):
    """A recipe with all channels, and a study whose lungs are the lesions and the pixel beside."""
    masks = np.load(tiny_study.path("masks"))
    lungs = np.zeros_like(masks)
    lungs[:, :, :8] = 1
    np.save(tiny_study.path("lungs"), lungs)
    recipe = replace(tiny_recipe, normalisation="volume", neighbours=1, lungs="given")
    return recipe, tiny_study, lungs


def test_the_reports_inputs_are_the_standardised_slices(tiny_study, tiny_recipe):
    slices = open_slices(tiny_study)
    inputs = batches.open_inputs(tiny_recipe, slices)
    masks = batches.true_masks(tiny_recipe, slices)
    images = np.load(tiny_study.path("images"))
    assert (inputs[np.arange(25)] == images).all()
    assert inputs[np.array([3])].dtype == np.float32
    assert (masks == np.load(tiny_study.path("masks"))).all()


def test_neighbours_and_lungs_become_channels(landmarks):
    recipe, study, lungs = landmarks
    inputs = batches.open_inputs(recipe, open_slices(study))[np.arange(25)]
    assert inputs.shape == (25, 16, 16, recipe.channels) == (25, 16, 16, 4)
    assert (inputs[1:4, ..., 0] == inputs[0:3, ..., 1]).all()  # the slice below
    assert (inputs[1:4, ..., 2] == inputs[2:5, ..., 1]).all()  # the slice above
    assert (inputs[4, ..., 2] == inputs[4, ..., 1]).all()  # none above: the next case begins
    assert (inputs[5, ..., 0] == inputs[5, ..., 1]).all()
    assert (inputs[..., 3] == lungs[..., 0]).all()


def test_each_volume_gets_its_own_mean_and_deviation(landmarks):
    recipe, study, _ = landmarks
    inputs = batches.open_inputs(recipe, open_slices(study))[np.arange(25)]
    for first in range(0, 25, 5):
        volume = inputs[first : first + 5, ..., 1]
        assert volume.mean() == pytest.approx(0, abs=1e-5)
        assert volume.std() == pytest.approx(1, abs=1e-5)


def test_a_recipe_of_lungs_needs_lungs(tiny_study, tiny_recipe):
    with pytest.raises(FileNotFoundError, match=r"no lungs.npy .*if every case has a lung mask"):
        batches.true_masks(replace(tiny_recipe, target="lungs"), open_slices(tiny_study))
    with pytest.raises(FileNotFoundError, match=r"no lungs_fold1_lungs.npy .* run notebook 08"):
        batches.open_inputs(replace(tiny_recipe, lungs="lungs", fold=1), open_slices(tiny_study))
    with pytest.raises(ValueError, match='"landmarks" needs lung masks: set lungs to "given"'):
        batches.open_inputs(
            replace(tiny_recipe, normalisation="landmarks"), open_slices(tiny_study)
        )


def test_patients_and_lesions_are_drawn_equally_often():
    """Patient a has 90 slices with one lesion, patient b has 10 with five, c has none."""
    patients = pd.Series(["a"] * 90 + ["b"] * 10 + ["c"] * 20)
    has_lesion = pd.Series(np.isin(np.arange(120), [7, 91, 93, 95, 97, 99]))
    rng = np.random.default_rng(0)
    rows = np.arange(1000, 1120)
    drawn = np.concatenate(
        [batches.balanced_rows(120, rows, patients, has_lesion, rng) for _ in range(50)]
    )
    assert drawn.shape == (6000,)
    lesion, any_slice = drawn[1::2] - 1000, drawn[::2] - 1000
    assert has_lesion[lesion].all()
    assert (patients[lesion] == "a").mean() == pytest.approx(1 / 2, abs=0.03)
    for patient in "abc":
        assert (patients[any_slice] == patient).mean() == pytest.approx(1 / 3, abs=0.03)


def _batches(recipe, study):
    """Return the training batches and the validation batches of a recipe."""
    slices = open_slices(study)
    return batches.training_batches(recipe, slices), batches.validation_batches(recipe, slices)


def test_balanced_training_batches_are_of_training_slices(tiny_study, tiny_recipe):
    recipe = replace(tiny_recipe, sampling="balanced", batch_size=4)
    train, validation = _batches(recipe, tiny_study)
    rows = np.concatenate(train.batches)
    allowed = open_slices(tiny_study).rows("train")
    assert set(rows) <= set(allowed)
    assert len(rows) == 25  # as many as the study has, in every fold
    masks = np.load(tiny_study.path("masks"))[rows]
    assert masks.any(axis=(1, 2, 3))[1::2].all()
    expected = open_slices(tiny_study).rows("validation")
    assert sorted(np.concatenate(validation.batches)) == sorted(expected)


def test_without_selection_validation_slices_are_trained_on(tiny_study, tiny_recipe):
    train, validation = _batches(replace(tiny_recipe, selection="none"), tiny_study)
    allowed = open_slices(tiny_study).rows("train", "validation")
    assert sorted(np.concatenate(train.batches)) == sorted(allowed)
    assert set(np.concatenate(validation.batches)) < set(allowed)


def test_tensorflow_reads_the_batches_in_the_order_of_the_epoch(tiny_study, tiny_recipe):
    pytest.importorskip("tensorflow")
    train, _ = _batches(tiny_recipe, tiny_study)
    read = train.for_fit()
    for epoch in (0, 1):
        train.shuffle(epoch)
        found = list(read.as_numpy_iterator())
        assert len(found) == len(train) == len(read)
        for number, pair in enumerate(found):
            assert all((a == b).all() for a, b in zip(pair, train[number], strict=True))


def test_threads_prepare_augmented_batches_only(tiny_study, tiny_recipe):
    plain, validation = _batches(tiny_recipe, tiny_study)
    augmented, _ = _batches(replace(tiny_recipe, augmentation=True), tiny_study)
    assert (plain.workers, validation.workers, augmented.workers) == (1, 1, 2)
    assert augmented.for_fit() is augmented


@pytest.mark.parametrize(
    ("size", "validation"),
    [(8, 5), (4, 4)],  # of 15 and 5 slices; 4 does not divide 5
)
def test_where_each_size_is_compiled_batches_have_one(
    tiny_study, tiny_recipe, monkeypatch, size, validation
):
    monkeypatch.setattr(devices, "compiles_each_size", lambda: True)
    recipe = replace(tiny_recipe, batch_size=size)
    train, held_out = _batches(recipe, tiny_study)
    assert {len(batch) for batch in train.batches} == {size}
    order = np.random.default_rng((0, 0)).permutation(train.rows)
    for number, batch in enumerate(train.batches):
        own = order[number * size : (number + 1) * size]
        assert (batch == np.resize(own, size)).all()  # the last is filled by its own slices
    assert held_out.batch_size == validation
    assert sorted(np.concatenate(held_out.batches)) == sorted(held_out.rows)  # each once


def test_augmented_batches_follow_from_seed_and_epoch(tiny_study, tiny_recipe):
    recipe = replace(tiny_recipe, augmentation=True)
    train, validation = _batches(recipe, tiny_study)
    again = _batches(recipe, tiny_study)[0]
    first = train[0]
    assert all((a == b).all() for a, b in zip(first, again[0], strict=True))
    assert (train[0][0] == first[0]).all()
    train.shuffle(1)
    train.shuffle(0)
    assert (train[0][0] == first[0]).all()
    plain = _batches(tiny_recipe, tiny_study)
    assert (first[0] != plain[0][0][0]).any()
    assert (validation[0][0] == plain[1][0][0]).all()


FITTED = """
import keras, numpy as np
from covseg_lib.training import batches

class Tell(keras.layers.Layer):
    def call(self, inputs):
        if hasattr(inputs, "__array__") and type(inputs).__name__ != "KerasTensor":
            try:
                told.append(int(np.asarray(inputs)[0, 0, 0, 0]))
            except Exception:  # a tracer has no values
                pass
        return inputs

def augmentation(images, masks, seed):
    _, epoch, number = seed
    return np.full_like(images, 100 * epoch + number), masks

told, images = [], np.zeros((20, 4, 4, 1), np.float32)
train = batches.Batches(images, images, np.arange(20), 4, seed=0, augmentation=augmentation)
output = keras.layers.Conv2D(1, 1, activation="sigmoid")
model = keras.Sequential([keras.Input((4, 4, 1)), Tell(), output])
model.compile("sgd", "binary_crossentropy", run_eagerly=True)
shuffle = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: train.shuffle(epoch))
told.clear()
model.fit(train.for_fit(), initial_epoch=2, epochs=4, shuffle=False, verbose=0, callbacks=[shuffle])
print(told)
"""


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.slow)])
def test_a_resumed_training_sees_the_augmented_batches_of_its_epochs(backend, project, monkeypatch):
    pytest.importorskip(backend)
    monkeypatch.setenv("KERAS_BACKEND", backend)
    command = [sys.executable, "-c", FITTED]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    wanted = [100 * epoch + number for epoch in (2, 3) for number in range(5)]
    assert done.stdout == f"{wanted}\n", done.stderr
