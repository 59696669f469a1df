"""What slicing and resizing cost a mask: the true lesions sent to the network's size and back, per case.

    python benchmarks/round_trip.py FOLDER         a data set in any layout that docs/data.md lists

Dice of each case's lesion mask with itself, once it has been sliced by `step`, resized to `size` as notebook 02 does,
brought back as a prediction is, and read again from the NIfTI file that was written. No network scores higher.
"""

import tempfile
from pathlib import Path

import click
import nibabel as nib
import numpy as np
import pandas as pd

from covseg_lib import dataset, orientation, prediction, resizing, scores, volumes
from covseg_lib.study import LESION_FROM

WAYS = [(1, None), (2, None), (1, 256), (2, 256), (2, 128), (2, 64)]  # step, size (None: not resized)


def there_and_back(case, step, size, folder):
    """Return the Dice of a case's mask with what comes back of it, and whether the two files' voxels are identical."""
    mask, header = volumes.read_volume(case.mask, step)
    back = np.zeros(orientation.shape(header), np.uint8)
    for number, lesions in enumerate(mask > 0):
        small = resizing.resize_mask(lesions.astype(np.uint8), (size, size)) if size else lesions
        back[number] = prediction.to_scan(small, header, step) >= LESION_FROM
    volumes.write_mask(folder / "back.nii.gz", back, header)
    before, after = (np.asanyarray(nib.load(path).dataobj) > 0 for path in (case.mask, folder / "back.nii.gz"))
    return scores.dice(before, after), bool((before == after).all())


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def main(folder):
    """Print a row a case."""
    rows = []
    for case in dataset.pair(folder)[0]:
        row = {"case": case.name}
        for step, size in WAYS:
            with tempfile.TemporaryDirectory() as place:
                dice, same = there_and_back(case, step, size, Path(place))
            row[f"step {step}, {f'{size} px' if size else 'not resized'}"] = "identical" if same else f"{dice:.4f}"
        rows.append(row)
        click.echo(rows[-1])
    table = pd.DataFrame(rows)
    lines = [table.columns, ["---"] * table.shape[1], *table.to_numpy()]
    click.echo("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
