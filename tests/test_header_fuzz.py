"""Headers with one wrong field, through covseg predict and notebook 01's slicing."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from conftest import write_volume
from test_real_inputs import AFFINE, HU, LESION

from covseg_lib import files
from covseg_lib.data import slicing
from covseg_lib.data.cases import Case
from covseg_lib.images import geometry
from covseg_lib.scans import jobs, segmenters
from covseg_lib.settings import DEFAULT_READING


def _changed_header(sound, rng):
    """Return the bytes of a header in which one number, or one byte of a text, is another one."""
    fields = nib.Nifti1Header.template_dtype.fields
    name = list(fields)[rng.integers(len(fields))]
    kind, offset = fields[name][0].base, fields[name][1]
    changed = bytearray(sound)
    if kind.kind == "S":
        changed[offset + rng.integers(kind.itemsize)] = rng.integers(256)
        return name, bytes(changed)
    if kind.kind == "f":
        value = rng.choice(
            [0, -1, 1, 0.5, 2, np.nan, np.inf, 1e10, -1e10, 1e-10, rng.normal() * 10]
        )
    else:
        limits = np.iinfo(kind)
        some = [-1, 0, 1, 2, 4, 8, 16, 64, 512, 768, limits.max, rng.integers(limits.max)]
        value = np.clip(int(rng.choice(some)), limits.min, limits.max)
    place = offset + kind.itemsize * rng.integers(fields[name][0].itemsize // kind.itemsize)
    changed[place : place + kind.itemsize] = np.array(value, kind).tobytes()
    return name, bytes(changed)


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_wrong_field_is_refused_or_changes_nothing(trained_once, tmp_path, count):
    """No traceback, no mask that SimpleITK finds elsewhere, no other volume without a warning."""
    itk = pytest.importorskip("SimpleITK")
    header = nib.Nifti1Image(HU, AFFINE).header
    header.set_qform(AFFINE, 1)
    header.set_sform(AFFINE, 1)
    header.set_xyzt_units("mm", "sec")
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, 1, 0
    voxels, scan = bytes(4) + HU.tobytes(order="F"), tmp_path / "scan.nii"
    scan.write_bytes(header.binaryblock + voxels)
    (job,) = jobs.plan_scans(scan, tmp_path / "mask.nii")
    segmenter = segmenters.read_segmenter([trained_once.path("run", run="dice").parent])
    middle = np.median(jobs.segment_job(segmenter, job).levels) / 255  # half of all voxels
    rules = replace(segmenter.rules, threshold=middle + 0.001)
    segmenter = replace(segmenter, rules=rules)
    expected = jobs.segment_job(segmenter, job).ml
    lesion_mask = write_volume(tmp_path / "lesions.nii", LESION.astype(np.uint8), AFFINE)
    case = Case("scan", "scan", scan, lesion_mask)
    rng, refused = np.random.default_rng(count), 0
    for _ in range(count):
        name, data = _changed_header(header.binaryblock, rng)
        scan.write_bytes(data + voxels)
        found = jobs.segment_jobs(segmenter, [job], log=lambda line: None).iloc[0]
        problem = slicing.slice_case(case, tmp_path / "scan.npz", DEFAULT_READING)
        if found["state"] == "failed":
            refused += 1
            assert problem, name
            continue
        assert found["ml"] == pytest.approx(expected, rel=0.01) or found["message"], name
        first, second = (itk.ReadImage(str(path)) for path in (scan, job.out))
        assert first.GetSize() == second.GetSize(), name
        for what in ("GetOrigin", "GetSpacing", "GetDirection"):
            theirs, ours = (getattr(image, what)() for image in (first, second))
            assert ours == pytest.approx(theirs), name
        if not problem:
            about = slicing.read_about(tmp_path / "scan.npz")
            right = about["mm"] == pytest.approx([10, 5.6, 5.6], rel=0.01)
            assert right or about["warning"], name
            with files.open_npz(tmp_path / "scan.npz") as arrays:
                assert (arrays["masks"] == LESION.T).all(), name
    assert 0.05 < refused / count < 0.5
    assert geometry.doubts(header) == []
