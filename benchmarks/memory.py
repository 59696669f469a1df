"""Peak memory of notebooks 01 and 02, by number of volumes, and for a data set of MosMed's size.

    python benchmarks/memory.py NEW_FOLDER     made here and removed at the end

In it 5, 20 and 100 phantom volumes (links to one of 512 x 512 x 42) are sliced and preprocessed, each time in a
process of its own; then 1,110 sliced cases (links again) of 46,620 slices are preprocessed to 256 x 256, as MosMed's
would be: 18 GB on disk.
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


def slice_and_build(folder, count):
    """Slice and preprocess `count` links to one volume; 1,110 are only preprocessed."""
    from covseg_lib import dataset, parallel, slices, storage
    from covseg_lib.study import Study

    study = Study(folder / "study")
    data = folder / "data"
    cases, _ = dataset.pair(data)
    study.create("report", source="folder", dataset=str(data), cases="all", size=256)
    if count <= 100:
        with parallel.executor(workers=2) as pool:
            slices.slice_cases(cases, study, pool=pool)
    else:
        row = slices.slice_cases(cases[:1], study)[0].to_dict("records")[0]
        first = study.path("sliced_case", case=row["case"])
        names = [f"mosmed_{number:04d}" for number in range(count)]
        for name in names:
            os.link(first, study.path("sliced_case", case=name))
        storage.write_csv(study.path("cases"), pd.DataFrame([row | {"case": n, "patient": n} for n in names]))
    slices.build(study, 256)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", type=int, hidden=True)
def main(folder, count):
    """Measure the peak memory."""
    if count:
        return slice_and_build(folder, count)
    if folder.exists():
        raise click.ClickException(f"{folder} is there already: name a new folder, it is removed at the end")
    from covseg_lib import anatomy

    image, mask, _ = anatomy.make_volume((42, 256, 256), 7, np.random.default_rng(1), np.random.default_rng(2))
    print("| volumes | slices | seconds | peak memory, GB |\n|---|---|---|---|")
    for count in (5, 20, 100, 1110):
        shutil.rmtree(folder, ignore_errors=True)
        for place, array in (("CT_scans", image), ("Infection_Mask", mask)):
            (folder / "data" / place).mkdir(parents=True)
            large = array.repeat(2, axis=1).repeat(2, axis=2).transpose(2, 1, 0)
            first = folder / "data" / place / "scan_0000.nii.gz"
            nib.save(nib.Nifti1Image(large, np.diag([-0.7, -0.7, 8, 1])), first)
            for number in range(1, count if count <= 100 else 1):
                os.link(first, first.with_name(f"scan_{number:04d}.nii.gz"))
        start = time.perf_counter()
        command = [sys.executable, __file__, str(folder), "--count", str(count)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0, "the process failed"
        seconds = time.perf_counter() - start
        print(f"| {count} | {42 * count} | {seconds:.0f} | {used.ru_maxrss / 1e6:.2f} |", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
