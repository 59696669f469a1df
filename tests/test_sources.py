"""Downloads, against a local server that refuses, breaks off and lies."""

import hashlib
import io
import pathlib
import shutil
import sys
import threading
import types
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import find_cases, write_volume

from covseg_lib import files
from covseg_lib.data import cases, phantom, sources
from covseg_lib.settings import plan_settings
from covseg_lib.study import Study


def _zip(**entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in entries.items():
            packed.writestr(name, data)
    return buffer.getvalue()


FILES = {
    "Images.zip": _zip(
        **{
            "a.nii.gz": b"image a" * 5000,
            "inner/b.nii.gz": b"image b",
            "__MACOSX/._a.nii.gz": b"mac",
        }
    ),
    "Masks.zip": _zip(**{"a.nii.gz": b"mask a", "b.nii.gz": b"mask b", "readme.txt": b"text"}),
}
REGISTRY = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}


@pytest.fixture
def server():
    """A server with `asked`, every request's (path, User-Agent), and `mischief`, what to do at the
    next ones.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            http.asked.append((self.path, self.headers["User-Agent"]))
            data = FILES[self.path.strip("/")]
            mischief = http.mischief.pop(0) if http.mischief else None
            if mischief == 429:
                self.send_response(429)
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if mischief == "cut":
                self.wfile.write(data[: len(data) // 2])
                self.connection.close()
            else:
                self.wfile.write(data[::-1] if mischief == "lie" else data)

        def log_message(self, *_):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    http.asked, http.mischief = [], []
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield http
    http.shutdown()


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: waited.append(seconds))
    waited = []

    def _fetch(tries=4):
        url = f"http://127.0.0.1:{server.server_port}/"
        return sources.download(
            "zenodo", tmp_path / "data", tmp_path / "cache", url, REGISTRY, tries
        )

    _fetch.waited = waited
    return _fetch


def _made(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()[:7]
        for path in folder.rglob("*")
        if path.is_file()
    }


WHOLE = {
    "Images/a.nii.gz": b"image a",
    "Images/b.nii.gz": b"image b",
    "Masks/a.nii.gz": b"mask a",
    "Masks/b.nii.gz": b"mask b",
}


def test_each_zip_goes_into_its_own_folder_and_is_fetched_once(fetch, server):
    assert _made(fetch()) == WHOLE
    assert [path for path, _ in server.asked] == ["/Images.zip", "/Masks.zip"]
    assert all(agent.startswith("covseg/") for _, agent in server.asked)
    assert _made(fetch()) == WHOLE
    assert len(server.asked) == 2


def test_what_is_unpacked_is_not_fetched_again_for_want_of_its_zip(fetch, server, tmp_path):
    fetch()
    shutil.rmtree(tmp_path / "cache")
    assert _made(fetch()) == WHOLE
    assert len(server.asked) == 2


def test_medsegs_files_are_not_asked_for_once_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pooch.Pooch.load_registry_from_doi", lambda self: pytest.fail("figshare was asked")
    )
    for name in ("rp_im", "rp_lung_msk", "rp_msk"):
        (tmp_path / "data" / name).mkdir(parents=True)
    assert sources.download("medseg", tmp_path / "data", tmp_path / "cache") == tmp_path / "data"


@pytest.mark.parametrize("mischief", [[429, 429], ["cut"], ["lie"], [429, "cut", "lie"]])
def test_refused_cut_off_or_wrong_is_tried_again_after_a_while(fetch, server, mischief):
    server.mischief = list(mischief)
    assert _made(fetch()) == WHOLE
    assert fetch.waited == [1, 2, 3][: len(mischief)]


@pytest.mark.parametrize(("mischief", "error"), [(429, OSError), ("lie", ValueError)])
def test_what_stays_wrong_is_an_error_and_leaves_nothing(fetch, server, tmp_path, mischief, error):
    server.mischief = [mischief] * 9
    with pytest.raises(error, match=r"429|hash"):
        fetch(tries=2)
    assert not (tmp_path / "data").exists()
    assert not list((tmp_path / "cache").glob("*.zip"))


def test_a_second_call_fetches_only_what_is_missing(fetch, server):
    server.mischief = [None, 429, 429]
    with pytest.raises(OSError, match="429"):
        fetch(tries=2)
    assert _made(fetch()) == WHOLE
    assert [path for path, _ in server.asked].count("/Images.zip") == 1


@pytest.mark.parametrize("name", ["../out.nii", "/out.nii", "a/../../out.nii", "..\\out.nii"])
def test_a_zip_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    (tmp_path / "bad.zip").write_bytes(_zip(**{"good.nii": b"good", name: b"bad"}))
    with pytest.raises(ValueError, match="a path outside of its folder"):
        sources.unpack_zip(tmp_path / "bad.zip", tmp_path / "into" / "bad")
    assert [path.name for path in tmp_path.rglob("*")] == ["bad.zip"]


def test_too_little_room_is_said_before_unpacking(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(FILES["Images.zip"])
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 10}))
    with pytest.raises(OSError, match=r"0\.00 GB are free"):
        sources.unpack_zip(tmp_path / "a.zip", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_medsegs_files_are_asked_of_their_doi(tmp_path, monkeypatch):
    def ask(self):
        self.registry = REGISTRY | {"readme.txt": "md5:0"}

    class Downloader:
        def __init__(self, **options):
            assert options["headers"]["User-Agent"].startswith("covseg/")

        def __call__(self, url, output_file, _, **__):
            address, name = url.rsplit("/", 1)
            assert address == sources.MEDSEG
            pathlib.Path(output_file).write_bytes(FILES[name])

    monkeypatch.setattr("pooch.Pooch.load_registry_from_doi", ask)
    monkeypatch.setattr("pooch.DOIDownloader", Downloader)
    assert _made(sources.download("medseg", tmp_path / "data", tmp_path / "cache")) == WHOLE


def test_sources_lead_to_their_folders(tmp_path, monkeypatch):
    study = Study(tmp_path)
    fetched = []
    monkeypatch.setattr(sources, "download", lambda *where: fetched.append(where))
    drawn = lambda folder, phantoms, seed: (folder, seed, len(phantoms))  # noqa: E731
    monkeypatch.setattr(sources, "write_phantoms", drawn)
    sources.prepare_volumes(study, plan_settings("report"))
    assert fetched == [("zenodo", tmp_path / "dataset" / "zenodo", tmp_path / "downloads")]
    assert sources.prepare_volumes(study, plan_settings("demo")) == (
        tmp_path / "dataset" / "phantom",
        0,
        12,
    )
    assert (
        sources.prepare_volumes(
            study, plan_settings("report", source="folder", dataset="/data")
        ).as_posix()
        == "/data"
    )
    assert sources.prepare_volumes(study, plan_settings("demo", dataset="/data")) == (
        tmp_path / "dataset" / "phantom",
        0,
        12,
    )  # not in /data


def test_an_unknown_source_lists_the_known_ones(tmp_path):
    with pytest.raises(
        ValueError, match='expected "zenodo", "kaggle", "medseg", "folder", "phantom"'
    ):
        sources.download("kagle", tmp_path, tmp_path)


def test_two_files_of_one_name_in_a_zip_are_refused(tmp_path):
    """One of them replaced the other without a word."""
    packed = tmp_path / "both.zip"
    packed.write_bytes(
        _zip(**{"images/a.nii.gz": b"image", "masks/A.nii.gz": b"mask", "masks/b.nii.gz": b"mask"})
    )
    with pytest.raises(
        ValueError,
        match=r"two files with the same name, images/a\.nii\.gz and masks/A\.nii\.gz.*set DATASET",
    ):
        sources.unpack_zip(packed, tmp_path / "both")
    assert [path.name for path in tmp_path.iterdir()] == ["both.zip"]


KAGGLE_FILES = {  # two of the twenty cases, as Kaggle's copy names them
    "ct_scans": ["coronacases_org_001", "radiopaedia_org_covid-19-pneumonia-29_86490_1-dcm"],
    "infection_mask": ["coronacases_001", "radiopaedia_29_86490_1"],
    "lung_mask": ["coronacases_001", "radiopaedia_29_86490_1"],
    "lung_and_infection_mask": ["coronacases_001", "radiopaedia_29_86490_1"],
}


@pytest.fixture
def kaggle(monkeypatch, tmp_path):
    """A stand-in for kagglehub with a copy that has Kaggle's names; nothing is attached."""

    def write_copy(folder):
        for name, stems in KAGGLE_FILES.items():
            for stem in stems:
                write_volume(folder / name / f"{stem}.nii", np.zeros((4, 4, 2), np.uint8))
        return folder

    def dataset_download(handle):
        assert handle == "andrewmvd/covid19-ct-scans"
        return str(write_copy(tmp_path / "cache"))

    stand_in = types.SimpleNamespace(dataset_download=dataset_download, write_copy=write_copy)
    monkeypatch.setitem(sys.modules, "kagglehub", stand_in)
    monkeypatch.setattr(sources, "KAGGLE_INPUT", tmp_path / "input")
    return stand_in


