"""Slicing and preprocessing: the report's Listings 2.1 and 2.2 against notebooks 01 and 02, in turn.

    python benchmarks/preprocessing.py FOLDER         a data set in the Zenodo record's layout
    python benchmarks/preprocessing.py --phantom DIR  make one of its shapes there first (20 volumes, 3,520 slices)

Each way is a process of its own, start-up counted, run in turn `--rounds` times; the medians of seconds, of peak memory
and of the rounds' ratios are shown. "floor" gunzips and reads every file
and writes as many bytes as ours: with one core and zlib, less cannot be done.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import nibabel as nib
import numpy as np

SIZE = 256
WAYS = ("listings", "ours", "floor")
IMAGES, MASKS = "COVID-19-CT-Seg_20cases", "Infection_Mask"
HU_SLICES = (301, 200, 200, 270, 290, 213, 249, 301, 256, 301)
GREY_SLICES = (39, 418, 110, 66, 42, 42, 45, 93, 39, 45)


def listings(folder, out):
    """Run Listings 2.1 and 2.2, put right only so far as they run today: get_fdata for get_data, lists for arrays."""
    from skimage.transform import resize

    imgs_train, masks_train = [], []
    for path in sorted((folder / IMAGES).iterdir()):
        training_mask = nib.load(folder / MASKS / path.name)
        training_image = nib.load(path)
        for k in range(training_image.shape[2]):
            imgs_train.append(np.array(training_image.get_fdata()[::2, ::2, k]))
        for k in range(training_mask.shape[2]):
            masks_train.append(np.array(training_mask.get_fdata()[::2, ::2, k]))

    def images_resizing(imgs):
        imgs_p = np.ndarray((len(imgs), SIZE, SIZE), dtype=np.uint8)
        for i in range(len(imgs)):
            with np.errstate(invalid="ignore"):
                imgs_p[i] = resize(imgs[i], (SIZE, SIZE), preserve_range=True)
        return imgs_p

    images = images_resizing(imgs_train)
    np.save(out / "grey.npy", images)  # for the comparison; small beside what follows
    images = images[..., np.newaxis].astype("float32")
    images -= np.mean(images)
    images /= np.std(images)
    np.save(out / "images.npy", images)
    np.save(out / "masks.npy", images_resizing(masks_train)[..., np.newaxis])


def ours(folder, out):
    """Do what notebooks 01 and 02 do."""
    from covseg_lib import dataset, parallel, slices
    from covseg_lib.study import Study

    study = Study(out / "study")
    cases, left_over = dataset.pair(folder)
    with parallel.executor() as pool:
        study.create("report", source="folder", dataset=str(folder), cases="all")
        slices.slice_cases(cases, study, pool=pool, left_over=left_over)
    slices.build(study, SIZE)


def floor(folder, out):
    """Gunzip and read every file; write what ours writes."""
    count = sum(nib.load(path).shape[2] for path in (folder / IMAGES).iterdir())
    for path in sorted([*(folder / IMAGES).iterdir(), *(folder / MASKS).iterdir()]):
        with gzip.open(path) as file:
            while file.read(1 << 24):
                pass
    with open(out / "bytes", "wb") as file:
        for _ in range(count):
            file.write(bytes(2 * 300**2 + (4 + 1) * SIZE**2))  # sliced_data, then images and masks
        os.fsync(file.fileno())


def measure(way, folder):
    """Run a way in a process of its own; return seconds, peak memory in GB, and where its results lie."""
    out = Path(tempfile.mkdtemp(prefix=f"{way}_"))
    start = time.perf_counter()
    command = [sys.executable, __file__, "--way", way, "--out", str(out), str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{way} failed with status {status}")
    return time.perf_counter() - start, used.ru_maxrss / 1e6, out


def compare(folder, theirs, our_study):
    """Return the largest difference in grey levels, and the share of mask pixels that differ, on 0..255 volumes."""
    from covseg_lib import slices, storage
    from covseg_lib.study import Study

    study = Study(our_study)
    about, table = storage.read_json(study.path("preprocessing")), slices.table(study)
    images, our_masks = (np.load(study.path(name), mmap_mode="r") for name in ("images", "masks"))
    grey, masks = (np.load(theirs / name, mmap_mode="r") for name in ("grey.npy", "masks.npy"))
    worst, differing, compared = 0.0, 0, 0
    for row, case in enumerate(table["case"]):
        if nib.load(folder / IMAGES / f"{case}.nii.gz").get_data_dtype() == np.uint8:  # a cast of HU is nonsense
            image = images[row, ..., 0] * about["std"] + about["mean"]
            worst = max(worst, float(np.abs(image - grey[row].T[::-1, ::-1]).max()))
            differing += np.count_nonzero(our_masks[row, ..., 0] != (masks[row, ..., 0].T[::-1, ::-1] > 0))
            compared += 1
    return worst, differing / (compared * SIZE**2), compared


def make_phantom(folder):
    """Write a data set of the Zenodo record's shapes: phantom slices, enlarged, repeated, each with its own noise."""
    from covseg_lib import anatomy, volumes

    drawn = anatomy.make_volume((20, 256, 256), 7, np.random.default_rng(1), np.random.default_rng(2))[:2]
    shapes = [(f"coronacases_{n:03d}", s, 512, 512) for n, s in enumerate(HU_SLICES, 1)]
    shapes += [(f"radiopaedia_{n}_0", s, 630, 401 if s == 110 else 630) for n, s in enumerate(GREY_SLICES, 1)]
    for name, count, width, height in shapes:
        noise = np.random.default_rng(count)
        columns, rows = (np.arange(n) * 256 // n for n in (width, height))
        pick = np.ix_(columns[::-1], rows[::-1], np.arange(count) * 20 // count)  # stored as RAS
        image, mask = (array.transpose(2, 1, 0)[pick] for array in drawn)
        image = image + noise.integers(-20, 21, image.shape, np.int16)
        image = volumes.to_grey(image) if name.startswith("radio") else image
        for place, array in ((IMAGES, image), (MASKS, mask)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([0.7, 0.7, 1, 1])), folder / place / f"{name}.nii.gz")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--phantom", is_flag=True, help="Make a data set of the Zenodo record's shapes in FOLDER first.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--way", type=click.Choice(WAYS), hidden=True)
@click.option("--out", type=click.Path(path_type=Path), hidden=True)
def main(folder, phantom, rounds, way, out):
    """Measure the three ways on a data set."""
    if way:
        return {"listings": listings, "ours": ours, "floor": floor}[way](folder, out)
    if phantom and not folder.exists():
        make_phantom(folder)
    measured = {way: [] for way in WAYS}
    for number in range(rounds):
        results = {}
        for way in WAYS:
            seconds, memory, results[way] = measure(way, folder)
            measured[way].append((seconds, memory))
            print(f"round {number + 1}: {way} {seconds:.1f} s, {memory:.2f} GB", flush=True)
        worst, differing, compared = compare(folder, results["listings"], results["ours"] / "study")
        for out in results.values():
            shutil.rmtree(out)
    print("\n| way | seconds | peak memory, GB | listings / this |\n|---|---|---|---|")
    for way in WAYS:
        seconds, memory = np.median(measured[way], axis=0)
        ratio = np.median([theirs[0] / its[0] for theirs, its in zip(measured["listings"], measured[way], strict=True)])
        print(f"| {way} | {seconds:.1f} | {memory:.2f} | {ratio:.1f} |")
    print(
        f"\n{compared} slices of 0..255 volumes: grey levels differ by {worst:.2f} at most, masks in "
        f"{differing:.3%} of all pixels (at a lesion's rim the listing rounds down what its resize made of 0 and 1)"
    )


if __name__ == "__main__":
    main()
