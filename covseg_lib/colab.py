"""What differs on Google Colab: where the study lies, what is missing, which GPU there is. Elsewhere: nothing."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from covseg_lib import storage
from covseg_lib.study import PROFILES

PROJECT = Path(__file__).resolve().parents[1]
NO_GPU = "no GPU: minutes for the demo, a day for the report's sizes; choose one by Runtime, Change runtime type"


def on_colab():
    """Tell whether this runs on Colab, in a notebook or in a process started by one."""
    return "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ


def drive():
    """Return the folder of the mounted Drive."""
    return Path(os.environ.get("COVSEG_CONTENT", "/content"), "drive/MyDrive")


def study_folder():
    """Return where a study lies if nothing else is said.

    The environment's COVSEG_STUDY; on Colab, below the project's folder on Drive (or Drive's folder covseg where
    the project itself was cloned onto the runtime, which forgets); else the folder study of the project.
    """
    if "COVSEG_STUDY" in os.environ:
        return Path(os.environ["COVSEG_STUDY"])
    if on_colab() and not PROJECT.is_relative_to(drive()):
        return drive() / "covseg/study"
    return PROJECT / "study" if (PROJECT / "notebooks").is_dir() else Path("study")


def install_missing(requirements=PROJECT / "requirements.txt"):
    """On Colab, install the packages of a requirements file that are not there; return their names.

    What is installed already is pinned for that one call of pip, so no preinstalled package moves. Raises
    RuntimeError with pip's own words where that cannot be.
    """
    missing = [line for line in _requirements(requirements) if on_colab() and not _is_installed(line)]
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            pins = Path(folder, "installed.txt")
            there = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
            pins.write_text("".join(f"{name}=={version}\n" for name, version in sorted(there.items())))
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(pins), *missing]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"pip could not install {', '.join(missing)} beside what Colab has:\n{done.stderr.strip()}\n"
                "Restart the runtime (Runtime, Disconnect and delete runtime) and run this cell again."
            )
    return [_name(line) for line in missing]


def device():
    """Name the GPU, or the CPU where there is none."""
    gpus = _gpus()
    if gpus:
        return " + ".join(gpus)
    try:
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()).group(1)
    except (OSError, AttributeError):
        model = "CPU"
    return f"{model}, {os.cpu_count()} cores, no GPU"


def has_gpu():
    """Tell whether this machine has an NVIDIA GPU."""
    return bool(_gpus())


def pick_profile(profile="auto"):
    """Return the profile to take and the reason: "auto" is `report` on Colab with a GPU and `demo` elsewhere.

    The reason says what it means where Colab has lent no GPU.
    """
    if profile not in ("auto", *PROFILES):
        raise ValueError(f"no profile {profile!r}: choose auto, {' or '.join(PROFILES)}")
    if not on_colab():
        return ("demo", "not on Colab") if profile == "auto" else (profile, "asked for")
    lent = "on Colab with a GPU" if _gpus() else f"on Colab, {NO_GPU}"
    if profile == "auto":
        return ("report" if _gpus() else "demo"), lent
    return profile, f"asked for, {lent}"


def enable_widgets():
    """On Colab's page, allow widgets that are not Google's own."""
    if "google.colab" in sys.modules:
        from google.colab import output

        output.enable_custom_widget_manager()


def gpu_capabilities():
    """Return the CUDA compute capability of each NVIDIA GPU, as [7.5] for a T4."""
    return [float(number) for number in _nvidia("compute_cap")]


def on_runtime(path):
    """Return a copy of a file on Drive that lies on Colab's own disk, made once; elsewhere return the path.

    Raises OSError where the copy has not the file's size, as when Drive is disconnected meanwhile.
    """
    path = Path(path)
    if not on_colab() or not path.is_relative_to(drive()):
        return path
    import filelock  # not before `install_missing`

    copy = drive().parents[1] / "covseg_on_runtime" / path.relative_to(drive())
    copy.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(copy.with_name(f".{copy.name}.lock")):  # two runs of a sweep may both want it
        if copy.exists() and _size_and_time(copy) == _size_and_time(path):
            return copy
        with storage.atomic(copy) as temporary:
            shutil.copy2(path, temporary)
            if _size_and_time(temporary) != _size_and_time(path):
                raise OSError(f"{path} was not copied whole: look whether Drive is connected, and run this again")
    return copy


def _size_and_time(path):
    return path.stat().st_size, int(path.stat().st_mtime)


def _gpus():
    return _nvidia("name")


def _nvidia(field):
    try:
        command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    except (OSError, subprocess.CalledProcessError):
        return []


def _requirements(path):
    lines = (line.split("#")[0].strip() for line in Path(path).read_text().splitlines())
    return [line for line in lines if line]


def _name(requirement):
    return re.match(r"[\w.-]+", requirement).group()


def _is_installed(requirement):
    try:
        importlib.metadata.version(_name(requirement))
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
