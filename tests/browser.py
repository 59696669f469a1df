"""Run the notebooks in JupyterLab in a headless Chromium, as a reader would: `make browser`.

Copies of the notebooks, without their outputs, are run with Run All Cells one after the other on
the phantom demo. It ends at a cell with an error or a picture that is not shown. Screenshots of all
pages go to browser/.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
from tqdm import tqdm

from covseg_lib.batch import notebooks
from covseg_lib.colab import PROJECT

SCREENSHOTS = PROJECT / "browser"
PAGE = {"width": 1280, "height": 1600}
MINUTES = 30  # for one notebook
CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
SETTINGS = {  # every cell in the page, also those out of sight; nothing fetched from elsewhere
    "notebook-extension/tracker": {"windowingMode": "none", "scrollPastEnd": False},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
STATE = r"""() => {
    const prompts = [...document.querySelectorAll(".jp-Notebook .jp-CodeCell .jp-InputPrompt")];
    const images = [...document.querySelectorAll(".jp-Notebook .jp-OutputArea-output img")];
    return {
        cells: prompts.length,
        run: prompts.filter(prompt => /\[\d+\]/.test(prompt.textContent)).length,
        red: document.querySelectorAll(
            '.jp-Notebook [data-mime-type="application/vnd.jupyter.error"]'
        ).length,
        images: images.length,
        seen: images.filter(
            image => image.naturalWidth > 0 && image.getBoundingClientRect().width > 0
        ).length,
    };
}"""


def copy_project(folder):
    """Put copies of the notebooks, without outputs, and the library into a folder."""
    (folder / "notebooks").mkdir()
    (folder / "covseg_lib").symlink_to(PROJECT / "covseg_lib")
    for path in notebooks.find_notebooks():
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, folder / "notebooks" / path.name)


@contextmanager
def jupyterlab(folder):
    """Serve a folder with JupyterLab, with settings of its own; yields the address."""
    for name, setting in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(setting))
    own = {
        f"JUPYTER{name}_DIR": str(folder / name.strip("_").lower())
        for name in ("_CONFIG", "_RUNTIME")
    }
    own |= {
        f"JUPYTERLAB_{name}_DIR": str(folder / name.lower()) for name in ("SETTINGS", "WORKSPACES")
    }
    own |= {"COVSEG_STUDY": str(folder / "study"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        f"--ServerApp.root_dir={folder}",
        f"--port={port}",
        "--IdentityProvider.token=",
        "--no-browser",
    ]
    options += ["--ip=127.0.0.1", "--allow-root", "--LabApp.extension_manager=readonly"]
    with open(SCREENSHOTS / "jupyterlab.log", "w") as log:
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/api")
        yield address
    finally:
        server.terminate()
        server.wait()


def _wait_for(address, seconds=60):
    for _ in range(seconds):
        try:
            return urllib.request.urlopen(address).close()
        except OSError:
            time.sleep(1)
    raise SystemExit(f"JupyterLab did not answer within {seconds} s")


def run_all(page, address, name):
    """Open a notebook, choose Run All Cells in the menu, wait for the last cell, and return what
    the page shows.
    """
    page.goto(f"{address}/lab/workspaces/{name[:2]}/tree/notebooks/{name}.ipynb")
    page.get_by_text(re.compile(r"\| Idle$")).wait_for(
        timeout=60_000
    )  # in the status bar: a kernel is there
    page.keyboard.press("Control+B")  # the file browser, away
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    done = f"() => {{ const now = ({STATE})(); return now.red || now.run === now.cells; }}"
    page.wait_for_function(done, timeout=MINUTES * 60_000, polling=500)
    page.wait_for_timeout(1000)  # the last output is drawn
    return page.evaluate(STATE)


def photograph(page, name):
    """Write screenshots of the whole notebook, page by page."""
    panel = page.locator(".jp-WindowedPanel-outer").first
    height, shown = panel.evaluate("panel => [panel.scrollHeight, panel.clientHeight]")
    for number in range(-(-height // shown)):
        panel.evaluate("(panel, top) => panel.scrollTo(0, top)", number * shown)
        page.wait_for_timeout(200)
        page.screenshot(path=SCREENSHOTS / f"{name}_{number + 1:02d}.png")


def main():
    from playwright.sync_api import sync_playwright

    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    SCREENSHOTS.mkdir()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        folder = Path(folder).resolve()
        copy_project(folder)
        installed = shutil.which("chromium") or shutil.which(
            "google-chrome"
        )  # else Playwright's own
        chromium = playwright.chromium.launch(executable_path=installed, args=CHROMIUM)
        with jupyterlab(folder) as address:
            for path in tqdm(notebooks.find_notebooks(), unit="notebook"):
                page = chromium.new_page(viewport=PAGE)
                seen = run_all(page, address, path.stem)
                photograph(page, path.stem)
                page.close()
                tqdm.write(f"{path.stem}: {seen}")
                if seen["red"] or not 0 < seen["images"] == seen["seen"]:
                    raise SystemExit(f"{path.name} is not as it should be: see {SCREENSHOTS}")
        chromium.close()


if __name__ == "__main__":
    main()
