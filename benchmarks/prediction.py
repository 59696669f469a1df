"""A whole volume through the report's network: ours beside Keras' plain `model.predict`.

    python benchmarks/prediction.py SCAN.nii.gz

Untrained weights, 256 px, step 2, the precision that this machine is fast in for both. Each way is a process of its own
(in turn). "ours" reads the scan, predicts it and writes mask and probability map in its space; "plain" reads it by
nibabel, resizes every slice as ours does into one float32 array, calls `model.predict` on it (batches of 32, Keras'
default), and neither brings the result back to the scan nor writes it. Both counted from the loaded run on, so without
the start of Python and TensorFlow; beside it the part of it that is `model.predict` alone. "plain_untuned" is plain
without the waits of tf.data that docs/training.md describes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import nibabel as nib
import numpy as np

SIZE, STEP = 256, 2


def make_run(folder, objective="dice"):
    """Write the folder of a run of the report's network with untrained weights."""
    from dataclasses import asdict

    import keras
    import pandas as pd

    from covseg_lib import compiling, recipes, storage
    from covseg_lib.study import REPORT

    about = {"size": SIZE, "step": STEP, "window_hu": REPORT["window_hu"], "mean": 90.0, "std": 80.0}
    names = ("base_filters", "depth", "batch_size", "learning_rate", "precision", "seed")
    recipe = recipes.Recipe("untrained", objective, "slice", 0, 1, about, **{name: REPORT[name] for name in names})
    keras.utils.set_random_seed(0)
    folder.mkdir()
    compiling.build_model(recipe).save_weights(folder / "best.weights.h5")
    storage.write_json(folder / "recipe.json", asdict(recipe))
    storage.write_json(folder / "timing.json", {})
    storage.write_csv(folder / "history.csv", pd.DataFrame({"epoch": [1]}))


def ours(run, scan, folder):
    """Predict as the command line does, with a probability map."""
    from covseg_lib import scans

    scans.predict(run, scans.Job(scan, folder / "mask.nii.gz", folder / "map.nii.gz"))


def plain(run, scan, folder, tuned=True):
    """Predict all slices in one array; return the seconds of `model.predict` alone."""
    from covseg_lib import resizing

    about = run.recipe.preprocessing
    volume = np.asanyarray(nib.load(scan).dataobj)
    resized = [resizing.resize_image(volume[::STEP, ::STEP, k], (SIZE, SIZE)) for k in range(volume.shape[2])]
    images = resizing.standardise(np.stack(resized)[..., None], about["mean"], about["std"])
    start = time.perf_counter()
    probabilities = run.model.predict(images if tuned else _untuned(images), verbose=0)
    seconds = time.perf_counter() - start
    np.save(folder / "probabilities.npy", probabilities >= 0.5)
    return seconds


def plain_untuned(run, scan, folder):
    """Predict the same, but tf.data is told not to tune itself."""
    return plain(run, scan, folder, tuned=False)


def _untuned(images):
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices(images).batch(32).prefetch(2).with_options(options)


WAYS = {"ours": ours, "plain": plain, "plain_untuned": plain_untuned}


def one(way, run_folder, scan):
    """Run one way in this process, print seconds as JSON."""
    from covseg_lib import training

    run = training.read_run(run_folder)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        network = WAYS[way](run, scan, Path(folder))
        print(json.dumps([time.perf_counter() - start, network]))


def measure(way, run_folder, scan):
    """Run a way in a process of its own: seconds, seconds of `model.predict` alone or None, peak memory in GB."""
    command = [sys.executable, __file__, str(scan), "--way", way, "--run", str(run_folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"{way} failed"
    return *json.loads(said), used.ru_maxrss / 1e6


@click.command(help=__doc__)
@click.argument("scan", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=3, show_default=True)
@click.option("--way", type=click.Choice(list(WAYS)), hidden=True)
@click.option("--run", "run_folder", type=click.Path(path_type=Path), hidden=True)
def main(scan, rounds, way, run_folder):
    """Measure in turns, and print a row a round."""
    if way:
        return one(way, run_folder, scan)
    with tempfile.TemporaryDirectory() as folder:
        run_folder = Path(folder) / "untrained"
        make_run(run_folder)
        print("| round | way | seconds | of it predict | this / ours | predict / ours | peak memory, GB |")
        print("|---|---|---|---|---|---|---|")
        for number in range(1, rounds + 1):
            measured = {way: measure(way, run_folder, scan) for way in WAYS}
            for way, (seconds, network, memory) in measured.items():
                ratio, of_network = (spent and f"{spent / measured['ours'][0]:.2f}" for spent in (seconds, network))
                cells = (
                    number,
                    way,
                    f"{seconds:.1f}",
                    network and f"{network:.1f}",
                    ratio,
                    of_network,
                    f"{memory:.2f}",
                )
                print(f"| {' | '.join(str(cell or '') for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
