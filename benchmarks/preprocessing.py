"""How long slicing and preprocessing take: the report's listings and notebooks 01 and 02, in turn.

    python benchmarks/preprocessing.py FOLDER             a data set in the Zenodo record's layout
    python benchmarks/preprocessing.py --phantom FOLDER   makes one of the same shapes there first

listings : the report's Listings 2.1 and 2.2.
ours : what notebooks 01 and 02 do.
floor : gunzips and reads every file and writes as many bytes as ours: the least that one core with
    zlib can do.

Each way runs `--rounds` times, in a process of its own, whose start counts. The output has the
medians of seconds, of peak memory and of the rounds' ratios. The phantom data set has 20 volumes
with 3,520 slices.
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
    """Run Listings 2.1 and 2.2, changed only as needed today: get_fdata, and lists of slices."""
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
    np.save(out / "grey.npy", images)  # for `compare`; small compared with images.npy
    images = images[..., np.newaxis].astype("float32")
    images -= np.mean(images)
    images /= np.std(images)
    np.save(out / "images.npy", images)
    np.save(out / "masks.npy", images_resizing(masks_train)[..., np.newaxis])


def ours(folder, out):
    """Slice and preprocess as notebooks 01 and 02 do."""
    from covseg_lib import parallel
    from covseg_lib.data import cases, preprocessing, slicing
    from covseg_lib.settings import Reading
    from covseg_lib.study import Study

    study = Study(out / "study")
    pairs, left_over = cases.pair_files(folder)
    with parallel.executor() as pool:
        study.create("report", source="folder", dataset=str(folder), cases="all")
        slicing.slice_cases(pairs, study, Reading(step=2), pool, left_over=left_over)
    preprocessing.preprocess(study, SIZE)


def floor(folder, out):
    """Gunzip and read every file; write as many bytes as ours."""
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
    """Run a way in its own process; return seconds, peak memory in GB, and its output folder."""
    out = Path(tempfile.mkdtemp(prefix=f"{way}_"))
    start = time.perf_counter()
    command = [sys.executable, __file__, "--way", way, "--out", str(out), str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{way} failed with status {status}")
    return time.perf_counter() - start, used.ru_maxrss / 1e6, out


def compare(folder, listings_folder, our_study):
    """Compare the results of listings and ours on the volumes whose values are in 0..255.

    HU volumes are left out, because the listings' cast to uint8 makes their values meaningless.

    Returns
    -------
    largest difference in grey levels; share of mask pixels that differ; number of slices compared
    """
    from covseg_lib.data.slices import open_slices
    from covseg_lib.study import Study

    slices = open_slices(Study(our_study))
    their_grey, their_masks = (
        np.load(listings_folder / name, mmap_mode="r") for name in ("grey.npy", "masks.npy")
    )
    worst, differing, compared = 0.0, 0, 0
    for row, case in enumerate(slices.table["case"]):
        if nib.load(folder / IMAGES / f"{case}.nii.gz").get_data_dtype() != np.uint8:
            continue
        grey = slices.images[row, ..., 0] * slices.about["std"] + slices.about["mean"]
        worst = max(worst, float(np.abs(grey - _upright(their_grey[row])).max()))
        mask = slices.masks[row, ..., 0]
        their_mask = _upright(their_masks[row, ..., 0]) > 0
        differing += np.count_nonzero(mask != their_mask)
        compared += 1
    return worst, differing / (compared * SIZE**2), compared


def _upright(image):
    """Turn a slice of the listings, which is in the file's order, as the library shows it."""
    return image.T[::-1, ::-1]


def make_phantom(folder):
    """Write a data set of the Zenodo record's shapes, from phantom slices with different noise."""
    from covseg_lib.data import phantom
    from covseg_lib.images import volumes

    anatomy, disease = np.random.default_rng(1), np.random.default_rng(2)
    drawn = phantom.draw_chest(phantom.Phantom(0, 0, 7, (20, 256, 256)), anatomy, disease)[:2]
    shapes = [(f"coronacases_{n:03d}", s, 512, 512) for n, s in enumerate(HU_SLICES, 1)]
    shapes += [
        (f"radiopaedia_{n}_0", s, 630, 401 if s == 110 else 630)
        for n, s in enumerate(GREY_SLICES, 1)
    ]
    for name, count, width, height in shapes:
        noise = np.random.default_rng(count)
        columns, rows = (np.arange(n) * 256 // n for n in (width, height))
        pick = np.ix_(columns[::-1], rows[::-1], np.arange(count) * 20 // count)  # stored as RAS
        image, mask = (array.transpose(2, 1, 0)[pick] for array in drawn)
        image = image + noise.integers(-20, 21, image.shape, np.int16)
        image = volumes.to_grey(image) if name.startswith("radio") else image
        for place, array in ((IMAGES, image), (MASKS, mask)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            volume = nib.Nifti1Image(array, np.diag([0.7, 0.7, 1, 1]))
            nib.save(volume, folder / place / f"{name}.nii.gz")


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--phantom", is_flag=True, help="First make a phantom data set in FOLDER.")
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
        rounds = zip(measured["listings"], measured[way], strict=True)
        ratio = np.median([theirs[0] / this[0] for theirs, this in rounds])
        print(f"| {way} | {seconds:.1f} | {memory:.2f} | {ratio:.1f} |")
    print(
        f"\n{compared} slices of 0..255 volumes: grey levels differ by {worst:.2f} at most, masks "
        f"in {differing:.3%} of all pixels (the listing rounds the edges of lesions down to 0)"
    )


if __name__ == "__main__":
    main()
