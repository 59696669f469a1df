"""The phantom data set: synthetic chest CT with lesions, to try everything without a download."""

from pathlib import Path

import nibabel as nib
import numpy as np
from skimage.filters import gaussian

from covseg_lib import __version__, files, parallel
from covseg_lib.data.volumes import Pair, to_grey

PHANTOMS = {  # case: (patient's seed, lesions, (slices, rows, columns), orientation in the file)
    "phantom_01_1": (1, 6, (20, 192, 192), "LPS"),
    "phantom_01_2": (1, 3, (20, 192, 192), "LPS"),  # the same patient later
    "phantom_02": (2, 8, (22, 192, 192), "RAS"),
    "phantom_03": (3, 0, (18, 192, 192), "LAS"),  # a healthy chest
    "phantom_04": (4, 6, (20, 150, 192), "LPS"),  # not square
    "phantom_05": (5, 7, (22, 192, 192), "RAS"),  # grey levels 0..255 instead of HU
    "phantom_06": (6, 5, (20, 192, 192), "LPS"),  # with a tilted gantry
    "phantom_07": (7, 9, (20, 192, 192), "RPI"),
    "phantom_08": (8, 9, (20, 192, 192), "LPS"),
    "phantom_09": (9, 4, (20, 192, 192), "RAS"),
    "phantom_10": (10, 7, (18, 192, 192), "LPS"),
    "phantom_11": (11, 5, (20, 192, 192), "LPS"),
}
SUBFOLDERS = ("CT_scans", "Infection_Mask", "Lung_Mask")
AIR_HU, LUNG_HU, FAT_HU, SOFT_TISSUE_HU, BLOOD_HU, BONE_HU = -1000, -870, -100, 50, 40, 350
PIXEL_MM, SLICE_MM = 1.9, 10.0


def write_dataset(folder: Path, seed: int = 0) -> Path:
    """Write the phantom data set, twelve volumes of eleven patients, and return its folder.

    Images (CT_scans) are int16 in HU, one is uint8 in 0..255. Lesion masks (Infection_Mask) hold 0
    and 1, lung masks (Lung_Mask) 0, 1 (right) and 2 (left). The same seed gives the same voxels.
    If all phantoms of this seed exist already, they are not drawn again.
    """
    marker, drawn = folder / "phantoms.json", {"seed": seed, "version": __version__}
    paths = [folder / name / f"{case}.nii.gz" for name in SUBFOLDERS for case in PHANTOMS]
    if marker.exists() and files.read_json(marker) == drawn and all(p.exists() for p in paths):
        return folder
    marker.unlink(missing_ok=True)
    with parallel.executor() as pool:
        jobs = [(folder, case, seed) for case in PHANTOMS]
        parallel.run_jobs(pool, _write_case, jobs, "phantoms")
    files.write_json(marker, drawn)
    return folder


def _write_case(folder, case, seed):
    pair = draw_phantom(case, seed)
    for name, array in zip(SUBFOLDERS, (pair.image, pair.mask, pair.lungs), strict=True):
        with files.atomic(folder / name / f"{case}.nii.gz") as temporary:
            nib.save(_to_nifti(array, case), temporary)


def draw_phantom(case: str, seed: int = 0) -> Pair:
    """Draw one of `PHANTOMS`, upright: a Pair with an empty header; lungs 1 (right), 2 (left)."""
    patient, lesions, shape, _ = PHANTOMS[case]
    disease = np.random.default_rng((seed, patient, int(case[-1]), 99))
    image, mask, lungs = draw_chest(shape, lesions, np.random.default_rng((seed, patient)), disease)
    return Pair(to_grey(image) if case == "phantom_05" else image, mask, nib.Nifti1Header(), lungs)


