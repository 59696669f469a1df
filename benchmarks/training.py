"""How fast the U-Net trains: the library, compared with plain Keras and plain PyTorch.

    covseg run --study /tmp/s -p PROFILE report -p DATASET FOLDER --only 01 --only 02
    pip install torch
    python benchmarks/training.py --study /tmp/s

Each measurement is in a process of its own, and all take turns in each round. A training step of
one slice of 256 px needs 72 GFLOP.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import numpy as np
import pandas as pd

from covseg_lib.data.slices import open_slices
from covseg_lib.settings import REPORT_PROFILE
from covseg_lib.study import Study

BATCH, WARM_UP = 8, 2
GFLOP = 72  # a training step of one slice of 256 x 256, counted from the layers


def keras_unet(shape):
    """Return the report's network as in its listings, compiled: float32, Keras' defaults, Adam."""
    import keras
    from keras import layers

    def twice(x, filters):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        return layers.Conv2D(filters, 3, padding="same", activation="relu")(x)

    inputs = x = keras.Input(shape)
    skips = []
    for filters in (32, 64, 128, 256):
        skips.append(twice(x, filters))
        x = layers.MaxPooling2D(2)(skips[-1])
    x = twice(x, 512)
    for filters in (256, 128, 64, 32):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = twice(layers.concatenate([x, skips.pop()]), filters)
    model = keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model


def keras_plain(images, masks, fit=True):
    """Train as in the report's listings: `fit` on arrays."""
    model = keras_unet(images.shape[1:])
    if not fit:
        return lambda first, last: [
            model.train_on_batch(images[start : start + BATCH], masks[start : start + BATCH])
            for start in range(first, last, BATCH)
        ]
    return lambda first, last: model.fit(
        images[first:last], masks[first:last], batch_size=BATCH, verbose=0
    )


def keras_steps(images, masks):
    """Train the network of `keras_plain` step by step, without `fit`."""
    return keras_plain(images, masks, fit=False)


def torch_unet():
    """Return the same network in PyTorch; it returns logits."""
    import torch
    from torch import nn

    def twice(inputs, filters):
        first = nn.Conv2d(inputs, filters, 3, padding=1)
        second = nn.Conv2d(filters, filters, 3, padding=1)
        return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [32, 64, 128, 256, 512]
            self.down = nn.ModuleList(
                twice(a, b) for a, b in zip([1, *widths[:3]], widths[:4], strict=True)
            )
            self.middle = twice(256, 512)
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[3::-1]
            )
            self.merge = nn.ModuleList(twice(2 * w, w) for w in widths[3::-1])
            self.last, self.pool = nn.Conv2d(32, 1, 1), nn.MaxPool2d(2)

        def forward(self, x):
            skips = []
            for block in self.down:
                skips.append(block(x))
                x = self.pool(skips[-1])
            x = self.middle(x)
            for up, merge in zip(self.up, self.merge, strict=True):
                x = merge(torch.cat([skips.pop(), up(x)], dim=1))
            return self.last(x)

    model = UNet()
    assert sum(weights.numel() for weights in model.parameters()) == 7_759_521
    return model


def torch_plain(images, masks, channels_last=False, bfloat16=False):
    """Train the same network in plain PyTorch, float32."""
    import torch
    from torch import nn

    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = torch_unet().to(memory_format=layout)
    optimizer, loss_of = torch.optim.Adam(model.parameters()), nn.BCEWithLogitsLoss()

    def train(first, last):
        for start in range(first, last, BATCH):
            x, y = (
                torch.from_numpy(a[start : start + BATCH]).permute(0, 3, 1, 2)
                for a in (images, masks)
            )
            x = x.to(memory_format=layout)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                found = model(x)
            loss = loss_of(found.float(), y.float())
            loss.backward()
            optimizer.step()
            loss.item()

    return train


def torch_channels_last(images, masks):
    """Train in PyTorch with channels last, float32."""
    return torch_plain(images, masks, channels_last=True)


def torch_bfloat16(images, masks):
    """Train in PyTorch with channels last and bfloat16."""
    return torch_plain(images, masks, channels_last=True, bfloat16=True)