def test_kaggles_odd_names_are_paired_and_are_the_records_cases(kaggle, tmp_path):
    settings = plan_settings("report", source="kaggle")
    folder = sources.prepare_volumes(Study(tmp_path / "study"), settings)
    pairs = find_cases(folder)
    assert [case.name for case in pairs] == ["coronacases_001", "radiopaedia_30_86490_1"]
    assert [case.image.stem for case in pairs] == KAGGLE_FILES["ct_scans"]
    assert [case.mask.parent.name for case in pairs] == ["infection_mask"] * 2
    assert [case.lungs.parent.name for case in pairs] == ["lung_mask"] * 2


@pytest.mark.parametrize("place", ["covid19-ct-scans", "datasets/andrewmvd/covid19-ct-scans"])
def test_on_kaggle_the_attached_data_set_is_found(kaggle, tmp_path, place):
    attached = kaggle.write_copy(tmp_path / "input" / place)
    (tmp_path / "input" / "another" / "images").mkdir(parents=True)
    assert sources.find_kaggle_copy() == attached


@pytest.mark.parametrize("why", ["refused", "not installed"])
def test_without_kaggle_zenodo_is_asked(kaggle, tmp_path, monkeypatch, why):
    def refuse(handle):
        raise ConnectionError(f"{handle} refused")

    kaggle.dataset_download = refuse
    if why == "not installed":
        monkeypatch.setitem(sys.modules, "kagglehub", None)
    asked = []
    monkeypatch.setattr(sources, "download", lambda *where: asked.append(where))
    study = Study(tmp_path / "study")
    with pytest.warns(UserWarning, match="no copy from Kaggle .*: Zenodo's is used"):
        sources.prepare_volumes(study, plan_settings("report", source="kaggle"))
    assert asked == [("zenodo", study.path("dataset") / "zenodo", study.path("downloads"))]


