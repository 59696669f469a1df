"""Make the model that ships from a run of notebook 08: small files, without backups.

    python benchmarks/ship_model.py study/models/final covseg_lib/shipped

The run and its lung model are copied with weights as float16, which halves them or more.
"""

import io
from dataclasses import replace
from pathlib import Path

import click
import h5py

from covseg_lib import files
from covseg_lib.training import models
from covseg_lib.training.recipes import run_name
from covseg_lib.training.run_folder import RunFolder, checksum_of_weights

SMALL = 4096  # numbers


@click.command(help=__doc__)
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("place", type=click.Path(path_type=Path))
def main(run, place):
    """Copy a run, and its lung model if it has one, into the folder `place`."""
    recipe = RunFolder(run).read_finished().recipe
    lungs = ""
    if recipe.lungs not in ("none", "given"):
        name = run_name(recipe.lungs, recipe.fold)
        lungs = copy_small(run.with_name(name), place / name).checksum
    copy_small(run, place / run.name, lungs)


def copy_small(source, target, lungs=""):
    """Copy a run; return its state. `lungs` is the checksum of the copied lung model."""
    if target.exists():
        raise click.ClickException(f"{target} exists: choose another folder, or remove it first")
    run = models.read_run(source)
    copy = RunFolder(target)
    with files.atomic(copy.file("weights")) as temporary:
        small = models.build_model(run.recipe, "float16")
        small.set_weights(run.model.get_weights())
        small.save_weights(temporary)
        compress(temporary)
    files.write_csv(copy.file("history"), run.history)
    weights = checksum_of_weights(copy.file("weights"))
    copy.write(replace(run.state, weights=weights, lungs=lungs, made={}))
    return copy.read()


def compress(path):
    """Compress the arrays in a file of Keras weights, in place."""
    with h5py.File(io.BytesIO(path.read_bytes())) as before, h5py.File(path, "w") as after:

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                kind = "gzip" if item.size > SMALL else None  # small arrays would grow
                after.create_dataset(name, data=item[...], compression=kind)
            else:
                after.require_group(name).attrs.update(item.attrs)

        after.attrs.update(before.attrs)
        before.visititems(copy)


if __name__ == "__main__":
    main()
