"""What differs on Google Colab: the study's folder, packages, the GPU, Drive, the runtime's end."""

import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from covseg_lib import files
from covseg_lib.settings import PROFILES

PROJECT = Path(__file__).resolve().parents[1]
TESTED_RUNTIME = "2026-08"  # its packages are listed in tests/; `make colab-packages` changes both
CHOOSE_RUNTIME = (
    f"covseg is tested with Colab's runtime of {TESTED_RUNTIME}: choose that version "
    "(Runtime, Change runtime type, Runtime version) and run all cells again"
)
NO_GPU = (
    "no GPU: the demo takes minutes, the report's sizes take a day; "
    "to get a GPU: Runtime, Change runtime type"
)
END_BY_HAND = "Runtime, Disconnect and delete runtime"
_downloads: set[str] = set()  # names of the files that the browser has been asked to download


def on_colab() -> bool:
    """Return whether this runs on Colab, in a notebook or in a process started by one."""
    if on_kaggle():  # its image is made from Colab's
        return False
    return "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ


def on_kaggle() -> bool:
    """Return whether this runs in a Kaggle notebook."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def drive() -> Path:
    """Return the folder of the mounted Drive."""
    return Path(os.environ.get("COVSEG_CONTENT", "/content"), "drive/MyDrive")


def study_folder() -> Path:
    """Return the default folder of a study.

    That is the environment variable COVSEG_STUDY; or the folder study of the project; or, if the
    project was cloned onto a Colab runtime, where files are lost, Drive's folder covseg/study.
    """
    if "COVSEG_STUDY" in os.environ:
        return Path(os.environ["COVSEG_STUDY"])
    if on_colab() and not PROJECT.is_relative_to(drive()):
        return drive() / "covseg/study"
    return PROJECT / "study" if (PROJECT / "notebooks").is_dir() else Path("study")


def install_missing(requirements: Path = PROJECT / "requirements.txt") -> list[str]:
    """On Colab and Kaggle, install the missing packages of a requirements file; return their names.

    All installed versions are pinned for this call of pip, so preinstalled packages do not change.
    Raises RuntimeError, which names the runtime to choose, if that is not possible, or if a
    preinstalled package has a version that covseg cannot use.
    """
    if not (on_colab() or on_kaggle()) or not requirements.exists():
        return []
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found = [d for d in importlib.metadata.distributions() if d.metadata["Name"]]
    versions = {canonicalize_name(d.metadata["Name"]): d.version for d in found}
    wanted = [Requirement(line) for line in _requirements(requirements)]
    missing = [need for need in wanted if canonicalize_name(need.name) not in versions]
    for need in wanted:
        version = versions.get(canonicalize_name(need.name))
        if version and not need.specifier.contains(version, prereleases=True):
            raise RuntimeError(
                f"this runtime has {need.name} {version}, covseg needs {need}: {CHOOSE_RUNTIME}"
            )
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            pins = Path(folder, "installed.txt")
            lines = [f"{name}=={version}\n" for name, version in sorted(versions.items())]
            pins.write_text("".join(lines))
            options = ["--quiet", "--constraint", str(pins), *map(str, missing)]
            command = [sys.executable, "-m", "pip", "install", *options]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"pip could not install {', '.join(map(str, missing))} beside the packages that "
                f"this runtime has:\n{done.stderr.strip()}\n{CHOOSE_RUNTIME}"
            )
    return [need.name for need in missing]


def explain_failed_imports() -> None:
    """On Colab, let the message of a failed import name the runtime version to choose."""
    if on_colab():
        from IPython import get_ipython

        if shell := get_ipython():
            shell.set_custom_exc((Exception,), _show_error)


def _show_error(shell, kind, error, trace, tb_offset=None):
    """Show an error as IPython does; if a module was being imported, add `CHOOSE_RUNTIME`."""
    places = [frame.name for frame in traceback.extract_tb(trace)]
    if isinstance(error, ImportError) or places.count("<module>") > 1:  # the first is the cell
        kind, error = ImportError, ImportError(f"{error}\n{CHOOSE_RUNTIME}")
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


def end_runtime(wanted: bool) -> None:
    """On Colab, end the runtime after the cell with `study.listing`, if wanted.

    Drive is saved first. The runtime is not ended if this cell fails, if Drive cannot be saved, or
    after `download_folder`: nobody can tell when the browser has the file. The last call decides.
    """
    if "google.colab" not in sys.modules:
        return
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:  # a script
        return
    events = shell.events
    with contextlib.suppress(ValueError):  # there is none to unregister
        events.unregister("post_run_cell", _end_after_listing)
    if wanted:
        events.register("post_run_cell", _end_after_listing)


def _end_after_listing(result):
    """End the runtime if the cell that has just run was the one with `study.listing`."""
    if not result.success or "study.listing(" not in result.info.raw_cell:
        return
    if _downloads:
        names = ", ".join(sorted(_downloads))
        print(  # noqa: T201
            f"The runtime was not ended, because the browser may still be downloading {names}. "
            f"When it has the file, choose {END_BY_HAND}."
        )
        return
    from google.colab import drive as google_drive
    from google.colab import runtime

    try:
        google_drive.flush_and_unmount()
    except Exception as error:
        raise RuntimeError(
            f"Drive was not saved ({error}), so the runtime was not ended: check that Drive is "
            f"connected and not full, then choose {END_BY_HAND}"
        ) from error
    runtime.unassign()


def device() -> str:
    """Return the names of the GPUs, or the CPU's name and cores if there is no GPU."""
    gpus = _gpus()
    if gpus:
        return " + ".join(gpus)
    try:
        names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    model = names[0] if names else "CPU"
    return f"{model}, {os.cpu_count()} cores, no GPU"


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU."""
    return bool(_gpus())


def pick_profile(profile: str = "auto") -> tuple[str, str]:
    """Return the profile to use, and the reason.

    "auto" becomes "report" on Colab with a GPU and "demo" elsewhere. On Colab without a GPU the
    reason also says how to get one. Raises ValueError for an unknown profile.
    """
    if profile not in ("auto", *PROFILES):
        raise ValueError(f"no profile {profile!r}: choose auto, {' or '.join(PROFILES)}")
    if not on_colab():
        return ("demo", "not on Colab") if profile == "auto" else (profile, "asked for")
    place = "on Colab with a GPU" if _gpus() else f"on Colab, {NO_GPU}"
    if profile == "auto":
        return ("report" if _gpus() else "demo"), place
    return profile, f"asked for, {place}"


def enable_widgets() -> None:
    """On Colab's page, allow widgets from other packages than Google's."""
    if "google.colab" in sys.modules:
        from google.colab import output

        output.enable_custom_widget_manager()


def upload_files(folder: Path) -> str:
    """On Colab, let the user choose files, write them to a folder, and return it.

    Raises RuntimeError elsewhere, or if no file was chosen.
    """
    if "google.colab" not in sys.modules:
        raise RuntimeError("UPLOAD works only on Colab: set SCANS to a folder on this computer")
    from google.colab import files as browser

    chosen = browser.upload()
    if not chosen:
        raise RuntimeError("no file was chosen: run this cell again")
    for old in Path(folder).glob("*.nii*"):  # of an upload before
        old.unlink()
    for name, data in chosen.items():
        files.write_bytes(Path(folder) / name, data)
    return str(folder)


def download_folder(folder: Path) -> None:
    """On Colab, zip a folder beside it, and let the browser download the zip file.

    This returns before the browser has the file.
    """
    if "google.colab" in sys.modules:
        from google.colab import files as browser

        archive = shutil.make_archive(str(folder), "zip", folder)
        _downloads.add(Path(archive).name)
        browser.download(archive)


def gpu_capabilities() -> list[float]:
    """Return the CUDA compute capability of each NVIDIA GPU, for example [7.5] for a T4."""
    return [float(number) for number in _nvidia("compute_cap")]


def local_copy(path: Path) -> Path:
    """Return a copy on Colab's disk of a file on Drive, copied once; elsewhere return the path.

    Raises OSError if the copy has another size, for example after Drive was disconnected.
    """
    path = Path(path)
    if not on_colab() or not path.is_relative_to(drive()):
        return path
    import filelock  # on Colab it may be missing until `install_missing` has run

    copy = drive().parents[1] / "covseg_on_runtime" / path.relative_to(drive())
    copy.parent.mkdir(parents=True, exist_ok=True)
    # Two runs of a sweep may copy the same file.
    with filelock.FileLock(copy.with_name(f".{copy.name}.lock")):
        if copy.exists() and _size_and_time(copy) == _size_and_time(path):
            return copy
        with files.atomic(copy) as temporary:
            shutil.copy2(path, temporary)
            if _size_and_time(temporary) != _size_and_time(path):
                raise OSError(
                    f"{path} was not copied completely: check whether Drive is connected, "
                    "and run this again"
                )
    return copy


def _size_and_time(path):
    return path.stat().st_size, int(path.stat().st_mtime)


def _gpus():
    return _nvidia("name")


def _nvidia(field):
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return done.stdout.split("\n")[:-1]


def _requirements(path):
    lines = (line.split("#")[0].strip() for line in Path(path).read_text().splitlines())
    return [line for line in lines if line]
