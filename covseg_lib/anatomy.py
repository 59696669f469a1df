"""A chest as CT shows it, drawn from formulas and random numbers.

It is drawn in millimetres (x to the patient's left, y to the back, z to the head, origin between the lungs) and sampled
like a scan: body, ribs, spine, heart and vessels around two lungs, lesions of ground glass and consolidation in them,
then the scanner's blur and noise. What is bright in a lung need not be a lesion: vessels, the fissure and the
gravity-dependent haze at the back are not.
"""

import numpy as np
from skimage.filters import gaussian

AIR_HU, LUNG_HU, FAT_HU, SOFT_TISSUE_HU, BLOOD_HU, BONE_HU = -1000, -870, -100, 50, 40, 350
PIXEL_MM, SLICE_MM = 1.9, 10.0


def make_volume(shape, lesions, anatomy, disease):
    """Draw one phantom.

    Parameters
    ----------
    shape : (S, H, W)
        Slices from feet to head, rows from front to back, columns from the patient's right to left.
    lesions : int
        How many.
    anatomy, disease : numpy Generator
        What the body, and what lesions and noise are drawn from.

    Returns
    -------
    image (S, H, W) int16 in HU, mask (S, H, W) uint8 in {0, 1}, lungs (S, H, W) uint8 in {0, 1, 2}
    """
    z, y, x = (
        ((np.arange(n, dtype=np.float32) - (n - 1) / 2) * mm).reshape(np.roll((-1, 1, 1), axis))
        for axis, (n, mm) in enumerate(zip(shape, (SLICE_MM, PIXEL_MM, PIXEL_MM), strict=True))
    )
    size = anatomy.uniform(0.94, 1.04)  # of this patient
    x, y, z = x / size, y / size, z / size
    hu, chest = _body(x, y, z, anatomy)
    right, left = _lungs(x, y, z, chest, anatomy)
    lungs = right | left
    haze = np.clip((y - 25) / 60, 0, 1) ** 3 * anatomy.uniform(140, 300)  # blood sinks to the back
    hu[lungs] = (LUNG_HU + haze + 25 * _texture(shape, 3, anatomy))[lungs]
    fissure = np.abs(y * 0.8 + z * 0.6 - anatomy.uniform(-5, 20)) < 1.2
    hu[lungs & fissure] += 110
    _draw_vessels(hu, x, y, z, right, anatomy)
    _draw_vessels(hu, x, y, z, left, anatomy)
    mask = np.zeros(shape, bool)
    for _ in range(lesions):
        _draw_lesion(hu, mask, x, y, z, lungs, disease)
    _draw_airways(hu, x, y, z)
    hu = gaussian(hu, (0.3, 0.6, 0.6))  # the scanner's blur
    hu += 28 * _texture(shape, 0.6, disease)  # and its noise
    image = np.clip(np.round(hu), -1024, 3071).astype(np.int16)
    return image, mask.astype(np.uint8), (right * 1 + left * 2).astype(np.uint8)


def _body(x, y, z, anatomy):
    """Return a chest without lungs, in HU, and the room inside its ribs (below 1 in it)."""
    wide, deep = anatomy.uniform(160, 172), anatomy.uniform(108, 118)
    skin = (np.abs(x) / wide) ** 2.4 + (np.abs(y) / deep) ** 2.4 + 0 * z
    chest = (np.abs(x) / (wide - 28)) ** 2.3 + (np.abs(y + 3) / (deep - 24)) ** 2.3 + (np.abs(z + 12) / 145) ** 6
    hu = np.full(skin.shape, AIR_HU, np.float32)
    hu[skin < 1] = FAT_HU
    muscle = (np.abs(x) / (wide - 10)) ** 2.4 + (np.abs(y) / (deep - 9)) ** 2.4 < 1
    hu[np.broadcast_to(muscle, hu.shape)] = SOFT_TISSUE_HU
    angle = np.arctan2(y, np.abs(x))  # -pi/2 in front, pi/2 at the back
    rib = (z / 24 + 1.3 * np.sin(angle) + anatomy.uniform()) % 1 < 0.45  # ribs fall towards the front
    ring = (chest > 1.03) & (chest < 1.24) & (np.abs(x) > 18)
    hu[ring & rib] = BONE_HU
    marrow = (chest > 1.08) & (chest < 1.18) & (np.abs(x) > 18)
    hu[marrow & rib] = 180
    blade = (np.abs(np.abs(x) - 95 - 0.5 * (y - 75)) < 5) & (np.abs(y - 78) < 24) & (z > 20) & (chest > 1.3)
    hu[blade] = BONE_HU
    disc = np.where((z / 28) % 1 < 0.25, 90, 220)
    for reach, value in ((1.0, BONE_HU + 100), (0.86, disc)):  # cortex, then the inside of a vertebra
        vertebra = (x / 19) ** 2 + ((y - deep + 46) / 15) ** 2 < reach
        hu = np.where(vertebra & (hu > AIR_HU), value, hu)
    process = (np.abs(x) < 4) & (np.abs(y - deep + 18) < 13) | (np.abs(np.abs(x) - 16) < 14) & (
        np.abs(y - deep + 27) < 4
    )
    hu = np.where(process & (skin < 0.96), BONE_HU, hu)
    hu = np.where((x / 8) ** 2 + ((y - deep + 26) / 8) ** 2 < 1, 20, hu)  # the spinal canal
    hu = np.where((np.abs(x) < 17) & (np.abs(y + deep - 17) < 5), 230, hu)  # the breastbone
    fat = (x / 30) ** 2 + ((y + 42) / 40) ** 2 < np.where(z > 12, 1, 0)  # around the great vessels
    for vessel_x, vessel_y in ((-17, -22), (-2, -40), (14, -24)):
        fat = fat & ((x - vessel_x) ** 2 + (y - vessel_y) ** 2 > 90)
    hu = np.where(fat, FAT_HU + 30, hu)
    table = np.abs(y - deep - 14 + 0.0012 * x**2)
    hu = np.where((table < 1.5) & (np.abs(x) < 190) & (skin > 1), -150, hu)
    return hu.astype(np.float32), chest


