"""Peak memory of notebooks 01 and 02, by number of volumes, up to a data set of MosMed's size.

    python benchmarks/memory.py NEW_FOLDER     the folder is removed at the end

5, 20 and 100 phantom volumes (links to one of 512 x 512 x 42) are sliced and preprocessed, each
number in a process of its own. Then 1,110 sliced cases (also links) of 46,620 slices are
preprocessed to 256 x 256, as many as MosMed has: they need 18 GB of disk space.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import nibabel as nib
import numpy as np
import pandas as pd


def slice_and_preprocess(folder, count):
    """Slice and preprocess `count` links to one volume; 1,110 are only preprocessed."""
    from covseg_lib import files, parallel
    from covseg_lib.data import cases, preprocessing, slicing
    from covseg_lib.settings import Reading
    from covseg_lib.study import Study

    study = Study(folder / "study")
    data = folder / "data"
    pairs, _ = cases.pair_files(data)
    study.create("report", source="folder", dataset=str(data), cases="all", size=256)
    if count <= 100:
        with parallel.executor(workers=2) as pool:
            slicing.slice_cases(pairs, study, Reading(step=2), pool)
    else:
        sliced, _ = slicing.slice_cases(pairs[:1], study, Reading(step=2))
        row = sliced.to_dict("records")[0]
        first = study.path("sliced_case", case=row["case"])
        names = [f"mosmed_{number:04d}" for number in range(count)]
        for name in names:
            os.link(first, study.path("sliced_case", case=name))
        rows = [row | {"case": name, "patient": name} for name in names]
        files.write_csv(study.path("cases"), pd.DataFrame(rows))
    preprocessing.preprocess(study, 256)


def make_volumes(folder, count, image, mask):
    """Write an image and its mask, enlarged to 512 x 512, with `count` - 1 links to each."""
    for place, array in (("CT_scans", image), ("Infection_Mask", mask)):
        (folder / "data" / place).mkdir(parents=True)
        large = array.repeat(2, axis=1).repeat(2, axis=2).transpose(2, 1, 0)
        first = folder / "data" / place / "scan_0000.nii.gz"
        nib.save(nib.Nifti1Image(large, np.diag([-0.7, -0.7, 8, 1])), first)
        for number in range(1, count):
            os.link(first, first.with_name(f"scan_{number:04d}.nii.gz"))


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", type=int, hidden=True)
def main(folder, count):
    """Print a row for each number of volumes."""
    if count:
        return slice_and_preprocess(folder, count)
    if folder.exists():
        raise click.ClickException(
            f"{folder} exists: give the name of a new folder, because it is removed at the end"
        )
    from covseg_lib.data import phantom

    anatomy, disease = np.random.default_rng(1), np.random.default_rng(2)
    image, mask, _ = phantom.draw_chest(phantom.Phantom(0, 0, 7, (42, 256, 256)), anatomy, disease)
    print("| volumes | slices | seconds | peak memory, GB |\n|---|---|---|---|")
    for count in (5, 20, 100, 1110):
        shutil.rmtree(folder, ignore_errors=True)
        make_volumes(folder, count if count <= 100 else 1, image, mask)
        start = time.perf_counter()
        command = [sys.executable, __file__, str(folder), "--count", str(count)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0, "the process failed"
        seconds, memory = time.perf_counter() - start, used.ru_maxrss / 1e6
        print(f"| {count} | {42 * count} | {seconds:.0f} | {memory:.2f} |", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
