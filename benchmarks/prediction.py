"""How long a whole volume takes: the library, compared with Keras' plain `model.predict`.

    python benchmarks/prediction.py SCAN.nii.gz

Both use the report's network with untrained weights, 256 px, step 2, and the precision that is
fastest on this machine. They take turns, each in a process of its own.

ours : reads the scan, predicts it, and writes mask and probability map in the scan's space.
plain : reads the scan with nibabel, resizes all slices as ours does into one float32 array, and
    calls `model.predict` with its default batch size of 32. It does not resize the result back to
    the scan, and does not write it as NIfTI.
plain_untuned : plain without the waits of tf.data that docs/training.md describes.

Times start after the run is loaded, so they leave out the start of Python and TensorFlow. The
second time of a row is that of `model.predict` alone.
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
COLUMNS = ("round", "way", "seconds", "predict", "this / ours", "predict / ours", "peak memory, GB")


def make_run(folder, objective="dice"):
    """Write the folder of a run of the report's network with untrained weights."""
    import keras

    from covseg_lib.settings import REPORT_PROFILE
    from covseg_lib.training import models, recipes
    from covseg_lib.training.run_folder import RunFolder

    about = {"size": SIZE, "step": STEP, "window_hu": REPORT_PROFILE["window_hu"]}
    about |= {"mean": 90.0, "std": 80.0, "case_means": [-0.5, 0.5]}
    names = ("base_filters", "depth", "batch_size", "learning_rate", "precision", "seed")
    settings = {name: REPORT_PROFILE[name] for name in names}
    recipe = recipes.Recipe(
        run="untrained",
        model="untrained",
        objective=objective,
        split="slice",
        fold=0,
        epochs=1,
        preprocessing=about,
        **settings,
    )
    keras.utils.set_random_seed(0)
    run = RunFolder(folder)
    run.start(recipe, [{"epoch": 1}], trained_on={}, lungs="")
    models.build_model(recipe).save_weights(run.file("weights"))
    run.finish(timing={})


def ours(run, scan, folder):
    """Predict lesions and lungs as `covseg predict` does, with a probability map."""
    from covseg_lib.scans import jobs, segmenters
    from covseg_lib.training import models

    lungs = models.read_run(segmenters.SHIPPED_LUNGS)
    segmenter = segmenters.Segmenter((run,), (lungs,), run.rules)
    job = jobs.ScanJob(scan, folder / "mask.nii.gz", probabilities=folder / "map.nii.gz")
    jobs.segment_job(segmenter, job)


def plain(run, scan, folder, autotune=True):
    """Predict all slices in one array; return the seconds of `model.predict` alone."""
    from covseg_lib.images import resizing

    about = run.recipe.preprocessing
    volume = np.asanyarray(nib.load(scan).dataobj)[::STEP, ::STEP]
    resized = [
        resizing.resize_image(volume[..., number], (SIZE, SIZE))
        for number in range(volume.shape[2])
    ]
    images = resizing.standardise(np.stack(resized)[..., None], about["mean"], about["std"])
    start = time.perf_counter()
    probabilities = run.model.predict(images if autotune else _untuned(images), verbose=0)
    seconds = time.perf_counter() - start
    np.save(folder / "mask.npy", probabilities >= 0.5)
    return seconds


def plain_untuned(run, scan, folder):
    """Predict as `plain` with a tf.data.Dataset that does not tune itself."""
    return plain(run, scan, folder, autotune=False)


def _untuned(images):
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices(images).batch(32).prefetch(2).with_options(options)


WAYS = {"ours": ours, "plain": plain, "plain_untuned": plain_untuned}


def run_way(way, run_folder, scan):
    """Run one way in this process; print its seconds, and those of `model.predict`, as JSON."""
    from covseg_lib.training import models

    run = models.read_run(run_folder)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        network = WAYS[way](run, scan, Path(folder))
        print(json.dumps([time.perf_counter() - start, network]))


def measure(way, run_folder, scan):
    """Run a way in a process of its own.

    Returns
    -------
    seconds; seconds of `model.predict` alone, or None; peak memory in GB
    """
    command = [sys.executable, __file__, str(scan), "--way", way, "--run", str(run_folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen(command, **pipes)
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"{way} failed"
    return *json.loads(output), used.ru_maxrss / 1e6


def print_row(*cells):
    """Print a row of a Markdown table; None gives an empty cell."""
    texts = ["" if cell is None else str(cell) for cell in cells]
    print(f"| {' | '.join(texts)} |", flush=True)


@click.command(help=__doc__)
@click.argument("scan", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=3, show_default=True)
@click.option("--way", type=click.Choice(list(WAYS)), hidden=True)
@click.option("--run", "run_folder", type=click.Path(path_type=Path), hidden=True)
def main(scan, rounds, way, run_folder):
    """Measure the ways in turn, and print a row for each."""
    if way:
        return run_way(way, run_folder, scan)
    with tempfile.TemporaryDirectory() as folder:
        run_folder = Path(folder) / "untrained"
        make_run(run_folder)
        print_row(*COLUMNS)
        print_row(*["---"] * len(COLUMNS))
        for number in range(1, rounds + 1):
            measured = {way: measure(way, run_folder, scan) for way in WAYS}
            base = measured["ours"][0]
            for way, (seconds, network, memory) in measured.items():
                predict, predict_ratio = None, None
                if network:
                    predict, predict_ratio = f"{network:.1f}", f"{network / base:.2f}"
                ratio = f"{seconds / base:.2f}"
                print_row(
                    number, way, f"{seconds:.1f}", predict, ratio, predict_ratio, f"{memory:.2f}"
                )


if __name__ == "__main__":
    main()
