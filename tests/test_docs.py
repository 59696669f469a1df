"""The pages: links work, quoted messages are the library's, numbers have a source."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from conftest import answers

from covseg_lib.batch import notebooks
from covseg_lib.evaluation import report

PROJECT = Path(__file__).resolve().parents[1]
DOCS = PROJECT / "docs"
NOTEBOOKS = {path: nbformat.read(path, as_version=4) for path in notebooks.find_notebooks()}
PAGES = [*sorted(PROJECT.glob("*.md")), *sorted(DOCS.glob("*.md")), *NOTEBOOKS]


def _text(path):
    """Return the Markdown of a page, or of a notebook's cells."""
    if path not in NOTEBOOKS:
        return path.read_text()
    return "\n\n".join(
        cell.source for cell in NOTEBOOKS[path].cells if cell.cell_type == "markdown"
    )


def _without_code(text):
    return re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)


def _anchors(path):
    """Return what headings are called in links, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", _text(path), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", _without_code(_text(path))):
        if "://" not in link:
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), link
            assert not anchor or anchor in _anchors(target), link


def test_every_page_is_linked_from_the_readme():
    readme = (PROJECT / "README.md").read_text()
    assert all(f"](docs/{page.name})" in readme for page in DOCS.glob("*.md"))


def test_the_glossary_is_in_the_order_of_the_alphabet():
    terms = re.findall(r"^## (.+)$", _text(DOCS / "glossary.md"), re.M)
    assert terms == sorted({term.lower() for term in terms})


def test_every_number_of_the_report_stands_in_its_row():
    page = _text(DOCS / "report_numbers.md")
    titles = {"accuracy": "accuracy", "iou": "IoU", "dice": "Dice"}
    for metric, numbers in report.REPORT_TABLE.items():
        epochs, first, others, total, seen, test = numbers.values()
        assert f"| {titles[metric]} model | {epochs} | {first} | {others} | {total} |" in page
        (row,) = re.findall(rf"^\| {titles[metric]} \| .+$", page, re.M)
        assert [f"{score * 100:.2f} %" for score in (seen, test)] == re.findall(
            r"\d\d\.\d\d %", row
        )
    for what, number in report.REPORT_SLICES.items():
        assert f"\n| {number} {what} slices |" in page


def test_quoted_messages_are_the_librarys():
    quoted = re.findall(r"\*\*`(.+?)`\*\*", _text(DOCS / "troubleshooting.md"), re.DOTALL)
    said = list(_said())
    assert len(quoted) > 50
    assert [
        message for message in quoted if not any(" ".join(message.split()) in text for text in said)
    ] == []


def _said():
    """Yield every text in the library's code, an ellipsis for what is put into it."""
    for path in sorted((PROJECT / "covseg_lib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_number_in_prose_is_printed_or_the_reports(path):
    printed, reports = _held(path), _numbers(_text(DOCS / "report_numbers.md"))
    unheld = []
    for sentence in _sentences(path):
        allowed = printed | reports if "report" in sentence else printed
        unheld += [
            (number, sentence) for number in sorted(_numbers(sentence, percent=False) - allowed)
        ]
    assert unheld == []


def _sentences(path):
    """Yield a notebook's sentences without code, links' ends, how long it takes, and numbers that
    only name a place.
    """
    places = r"^\| \*\*Time\*\*.*$|^<summary>.*$|^\d+\. |\]\([^)]*\)"
    text = re.sub(places, "", _without_code(_text(path)), flags=re.M)
    number = r"\d+(?:\.\d+)*"
    text = re.sub(
        rf"(?:Chapter|Figure|Listing|Table|[Ss]ection)s? {number}(?:(?:, | to | and ){number})*",
        "",
        text,
    )
    text = re.sub(
        r"(?<![\w.])0\d(?![\w.]*\d)|, (?:19|20)\d\d(?=\))", "", text
    )  # notebooks; years of papers
    yield from re.split(r"(?<=[.?!])\s+|\n\n|\|", text)


def _held(path):
    """Return the numbers in a notebook's code, in its answers', and in what it printed."""
    cells = [cell for cell in NOTEBOOKS[path].cells if cell.cell_type == "code"]
    printed = [output.get("text", "") for cell in cells for output in cell.outputs]
    shown = [output.get("data", {}) for cell in cells for output in cell.outputs]
    printed += [
        data.get("text/plain", "") + re.sub(r"<[^>]+>", " ", data.get("text/html", ""))
        for data in shown
    ]
    return _numbers(
        "\n".join([*(cell.source for cell in cells), *answers(NOTEBOOKS[path]), *printed])
    )


def _numbers(text, percent=True):
    """Return the numbers in a text, 99.5 % as 0.995 also (or, where `percent` is False, only so);
    signs aside.
    """
    found = set()
    for digits, sign in re.findall(
        r"(?<![\w.])(\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)(?!\w)( ?%)?", text.replace("..", " ")
    ):
        value = float(digits.replace(",", ""))
        found |= {round(value / 100, 9) if sign else value} | ({value} if percent else set())
    return found
