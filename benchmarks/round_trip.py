"""How much of a mask slicing and resizing lose: true masks at the network's size and back.

    python benchmarks/round_trip.py FOLDER     a data set in a layout that docs/data.md lists

Each case's mask is sliced by `step`, resized to `size` as in notebook 02, resized back as a
prediction is, written as NIfTI and read again. The Dice of the result with the original mask is the
highest that a network of that size can reach.
"""

import tempfile
from pathlib import Path

import click
import nibabel as nib
import numpy as np
import pandas as pd

from covseg_lib.data import cases
from covseg_lib.evaluation import metrics
from covseg_lib.images import geometry, nifti, resizing, volumes
from covseg_lib.scans import segment
from covseg_lib.settings import LESION_THRESHOLD

WAYS = [(1, None), (2, None), (1, 256), (2, 256), (2, 128), (2, 64)]  # step; size or no resizing


def send_there_and_back(case, step, size, folder):
    """Return the Dice of a case's mask and its copy, and whether all voxels are identical."""
    mask, header = volumes.read_volume(case.mask, step)
    back = np.zeros(geometry.upright_shape(header), np.uint8)
    for number, lesions in enumerate((mask > 0).astype(np.uint8)):
        small = resizing.resize_mask(lesions, (size, size)) if size else lesions
        back[number] = segment.to_scan(small, header, step) >= LESION_THRESHOLD
    path = folder / "back.nii.gz"
    nifti.write_mask(path, back, header)
    before, after = (np.asanyarray(nib.load(name).dataobj) > 0 for name in (case.mask, path))
    return metrics.dice(before, after), bool((before == after).all())


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def main(folder):
    """Print a row for each case."""
    rows = []
    for case in cases.pair_files(folder)[0]:
        row = {"case": case.name}
        for step, size in WAYS:
            with tempfile.TemporaryDirectory() as temporary:
                dice, identical = send_there_and_back(case, step, size, Path(temporary))
            name = f"step {step}, {f'{size} px' if size else 'not resized'}"
            row[name] = "identical" if identical else f"{dice:.4f}"
        rows.append(row)
        click.echo(rows[-1])
    table = pd.DataFrame(rows)
    lines = [table.columns, ["---"] * table.shape[1], *table.to_numpy()]
    click.echo("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