def _lungs(x, y, z, chest, anatomy):
    """Return right and left lung: the room inside the ribs but for mediastinum, heart and what the diaphragm lifts."""
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


def _draw_vessels(hu, x, y, z, lung, anatomy):
    """Draw arteries that fork from the lung's root outwards, each fork thinner than its stem."""
    side = np.sign((np.broadcast_to(x, lung.shape)[lung]).mean())
    stems = []
    for _ in range(9):
        direction = anatomy.normal(size=3) * (1, 1, 0.5) + (0, 0, side * 0.8)
        stems.append((np.array([-8.0, 8.0, side * 34]), direction / np.linalg.norm(direction), 5.0))
    while stems:
        start, direction, radius = stems.pop()
        end = start + anatomy.uniform(14, 30) * direction
        _draw_tube(hu, x, y, z, start, end, radius, lung)
        if radius > 1.1:
            for _ in range(2):
                turned = direction + 0.55 * anatomy.normal(size=3)
                stems.append((end, turned / np.linalg.norm(turned), radius * 0.74))


def _draw_tube(hu, x, y, z, start, end, radius, lung):
    """Draw what lies within `radius` mm of the line from `start` to `end` (z, y, x), in the lung."""
    half_slice = np.array([SLICE_MM / 2, 0, 0])  # a slice shows all that its thickness holds
    box = _box(x, y, z, np.minimum(start, end) - radius - half_slice, np.maximum(start, end) + radius + half_slice)
    places = (z[box[0]] - start[0], y[:, box[1]] - start[1], x[:, :, box[2]] - start[2])
    way = end - start
    along = np.clip(sum(place * part for place, part in zip(places, way, strict=True)) / (way @ way), 0, 1)
    dz, dy, dx = (place - along * part for place, part in zip(places, way, strict=True))
    dz = np.maximum(np.abs(dz) - SLICE_MM / 2, 0)
    tube = (dx**2 + dy**2 + dz**2 < radius**2) & lung[box]
    hu[box][tube] = BLOOD_HU - 250 * (radius < 1.5)  # thin vessels do not fill their slice


def _box(x, y, z, low, high):
    """Return the part (slices, rows, columns) of a volume from `low` to `high` (z, y, x) in mm."""
    return tuple(slice(*np.searchsorted(axis.ravel(), ends)) for axis, *ends in zip((z, y, x), low, high, strict=True))


def _draw_lesion(hu, mask, x, y, z, lungs, disease):
    """Draw a ragged lesion, mostly near the pleura and at the back: ground glass, half of them with a dense core."""
    outside = min(80 + 30 * disease.normal(), 125)  # no lung reaches farther
    places = np.argwhere(lungs & (y + np.abs(x) > outside))
    at = places[disease.integers(len(places))]
    centre = np.array([z[at[0], 0, 0], y[0, at[1], 0], x[0, 0, at[2]]])
    radii = disease.choice([20, 28, 38, 48]) * disease.uniform(0.75, 1.3, size=3)
    box = _box(x, y, z, centre - 1.5 * radii.max(), centre + 1.5 * radii.max())
    part, axes = hu[box], (z[box[0]], y[:, box[1]], x[:, :, box[2]])
    distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True))
    depth = 1 - distance + 0.25 * _texture(part.shape, 4, disease)  # above 0 inside, ragged at the rim
    lesion = (depth > 0) & (distance < 2) & lungs[box]
    glass = disease.uniform(-620, -380) + 45 * _texture(part.shape, 2, disease)
    part[lesion] = np.maximum(part, glass)[lesion]  # vessels show through ground glass
    if disease.random() < 0.5:
        core = lesion & (depth > disease.uniform(0.5, 0.8))
        part[core] = (20 + 20 * _texture(part.shape, 2, disease))[core]  # and vanish in consolidation
    mask[box] |= lesion


def _draw_airways(hu, x, y, z):
    """Draw the windpipe and, below its fork, the two main bronchi."""
    fork = 15
    spread = np.clip(fork - z, 0, 45) * 0.75
    airway = ((np.abs(x) - spread) / 8.5) ** 2 + ((y - 8) / 8.5) ** 2 < np.where(z > fork - 45, 1, 0)
    hu[airway & (hu > LUNG_HU)] = AIR_HU


def _texture(shape, sigma, rng):
    """Return smooth random values of mean 0 and deviation 1; `sigma` in pixels, a third of it across slices."""
    noise = gaussian(rng.standard_normal(shape, dtype=np.float32), (sigma / 3, sigma, sigma))
    return noise / noise.std()
