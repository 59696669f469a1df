"""How fast the U-Net trains on a GPU: the library, plain Keras `fit`, and plain PyTorch.

    python benchmarks/gpu.py             slices of the report's sizes, made here
    python benchmarks/gpu.py --study S   the slices of a study
    python benchmarks/gpu.py --tiny      a check, also without a GPU; its times mean nothing

Each measurement is in a process of its own, and all take turns in each round. An epoch trains all
training slices and evaluates all validation slices. It needs the project's packages, and one of
jax, tensorflow and torch for Keras; `KERAS_BACKEND` chooses.
"""

import importlib.util
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
import pandas as pd
from training import GFLOP, keras_unet, torch_unet

from covseg_lib import colab
from covseg_lib.data import preprocessing
from covseg_lib.data.slices import open_slices
from covseg_lib.study import Study

VOLUMES = (418, 93, 66, 42, 42)  # slices of the report's volumes, 661 in all
TINY_VOLUMES = (8, 4, 4, 4, 4)
BATCH, LARGE_BATCH = 8, 32
REPORT_EPOCHS, TRAININGS = 450, 3  # 100 + 100 + 250
NEEDS_TORCH = ("torch_eager", "torch_compiled", "torch_batch_32", "product")


def make_study(folder, tiny):
    """Write phantom volumes, bright discs in noise, and a study of their slices."""
    size, rng = (32 if tiny else 256), np.random.default_rng(0)
    rows, columns = np.indices((size, size)) / size - 0.5
    for number, count in enumerate(TINY_VOLUMES if tiny else VOLUMES):
        radius = np.abs(np.linspace(-0.3, 0.3, count))
        masks = (np.hypot(rows, columns)[..., None] < radius).astype(np.uint8)
        images = rng.integers(0, 128, masks.shape, np.uint8) + 100 * masks
        for name, voxels in (("CT_scans", images), ("Infection_Mask", masks)):
            path = Path(folder, "dataset", name, f"phantom_{number}.nii.gz")
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    study = Study(Path(folder, "study"))
    study.create(
        "report", source="folder", dataset=f"{folder}/dataset", cases="all", step=1, size=size
    )
    preprocessing.prepare_study(study)
    return study


def ours(study, epochs, batch=BATCH):
    """Train as notebook 05 does, with history, best weights and backups."""
    import keras

    from covseg_lib.training import recipes, trainer

    class Clock(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            times.append(time.perf_counter())

    times = [time.perf_counter()]
    recipe = recipes.make_recipe(study, "dice", "benchmark", epochs, batch_size=batch)
    slices = open_slices(study)
    trainer.train(recipe, slices, [Clock()], resume=False, backup_every=10, log=lambda line: None)
    return np.diff(times)


def ours_batch_32(study, epochs):
    """Train as `ours`, with 32 slices a batch."""
    return ours(study, epochs, LARGE_BATCH)


def ours_steps(study, epochs):
    """Train on one batch again and again: the steps alone, nothing evaluated or written."""
    import keras

    from covseg_lib.training import models, recipes

    class OneBatch(keras.utils.PyDataset):
        def __len__(self):
            return steps

        def __getitem__(self, number):
            return batch

    (images, masks), _ = load(study)
    steps, times = -(-len(images) // BATCH), [time.perf_counter()]
    batch = tuple(keras.ops.convert_to_tensor(array[:BATCH]) for array in (images, masks))
    model = models.compile_model(recipes.make_recipe(study, "dice"))
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: times.append(time.perf_counter())
    )
    model.fit(OneBatch(), epochs=epochs, verbose=0, shuffle=False, callbacks=[clock])
    return np.diff(times)


def keras_fit(study, epochs):
    """Train as the report's listings do: `fit` on arrays, float32."""
    import keras

    train, validation = load(study)
    times = [time.perf_counter()]
    model = keras_unet(train[0].shape[1:])
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: times.append(time.perf_counter())
    )
    options = {"epochs": epochs, "batch_size": BATCH, "verbose": 0, "callbacks": [clock]}
    model.fit(*train, validation_data=validation, **options)
    return np.diff(times)


