"""Phantoms: synthetic chest CT with lesions, to try everything without a download."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from skimage.filters import gaussian

from covseg_lib.data.pairs import Pair
from covseg_lib.images.volumes import to_grey
from covseg_lib.settings import LUNG_WINDOW_HU

AIR_HU, LUNG_HU, FAT_HU, SOFT_TISSUE_HU, BLOOD_HU, BONE_HU = -1000, -870, -100, 50, 40, 350
SLICE_MM = 10.0


@dataclass(frozen=True)
class Phantom:
    """What is drawn, and how the scanner stores it.

    patient, scan : seeds of the body, and of its lesions and noise
    lesions : number; shape : slices, rows, columns; orientation : of the file's axes
    pixel_mm : of a pixel, smaller ones show a larger body; tilt : of the gantry, in degrees
    noise_hu : standard deviation of the scanner's noise
    window_hu : the file has grey levels of this window; None: it has HU
    dense : share of lesions with a dense core; lesion_size : a factor
    """

    patient: int
    scan: int
    lesions: int
    shape: tuple[int, int, int] = (20, 192, 192)
    orientation: str = "LPS"
    pixel_mm: float = 1.9
    noise_hu: float = 28
    window_hu: tuple[int, int] | None = None
    dense: float = 0.5
    lesion_size: float = 1
    tilt: float = 0


# All from one scanner. phantom_01_1 and _2 are one patient, 03 is healthy, 04 is not square.
PHANTOMS = {
    "phantom_01_1": Phantom(1, 1, 6),
    "phantom_01_2": Phantom(1, 2, 3),
    "phantom_02": Phantom(2, 2, 8, (22, 192, 192), "RAS"),
    "phantom_03": Phantom(3, 3, 0, (18, 192, 192), "LAS"),
    "phantom_04": Phantom(4, 4, 6, (20, 150, 192)),
    "phantom_05": Phantom(5, 5, 7, (22, 192, 192), "RAS", window_hu=LUNG_WINDOW_HU),
    "phantom_06": Phantom(6, 6, 5, tilt=5),
    "phantom_07": Phantom(7, 7, 9, orientation="RPI"),
    "phantom_08": Phantom(8, 8, 9),
    "phantom_09": Phantom(9, 9, 4, orientation="RAS"),
    "phantom_10": Phantom(10, 0, 7, (18, 192, 192)),
    "phantom_11": Phantom(11, 1, 5),
}
SMALL = (12, 96, 96)
# Each from another scanner, with another kind of lesion: they differ as patients do.
VARIED_PHANTOMS = {
    "varied_01": Phantom(21, 1, 6, SMALL, "LPS", 3.6, 20, (-1250, 250), 0.5, 1.0),
    "varied_02": Phantom(22, 1, 4, SMALL, "RAS", 3.9, 60, (-1450, 600), 0.0, 1.3),
    "varied_03": Phantom(23, 1, 9, SMALL, "LAS", 3.2, 35, (-1000, 150), 1.0, 0.7),
    "varied_04": Phantom(24, 1, 6, SMALL, "LPS", 3.7, 15, (-900, 400), 0.2, 1.0),
    "varied_05": Phantom(25, 1, 8, SMALL, "RPI", 3.4, 45, (-1350, 150), 0.8, 0.8),
    "varied_06": Phantom(26, 1, 5, SMALL, "RAS", 3.3, 30, (-1450, 500), 0.0, 1.2),
    "varied_07": Phantom(27, 1, 7, SMALL, "LPS", 3.8, 50, (-1000, 100), 0.3, 0.8),
    "varied_08": Phantom(28, 1, 5, SMALL, "LPI", 3.5, 25, (-1500, 350), 1.0, 1.1),
    "varied_09": Phantom(29, 1, 8, SMALL, "LAS", 3.4, 70, (-950, 300), 0.4, 0.9),
    "varied_10": Phantom(30, 1, 5, SMALL, "LPS", 3.2, 20, (-1500, 600), 0.6, 1.2),
    "varied_11": Phantom(31, 1, 7, SMALL, "RAS", 3.6, 55, (-1400, 200), 0.1, 1.0),
    "varied_12": Phantom(32, 1, 6, SMALL, "LPS", 3.9, 30, (-1000, 500), 0.7, 0.9),
}


def draw_phantom(kind: Phantom, seed: int = 0) -> Pair:
    """Draw a phantom, upright: a Pair with an empty header; lungs 1 (right), 2 (left)."""
    disease = np.random.default_rng((seed, kind.patient, kind.scan, 99))
    image, mask, lungs = draw_chest(kind, np.random.default_rng((seed, kind.patient)), disease)
    image = to_grey(image, kind.window_hu, "hu") if kind.window_hu else image
    return Pair(image, mask, nib.Nifti1Header(), lungs)


def draw_chest(
    kind: Phantom, anatomy: np.random.Generator, disease: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one phantom.

    Parameters
    ----------
    kind : Phantom
        Slices run from feet to head, rows from front to back, columns from right to left.
    anatomy, disease : numpy Generator
        The body is drawn from the first, lesions and noise from the second.

    Returns
    -------
    image (S, H, W) int16 in HU, mask (S, H, W) uint8 in {0, 1}, lungs (S, H, W) uint8 in {0, 1, 2}
    """
    shape, sizes = kind.shape, (SLICE_MM, kind.pixel_mm, kind.pixel_mm)
    z, y, x = (
        ((np.arange(n, dtype=np.float32) - (n - 1) / 2) * mm).reshape(np.roll((-1, 1, 1), axis))
        for axis, (n, mm) in enumerate(zip(shape, sizes, strict=True))
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
    for _ in range(kind.lesions):
        _draw_lesion(hu, mask, axes, lungs, kind, disease)
    _draw_airways(hu, x, y, z)
    hu = gaussian(hu, (0.3, 0.6, 0.6))  # the scanner's blur
    hu += kind.noise_hu * _texture(shape, 0.6, disease)  # the scanner's noise
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


def _draw_lesion(hu, mask, axes, lungs, kind, disease):
    """Draw an irregular lesion of ground glass; some have a dense core (consolidation)."""
    z, y, x = axes
    outside = min(80 + 30 * disease.normal(), 125)  # the lungs end before 125 mm
    places = np.argwhere(lungs & (y + np.abs(x) > outside))  # near the pleura, mostly at the back
    at = places[disease.integers(len(places))]
    centre = np.array([z[at[0], 0, 0], y[0, at[1], 0], x[0, 0, at[2]]])
    radii = kind.lesion_size * disease.choice([20, 28, 38, 48]) * disease.uniform(0.75, 1.3, size=3)
    box, parts = _cut_box(axes, centre - 1.5 * radii.max(), centre + 1.5 * radii.max())
    part = hu[box]
    distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(parts, centre, radii, strict=True))
    depth = 1 - distance + 0.25 * _texture(part.shape, 4, disease)  # above 0 inside the lesion
    lesion = (depth > 0) & (distance < 2) & lungs[box]
    glass = disease.uniform(-620, -380) + 45 * _texture(part.shape, 2, disease)
    part[lesion] = np.maximum(part, glass)[lesion]  # vessels are visible in ground glass
    if disease.random() < kind.dense:
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