def _to_nifti(array, case):
    """Return an upright (S, H, W) array as a NIfTI image with the case's orientation and tilt."""
    tilt = np.deg2rad(5 if case == "phantom_06" else 0)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)  # x to the left, y to the back: LPS
    affine[:3, :3] = turn @ np.diag([-PIXEL_MM, -PIXEL_MM, SLICE_MM])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(array.shape[::-1]) - 1) / 2
    image = nib.Nifti1Image(np.transpose(array, (2, 1, 0)), affine)
    lps, wanted = (nib.orientations.axcodes2ornt(codes) for codes in ("LPS", PHANTOMS[case][-1]))
    image = image.as_reoriented(nib.orientations.ornt_transform(lps, wanted))
    image.header.set_xyzt_units("mm")
    return image


def draw_chest(
    shape: tuple[int, int, int],
    lesions: int,
    anatomy: np.random.Generator,
    disease: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one phantom.

    Parameters
    ----------
    shape : (S, H, W)
        Slices from feet to head, rows from front to back, columns from the patient's right to left.
    lesions : int
        Number of lesions.
    anatomy, disease : numpy Generator
        The body is drawn from the first, lesions and noise from the second.

    Returns
    -------
    image (S, H, W) int16 in HU, mask (S, H, W) uint8 in {0, 1}, lungs (S, H, W) uint8 in {0, 1, 2}
    """
    z, y, x = (
        ((np.arange(n, dtype=np.float32) - (n - 1) / 2) * mm).reshape(np.roll((-1, 1, 1), axis))
        for axis, (n, mm) in enumerate(zip(shape, (SLICE_MM, PIXEL_MM, PIXEL_MM), strict=True))
    )
    size = anatomy.uniform(0.94, 1.04)  # of this patient
    axes = z, y, x = z / size, y / size, x / size  # in mm from the centre, (S, 1, 1) to (1, 1, W)
    hu, chest = _draw_body(x, y, z, anatomy)
    right, left = _lungs(x, y, z, chest, anatomy)
    lungs = right | left
    haze = np.clip((y - 25) / 60, 0, 1) ** 3 * anatomy.uniform(140, 300)  # blood sinks to the back
    hu[lungs] = (LUNG_HU + haze + 25 * _texture(shape, 3, anatomy))[lungs]
    fissure = np.abs(y * 0.8 + z * 0.6 - anatomy.uniform(-5, 20)) < 1.2
    hu[lungs & fissure] += 110
    _draw_vessels(hu, axes, right, anatomy)
    _draw_vessels(hu, axes, left, anatomy)
    mask = np.zeros(shape, bool)
    for _ in range(lesions):
        _draw_lesion(hu, mask, axes, lungs, disease)
    _draw_airways(hu, x, y, z)
    hu = gaussian(hu, (0.3, 0.6, 0.6))  # the scanner's blur
    hu += 28 * _texture(shape, 0.6, disease)  # the scanner's noise
    image = np.clip(np.round(hu), -1024, 3071).astype(np.int16)
    return image, mask.astype(np.uint8), (right * 1 + left * 2).astype(np.uint8)


def _draw_body(x, y, z, anatomy):
    """Return a chest without lungs in HU, and a field that is below 1 inside the ribs."""
    wide, deep = anatomy.uniform(160, 172), anatomy.uniform(108, 118)
    across = np.abs(x)
    skin = (across / wide) ** 2.4 + (np.abs(y) / deep) ** 2.4 + 0 * z
    chest = (across / (wide - 28)) ** 2.3 + (np.abs(y + 3) / (deep - 24)) ** 2.3
    chest = chest + (np.abs(z + 12) / 145) ** 6
    hu = np.full(skin.shape, AIR_HU, np.float32)

    def fill(where, value):
        np.copyto(hu, value, where=where)

    fill(skin < 1, FAT_HU)
    fill((across / (wide - 10)) ** 2.4 + (np.abs(y) / (deep - 9)) ** 2.4 < 1, SOFT_TISSUE_HU)
    angle = np.arctan2(y, across)  # -pi/2 in front, pi/2 at the back
    # Ribs fall towards the front.
    rib = (across > 18) & ((z / 24 + 1.3 * np.sin(angle) + anatomy.uniform()) % 1 < 0.45)
    fill(rib & (chest > 1.03) & (chest < 1.24), BONE_HU)
    fill(rib & (chest > 1.08) & (chest < 1.18), 180)  # marrow
    shoulder_blade = (np.abs(across - 95 - 0.5 * (y - 75)) < 5) & (np.abs(y - 78) < 24) & (z > 20)
    fill(shoulder_blade & (chest > 1.3), BONE_HU)
    vertebra = (x / 19) ** 2 + ((y - deep + 46) / 15) ** 2
    fill((vertebra < 1.0) & (hu > AIR_HU), BONE_HU + 100)  # its cortex
    fill((vertebra < 0.86) & (hu > AIR_HU), np.where((z / 28) % 1 < 0.25, 90, 220))  # disc, bone
    spinous = (across < 4) & (np.abs(y - deep + 18) < 13)
    transverse = (np.abs(across - 16) < 14) & (np.abs(y - deep + 27) < 4)
    fill((spinous | transverse) & (skin < 0.96), BONE_HU)
    fill((x / 8) ** 2 + ((y - deep + 26) / 8) ** 2 < 1, 20)  # the spinal canal
    fill((across < 17) & (np.abs(y + deep - 17) < 5), 230)  # the breastbone
    fat = (x / 30) ** 2 + ((y + 42) / 40) ** 2 < np.where(z > 12, 1, 0)  # around the great vessels
    for vessel_x, vessel_y in ((-17, -22), (-2, -40), (14, -24)):
        fat = fat & ((x - vessel_x) ** 2 + (y - vessel_y) ** 2 > 90)
    fill(fat, FAT_HU + 30)
    table = np.abs(y - deep - 14 + 0.0012 * x**2)
    fill((table < 1.5) & (across < 190) & (skin > 1), -150)
    return hu, chest


def _lungs(x, y, z, chest, anatomy):
    """Return right and left lung: inside the ribs, without mediastinum, heart and diaphragm."""
    dome = anatomy.uniform(-85, -70)  # height of the diaphragm's rim
    mediastinum = np.abs(x + 3) < 8 + (20 + 9 * np.cos(z / 40)) * np.exp(-(((y + 4) / 52) ** 2))
    spine = (x / 32) ** 2 + ((y - 70) / 34) ** 2 < 1
    heart = ((x - 26) / 56) ** 2 + ((y + 28) / 46) ** 2 + ((z + 45) / 62) ** 2 < 1
    aorta = ((x - 24) / 16) ** 2 + ((y - 45) / 16) ** 2 < 1
    apex = 1 - np.clip((z - 10) / 130, 0, 1) ** 2.5 * 0.75  # lungs narrow towards the neck
    lungs = []
    for side, lift in ((-1, 48), (1, 38)):
        inside = (chest < 0.97 * apex) & (side * x > 4)
        liver = z < dome + lift * (1 - ((x - side * 62) / 85) ** 2 - ((y + 5) / 95) ** 2)
        lungs.append(inside & ~(mediastinum | spine | heart | aorta | liver))
    return lungs


def _draw_vessels(hu, axes, lung, anatomy):
    """Draw arteries that fork from the lung's root outwards and become thinner at each fork."""
    side = np.sign((np.broadcast_to(axes[2], lung.shape)[lung]).mean())
    stems = []
    for _ in range(9):
        direction = anatomy.normal(size=3) * (1, 1, 0.5) + (0, 0, side * 0.8)
        stems.append((np.array([-8.0, 8.0, side * 34]), direction / np.linalg.norm(direction), 5.0))
    while stems:
        start, direction, radius = stems.pop()
        end = start + anatomy.uniform(14, 30) * direction
        _draw_tube(hu, axes, start, end, radius, lung)
        if radius > 1.1:
            for _ in range(2):
                turned = direction + 0.55 * anatomy.normal(size=3)
                stems.append((end, turned / np.linalg.norm(turned), radius * 0.74))


def _draw_tube(hu, axes, start, end, radius, lung):
    """Draw the part of the lung within `radius` mm of the line from `start` to `end` (z, y, x)."""
    half_slice = np.array([SLICE_MM / 2, 0, 0])  # a slice shows everything within its thickness
    low, high = np.minimum(start, end) - radius, np.maximum(start, end) + radius
    box, parts = _cut_box(axes, low - half_slice, high + half_slice)
    places = [part - origin for part, origin in zip(parts, start, strict=True)]
    way = end - start
    along = np.clip(sum(p * w for p, w in zip(places, way, strict=True)) / (way @ way), 0, 1)
    dz, dy, dx = (p - along * w for p, w in zip(places, way, strict=True))
    dz = np.maximum(np.abs(dz) - SLICE_MM / 2, 0)
    tube = (dx**2 + dy**2 + dz**2 < radius**2) & lung[box]
    hu[box][tube] = BLOOD_HU - 250 * (radius < 1.5)  # thin vessels do not fill their slice


def _cut_box(axes, low, high):
    """Return a volume's part from `low` to `high` (z, y, x in mm): its slices, and its axes."""
    ends = zip(axes, low, high, strict=True)
    box = tuple(slice(*np.searchsorted(axis.ravel(), (start, end))) for axis, start, end in ends)
    z, y, x = axes
    return box, (z[box[0]], y[:, box[1]], x[:, :, box[2]])


def _draw_lesion(hu, mask, axes, lungs, disease):
    """Draw an irregular lesion of ground glass; half of them have a dense core (consolidation)."""
    z, y, x = axes
    outside = min(80 + 30 * disease.normal(), 125)  # the lungs end before 125 mm
    places = np.argwhere(lungs & (y + np.abs(x) > outside))  # near the pleura, mostly at the back
    at = places[disease.integers(len(places))]
    centre = np.array([z[at[0], 0, 0], y[0, at[1], 0], x[0, 0, at[2]]])
    radii = disease.choice([20, 28, 38, 48]) * disease.uniform(0.75, 1.3, size=3)
    box, parts = _cut_box(axes, centre - 1.5 * radii.max(), centre + 1.5 * radii.max())
    part = hu[box]
    distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(parts, centre, radii, strict=True))
    depth = 1 - distance + 0.25 * _texture(part.shape, 4, disease)  # above 0 inside the lesion
    lesion = (depth > 0) & (distance < 2) & lungs[box]
    glass = disease.uniform(-620, -380) + 45 * _texture(part.shape, 2, disease)
    part[lesion] = np.maximum(part, glass)[lesion]  # vessels are visible in ground glass
    if disease.random() < 0.5:
        core = lesion & (depth > disease.uniform(0.5, 0.8))
        consolidation = 20 + 20 * _texture(part.shape, 2, disease)
        part[core] = consolidation[core]  # vessels are not visible in consolidation
    mask[box] |= lesion


def _draw_airways(hu, x, y, z):
    """Draw the windpipe and, below its fork, the two main bronchi."""
    spread = np.clip(15 - z, 0, 45) * 0.75  # the fork is at z = 15 mm
    airway = ((np.abs(x) - spread) / 8.5) ** 2 + ((y - 8) / 8.5) ** 2
    hu[(airway < np.where(z > -30, 1, 0)) & (hu > LUNG_HU)] = AIR_HU


def _texture(shape, sigma, rng):
    """Return smooth noise of mean 0 and deviation 1; `sigma` in pixels, a third across slices."""
    noise = gaussian(rng.standard_normal(shape, dtype=np.float32), (sigma / 3, sigma, sigma))
    return noise / noise.std()