def torch_eager(study, epochs, batch=BATCH, compiled=False):
    """Train in PyTorch: bfloat16, channels last, all slices on the device."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True

    def on_device(array):  # (N, 1, H, W), channels last in memory
        return torch.from_numpy(np.ascontiguousarray(array)).to(device).permute(0, 3, 1, 2)

    (images, masks), (val_images, val_masks) = (map(on_device, part) for part in load(study))
    times = [time.perf_counter()]
    model = torch_unet().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), fused=device == "cuda")
    loss_of = torch.nn.BCEWithLogitsLoss()
    if compiled:  # the check on a CPU needs no compiler
        model = torch.compile(model, backend="inductor" if device == "cuda" else "eager")

    def loss_on(x, y):
        with torch.autocast(device, torch.bfloat16):
            found = model(x)
        return loss_of(found.float(), y.float())

    def batches(count):  # the last one is filled up, so that nothing is compiled again
        order = torch.randperm(count, device=device)
        order = order.repeat(-(-batch // count) + 1)[: -(-count // batch) * batch]
        return order.split(batch)

    for _ in range(epochs):
        total = 0
        for rows in batches(len(images)):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_on(images[rows], masks[rows])
            loss.backward()
            optimizer.step()
            total += loss.detach()
        with torch.no_grad():
            for rows in batches(len(val_images)):
                total += loss_on(val_images[rows], val_masks[rows])
        float(total)  # waits for the device
        times.append(time.perf_counter())
    return np.diff(times)


def torch_compiled(study, epochs):
    """Train as `torch_eager`, compiled."""
    return torch_eager(study, epochs, compiled=True)


def torch_batch_32(study, epochs):
    """Train as `torch_compiled`, with 32 slices a batch."""
    return torch_eager(study, epochs, LARGE_BATCH, compiled=True)


def product(study, epochs):
    """Multiply bfloat16 matrices for as many operations as an epoch has: the upper limit."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 8192 if device == "cuda" else 512
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    count, times = max(1, round(operations(study) / (2 * side**3))), [time.perf_counter()]
    for _ in range(epochs):
        for _ in range(count):
            c = a @ b
        float(c[0, 0])
        times.append(time.perf_counter())
    return np.diff(times)


_ways = [ours, ours_batch_32, ours_steps, keras_fit]
_ways += [torch_eager, torch_compiled, torch_batch_32, product]
WAYS = {way.__name__: way for way in _ways}


def load(study):
    """Return images and masks of the training slices, and of the validation slices."""
    slices = open_slices(study)
    return [slices.subset(part) for part in ("train", "validation")]


def operations(study):
    """Return the arithmetic operations of an epoch; evaluation is a third of training."""
    train, validation = (len(images) for images, _ in load(study))
    size = study.settings()["size"]
    return GFLOP * 1e9 * (size / 256) ** 2 * (train + validation / 3)


def peak_memory(name):
    """Return the largest memory of the GPU in use in this process, in GB; NaN without a GPU."""
    if not colab.has_gpu():
        return float("nan")
    backend = "torch" if name in NEEDS_TORCH else os.environ["KERAS_BACKEND"]
    if backend == "jax":
        import jax

        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 1e9
    if backend == "torch":
        import torch

        return torch.cuda.max_memory_allocated() / 1e9
    import tensorflow as tf

    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e9


def measure(name, study, epochs):
    """Run one way; return seconds of the first epoch and of each other, and the peak memory."""
    seconds = WAYS[name](study, epochs)
    return {
        "first epoch": seconds[0],
        "each other": float(np.median(seconds[1:])),
        "peak GB": peak_memory(name),
    }


def summary(results, study):
    """Return a table of medians over the rounds."""
    table = pd.DataFrame(results).groupby("way", sort=False).median().drop(columns="round")
    slices = len(load(study)[0][0])
    table["slices/s"] = slices / table["each other"]
    if "product" in table.index:
        table["of the product"] = table.loc["product", "each other"] / table["each other"]
    others = (REPORT_EPOCHS - TRAININGS) * table["each other"]
    table[f"{REPORT_EPOCHS} epochs"] = TRAININGS * table["first epoch"] + others
    return table


@click.command(help=__doc__)
@click.option("--study", type=click.Path(path_type=Path, exists=True))
@click.option("--tiny", is_flag=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--epochs", default=12, show_default=True)
@click.option("--only", "names", multiple=True, type=click.Choice(list(WAYS)), default=list(WAYS))
@click.option("--one", hidden=True)
def main(study, tiny, rounds, epochs, names, one):
    """Measure the ways in turn; print every measurement, and medians."""
    backends = ("jax", "tensorflow", "torch")
    installed = [name for name in backends if importlib.util.find_spec(name)]
    os.environ.setdefault("KERAS_BACKEND", installed[0])
    if one:
        click.echo(json.dumps(measure(one, Study(study), epochs)))
        return
    if tiny:
        rounds, epochs = 1, 2
    if "torch" not in installed:
        click.echo("PyTorch is not installed: its rows and the share of the product are left out")
        names = [name for name in names if name not in NEEDS_TORCH]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        study = Study(study) if study else make_study(folder, tiny)
        click.echo(f"{colab.device()}; Keras on {os.environ['KERAS_BACKEND']}")
        base = [sys.executable, __file__, "--study", str(study.root), "--epochs", str(epochs)]
        for number in range(rounds):
            for name in names:
                command = [*base, "--one", name]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise click.ClickException(f"{name}: {done.stderr}")
                row = {"round": number, "way": name} | json.loads(done.stdout.splitlines()[-1])
                results.append(row)
                click.echo(row)
        click.echo(summary(results, study).round(3).to_string())
    click.echo(f"{REPORT_EPOCHS} epochs: computed, {TRAININGS} first ones and the others")


if __name__ == "__main__":
    main()
