"""The parameters of a notebook: the kind of each, and how a value of it is read.

A value is text on a command line, text or a number from papermill, and any Python value in a
notebook. The notebook's own cell of parameters says what it should be.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

# How the cell begins. The cell that papermill adds begins in another way.
TITLE = "# ?@title Parameters"
LINE = r"^(\w+) *=(?!=) *(.+?)(?:# ?@param(.*))?$"  # NAME = literal  #@param field
TYPE = r'type"? *: *"(\w+)"'  # Colab writes {type:"raw"} or {"type":"raw"}
# A form field's types, and what this module calls them.
KINDS = {
    "boolean": "boolean",
    "string": "text",
    "integer": "number",
    "number": "number",
    "slider": "number",
    "raw": "raw",
}
WORDS = {"true": True, "yes": True, "false": False, "no": False}
NO_LITERAL = (ValueError, SyntaxError, TypeError)  # what ast.literal_eval raises


def notebook_kinds(path: Path) -> dict[str, str]:
    """Return {name: kind} of a notebook's parameters, which its cell tagged `parameters` sets.

    The kinds are those of `parameter_kinds`. A notebook without such a cell has no parameters.
    """
    notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            return parameter_kinds("".join(cell["source"]))
    return {}


def parameter_kinds(source: str) -> dict[str, str]:
    """Return {name: kind} for the lines `NAME = literal  #@param ...` of a cell.

    The kind is "boolean", "text", "number", or "raw" for any Python value. It follows from the type
    of the form field, else from the field's choices, else from the literal.

    Examples
    --------
    >>> parameter_kinds('RESUME = True  #@param {type:"boolean"}')
    {'RESUME': 'boolean'}
    >>> parameter_kinds('EPOCHS = None')
    {'EPOCHS': 'raw'}
    """
    kinds = {}
    for name, literal, field in re.findall(LINE, source, re.MULTILINE):
        kinds[name] = _kind(literal, field)
    return kinds


def _kind(literal, field):
    """Return the kind of a parameter from the texts of its default and of its form field."""
    field_type = re.search(TYPE, field)
    if field_type and field_type[1] in KINDS:
        return KINDS[field_type[1]]
    choices = re.search(r"\[.*\]", field)
    try:
        values = ast.literal_eval(choices[0]) if choices else [ast.literal_eval(literal)]
    except NO_LITERAL:
        return "raw"
    types = {type(value) for value in values}
    if types == {bool}:
        return "boolean"
    if types == {str}:
        return "text"
    if types in ({int}, {float}, {int, float}):
        return "number"
    return "raw"


def read_parameters(values: dict[str, Any], kinds: dict[str, str]) -> dict[str, Any]:
    """Return {name: value} of those names that have a kind, their values read by `read_value`."""
    read = {}
    for name, value in values.items():
        if name in kinds:
            read[name] = read_value(name, value, kinds[name])
    return read


def read_value(name: str, value: Any, kind: str) -> Any:
    """Return the value of a parameter, given as text or as a Python value.

    None, which means "as chosen elsewhere", stays None, but is neither True nor False.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message of an error.
    value : any
        The value or its text.
    kind : "boolean", "text", "number" or "raw"
        "text" keeps text as it is. "raw" reads text as a Python literal. Text that is not a literal
        stays text. A tuple becomes a list, because papermill would make text of it.

    Raises
    ------
    ValueError
        The value is not of this kind.

    Examples
    --------
    >>> read_value("RESUME", "false", "boolean"), read_value("FOLD", "1", "number")
    (False, 1)
    >>> read_value("RUN", "001", "text"), read_value("CASES", "all", "raw")
    ('001', 'all')
    >>> read_value("WINDOW_HU", "(-160, 240)", "raw")
    [-160, 240]
    """
    if kind == "boolean":
        return _read_boolean(name, value)
    if value is None or value == "None":
        return None
    if kind == "text":
        return _read_text(name, value)
    if isinstance(value, str):
        value = _read_literal(value)
    if kind == "number" and type(value) not in (int, float):
        raise ValueError(f"{name} is {value!r}: expected a number")
    return list(value) if isinstance(value, tuple) else value


def _read_boolean(name, value):
    words = WORDS | {"1": True, "0": False}
    word = str(value).lower()
    if word not in words:
        raise ValueError(f"{name} is {value!r}: expected True or False")
    return words[word]


def _read_text(name, value):
    if not isinstance(value, (str, Path)):
        raise ValueError(
            f'{name} is {value!r}: expected text, as "2024_01" (plain papermill: -r {name} 2024_01)'
        )
    return str(value)


def _read_literal(text):
    """Return the value of a literal or of one of `WORDS`; any other text is returned as it is."""
    try:
        return ast.literal_eval(text)
    except NO_LITERAL:
        return WORDS.get(text.lower(), text)


def correct(names: dict[str, Any]) -> None:
    """Read the parameters of the running notebook again, in the dictionary of its global names.

    Plain papermill gives a notebook the text "false" where False is meant. The kinds are those of
    the cell that begins with `TITLE` and ran last; IPython keeps all cells in the list `In`.
    Nothing happens where no such cell ran.
    """
    cells = [source for source in names.get("In", []) if re.match(TITLE, source)]
    if cells:
        names.update(read_parameters(names, parameter_kinds(cells[-1])))