def test_the_report_profile_takes_kaggles_copy_where_one_is_near(monkeypatch):
    assert sources.choose_source("default", "", "report") is None
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    assert sources.choose_source("default", "", "report") == "kaggle"
    assert sources.choose_source("default", "", "demo") is None
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert sources.choose_source("default", "", "report") == "kaggle"


def _sliced_from(folder, study):
    """Write a study's cases.csv, as if its cases had been sliced from the volumes in a folder."""
    listed = [(case.name, str(case.image)) for case in find_cases(folder)]
    files.write_csv(study.path("cases"), pd.DataFrame(listed, columns=["case", "image"]))
    return study


@pytest.fixture
def kaggle_study(kaggle, tmp_path):
    """A study that was sliced from Kaggle's copy on a machine that is gone."""
    study = Study(tmp_path / "study")
    study.create("report", source="kaggle")
    return _sliced_from(kaggle.write_copy(tmp_path / "first" / "cache"), study)


def _refuse(*_):
    raise ConnectionError("no network")


def test_volumes_that_are_where_they_were_are_not_asked_for(kaggle, kaggle_study, tmp_path):
    kaggle.dataset_download = lambda _: pytest.fail("Kaggle was asked")
    found, not_found = cases.find_images(kaggle_study)
    assert not_found == ""
    assert {path.parent for path in found.values()} == {tmp_path / "first" / "cache" / "ct_scans"}
    assert cases.find_image(kaggle_study, "coronacases_001") == found["coronacases_001"]


@pytest.mark.parametrize("place", ["cache", "input/covid19-ct-scans"])
def test_on_another_machine_kaggles_copy_is_found_where_it_is_now(
    kaggle, kaggle_study, tmp_path, place
):
    shutil.rmtree(tmp_path / "first")
    images = kaggle.write_copy(tmp_path / place) / "ct_scans"
    assert cases.find_images(kaggle_study) == (
        {
            "coronacases_001": images / "coronacases_org_001.nii",
            "radiopaedia_30_86490_1": images / f"{KAGGLE_FILES['ct_scans'][1]}.nii",
        },
        "",
    )


@pytest.mark.filterwarnings("ignore:no copy from Kaggle")
def test_without_kaggle_the_volumes_are_downloaded_from_zenodo(
    kaggle, kaggle_study, tmp_path, monkeypatch
):
    def download(source, folder, cache):
        for case in ("coronacases_001", "radiopaedia_30_86490_1"):
            image = folder / "COVID-19-CT-Seg_20cases" / f"{case}.nii.gz"
            write_volume(image, np.zeros((4, 4, 2), np.uint8))
        return folder

    shutil.rmtree(tmp_path / "first")
    kaggle.dataset_download = _refuse
    monkeypatch.setattr(sources, "download", download)
    image = kaggle_study.path("dataset") / "zenodo/COVID-19-CT-Seg_20cases/coronacases_001.nii.gz"
    assert cases.find_image(kaggle_study, "coronacases_001") == image


