"""Gather what the site is made of in build/: `make site`.

Pages, notebooks and pictures lie there as in the project, so that links between them stay right.
Each room of the library gets a page of its reference.
"""

import html
import re
import shutil
import sys
from urllib.parse import unquote

from set_repository import PROJECT, repository

PAGES = PROJECT / "build" / "pages"
LIBRARY = PROJECT / "build" / "library"
SITE = PROJECT / "build" / "site"
COPIED = ("README.md", "drive_layout.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "docs")


def notebook_for_site(text, ours):
    """Return a notebook's text with links to pages and notebooks as the site has them.

    MkDocs changes links in Markdown only: a notebook is a folder there, 03_train_accuracy/.
    """
    text = re.sub(
        rf"\]\(https://github\.com/{re.escape(ours)}/blob/main/docs/(\w+)\.md(#[^)]*)?\)",
        lambda link: f"](../../docs/{link[1]}/{link[2] or ''})",
        text,
    )
    return re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](../\1/)", text)


def copy_library(library, copy):
    """Copy the library, with the heading Examples above examples that have none: they are rendered
    as code then.
    """
    for path in library.rglob("*.py"):
        there = copy / path.relative_to(library)
        there.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8")
        for docstring in re.findall(r'""".*?"""', text, re.DOTALL):
            if not re.search(r"Examples\n +--------", docstring):
                shown = re.sub(
                    r"\n\n( +)>>> ", r"\n\n\1Examples\n\1--------\n\1>>> ", docstring, count=1
                )
                text = text.replace(docstring, shown)
        there.write_text(text, encoding="utf-8")


def write_reference(library, folder):
    """Write a page for each room of the library, with a heading for each module."""
    rooms = {}
    for path in sorted(library.rglob("*.py")):
        if path.name[0] != "_":
            rooms.setdefault(path.parent.relative_to(library.parent), []).append(path)
    folder.mkdir()
    for room, paths in rooms.items():
        modules = [".".join((*room.parts, path.stem)) for path in paths]
        text = "\n".join(f"::: {module}\n" for module in modules)
        (folder / f"{room.name}.md").write_text(f"# {'.'.join(room.parts)}\n\n{text}")


def broken_links(site):
    """Return the links of a built site that lead to no file or to no place on a page.

    MkDocs itself checks links in Markdown, not those in notebooks.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    places = {path: set(re.findall(r'\bid="?([^"\s>]+)', text)) for path, text in texts.items()}
    broken = []
    for path, text in texts.items():
        for link in re.findall(r'<(?:a|img|script|link)\b[^>]*\b(?:href|src)="([^"]*)"', text):
            address, _, place = unquote(html.unescape(link)).partition("#")
            if re.match(r"[a-z]+:|//|/", address):  # elsewhere; 404.html has absolute ones
                continue
            target = (path.parent / address).resolve() if address else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (place and place not in places.get(target, {place})):
                broken.append(f"{path.relative_to(site)}: {link}")
    return broken


def main():
    if sys.argv[1:] == ["check"]:
        raise SystemExit("\n".join(broken_links(SITE)) or 0)
    for folder in (PAGES, LIBRARY):
        shutil.rmtree(folder, ignore_errors=True)
    (PAGES / "notebooks").mkdir(parents=True)
    for name in COPIED:
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, PAGES / name)
    for path in (PROJECT / "notebooks").glob("*.ipynb"):
        text = notebook_for_site(path.read_text(encoding="utf-8"), repository(PROJECT))
        (PAGES / "notebooks" / path.name).write_text(text, encoding="utf-8")
    copy_library(PROJECT / "covseg_lib", LIBRARY / "covseg_lib")
    write_reference(PROJECT / "covseg_lib", PAGES / "reference")


if __name__ == "__main__":
    main()