def ours(images, masks, precision="auto", xla=False):
    """Train the library's model, compiled as in the notebooks, on the library's `Batches`."""
    from covseg_lib.training import models, recipes
    from covseg_lib.training.batches import Batches

    names = ("base_filters", "depth", "learning_rate", "seed")
    recipe = recipes.Recipe(
        run="benchmark",
        model="benchmark",
        objective="iou",
        split="slice",
        fold=0,
        epochs=1,
        preprocessing={"size": images.shape[1]},
        batch_size=BATCH,
        precision=precision,
        **{name: REPORT_PROFILE[name] for name in names},
    )
    model = models.compile_model(recipe)
    if xla:
        model.jit_compile = True
    return lambda first, last: model.fit(
        Batches(images, masks, np.arange(first, last), BATCH, seed=0).for_fit(),
        shuffle=False,
        verbose=0,
    )


def ours_float32(images, masks):
    """Train as `ours` in float32."""
    return ours(images, masks, "float32")


def ours_bfloat16(images, masks):
    """Train as `ours` in mixed bfloat16."""
    return ours(images, masks, "mixed_bfloat16")


def ours_xla(images, masks):
    """Train as `ours`, compiled by XLA."""
    return ours(images, masks, xla=True)


def matmul(images, masks):
    """Multiply matrices for as many operations and in the precision of `ours`: the upper limit."""
    import torch

    from covseg_lib.training import devices

    dtype = torch.float32 if devices.dtype_policy("auto") == "float32" else torch.bfloat16
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    products = GFLOP * 1e9 * (images.shape[1] / 256) ** 2 / (2 * 2048**3)  # of a slice
    return lambda first, last: [a @ b for _ in range(round((last - first) * products))]


_ways = [keras_plain, keras_steps, torch_plain, torch_channels_last, torch_bfloat16]
_ways += [ours, ours_float32, ours_bfloat16, ours_xla, matmul]
WAYS = {way.__name__: way for way in _ways}


def measure(name, study, steps):
    """Return the slices a second of a way, measured after `WARM_UP` steps."""
    count = (WARM_UP + steps) * BATCH
    images, masks = open_slices(Study(study)).subset("train")
    images = images[:count]
    masks = masks[:count]
    train = WAYS[name](images, masks)
    train(0, WARM_UP * BATCH)
    start = time.perf_counter()
    train(WARM_UP * BATCH, len(images))
    return (len(images) - WARM_UP * BATCH) / (time.perf_counter() - start)


@click.command(help=__doc__)
@click.option("--study", required=True, type=click.Path(exists=True))
@click.option("--rounds", default=3, show_default=True)
@click.option("--steps", default=5, show_default=True)
@click.option("--only", "names", multiple=True, type=click.Choice(list(WAYS)), default=list(WAYS))
@click.option("--one", hidden=True)
def main(study, rounds, steps, names, one):
    """Measure the ways in turn; print medians, and the ratio of ours to each way."""
    if one:
        click.echo(json.dumps(measure(one, study, steps)))
        return
    results = []
    base = [sys.executable, __file__, "--study", study, "--steps", str(steps)]
    options = {"capture_output": True, "text": True, "cwd": Path(__file__).parents[1]}
    for number in range(rounds):
        for name in names:
            done = subprocess.run([*base, "--one", name], **options)
            if done.returncode:
                raise click.ClickException(done.stderr)
            value = json.loads(done.stdout.splitlines()[-1])
            results.append({"round": number, "name": name, "value": value})
            click.echo(results[-1])
    table = pd.DataFrame(results).pivot(index="round", columns="name", values="value")[list(names)]
    summary = pd.DataFrame({"slices/s": table.median(), "min": table.min(), "max": table.max()})
    if "ours" in table:
        ratios = table.rdiv(table["ours"], axis=0)
        summary["ours / this"] = ratios.median()
        summary["ratio min"], summary["ratio max"] = ratios.min(), ratios.max()
    click.echo(summary.round(2).to_string())


if __name__ == "__main__":
    main()