@pytest.mark.filterwarnings("ignore:no copy from Kaggle")
def test_without_a_network_it_is_said_where_the_volumes_were_and_what_can_be_done(
    kaggle, kaggle_study, tmp_path, monkeypatch
):
    shutil.rmtree(tmp_path / "first")
    kaggle.dataset_download = _refuse
    monkeypatch.setattr(sources, "download", _refuse)
    found, not_found = cases.find_images(kaggle_study)
    assert found == {}
    assert not_found == (
        "coronacases_001, radiopaedia_30_86490_1. They were in "
        f"{tmp_path / 'first' / 'cache' / 'ct_scans'} when they were sliced, and the source "
        "'kaggle' cannot give them again (ConnectionError: no network). Run notebook 01 again, "
        "with DATASET if they lie in a folder of yours"
    )
    with pytest.raises(
        FileNotFoundError, match=r"coronacases_001\. They were in .*or set SCANS to"
    ):
        cases.find_image(kaggle_study, "coronacases_001")


def test_phantoms_are_drawn_again_with_the_same_voxels(tmp_path, monkeypatch):
    two = dict(list(phantom.VARIED_PHANTOMS.items())[:2])
    monkeypatch.setitem(sources.PHANTOM_SOURCES, "varied_phantoms", two)
    study = Study(tmp_path / "study")
    study.create("demo", source="varied_phantoms", seed=3)
    folder = sources.prepare_volumes(study, study.settings())
    _sliced_from(folder, study)
    before = nib.load(cases.find_image(study, "varied_02")).get_fdata()
    study.root.rename(tmp_path / "copied")
    shutil.rmtree(tmp_path / "copied" / "dataset")
    again = cases.find_image(Study(tmp_path / "copied"), "varied_02")
    assert again == tmp_path / "copied/dataset/varied_phantoms/CT_scans/varied_02.nii.gz"
    assert (nib.load(again).get_fdata() == before).all()


def _write(folder, *names):
    for name in names:
        write_volume(folder / f"{name}.nii.gz", np.zeros((4, 4, 2), np.uint8))


@pytest.mark.parametrize(
    ("images", "masks", "names"),
    [
        ("CT_scans", "Infection_Mask", [("a", "a"), ("b", "b")]),
        ("imagesTr", "labelsTr", [("a_0000", "a"), ("b_0000", "b")]),
        ("scans", "my_masks", [("a_ct", "a_seg"), ("b_ct", "b_seg")]),
    ],
)
@pytest.mark.parametrize("place", ["data", "study/dataset"])
def test_a_folder_of_ones_own_is_found_in_dataset_and_in_the_study_without_its_masks(
    tmp_path, images, masks, names, place
):
    for image, mask in names:
        _write(tmp_path / "old" / images, image)
        _write(tmp_path / "old" / masks, mask)
    study = Study(tmp_path / "study")
    study.create("report", source="folder", dataset=str(tmp_path / "data"))
    _sliced_from(tmp_path / "old", study)
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / "old" / images).rename(tmp_path / place / images)
    found, not_found = cases.find_images(study)
    assert not_found == ""
    assert found == {
        name: tmp_path / place / images / f"{name_of_image}.nii.gz"
        for name, (name_of_image, _) in zip("ab", names, strict=True)
    }


def test_a_folder_of_ones_own_that_is_gone_is_named(tmp_path):
    _write(tmp_path / "mine" / "images", "a", "b", "c")
    _write(tmp_path / "mine" / "masks", "a", "b", "c")
    study = Study(tmp_path / "study")
    study.create("report", source="folder", dataset=str(tmp_path / "mine"))
    _sliced_from(tmp_path / "mine", study)
    for case in "bc":
        (tmp_path / "mine" / "images" / f"{case}.nii.gz").unlink()
    found, not_found = cases.find_images(study)
    assert list(found) == ["a"]
    assert not_found == (
        f"b, c. They were in {tmp_path / 'mine' / 'images'} when they were sliced, and are not in "
        f"{tmp_path / 'mine'} or {study.path('dataset')}. Run notebook 01 again, with DATASET if "
        "they lie in a folder of yours"
    )


def test_volumes_that_were_sliced_on_windows_are_found(tmp_path):
    _write(tmp_path / "data" / "images", "a")
    study = Study(tmp_path / "study")
    study.create("report", source="folder", dataset=str(tmp_path / "data"))
    table = pd.DataFrame({"case": ["a"], "image": [r"C:\data\images\a.nii.gz"]})
    files.write_csv(study.path("cases"), table)
    assert cases.find_image(study, "a") == tmp_path / "data" / "images" / "a.nii.gz"
