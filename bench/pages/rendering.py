"""Templates, and prose broken to lines."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import jinja2

from bench.pages import names, words

TEMPLATES = Path(__file__).parent / "templates"
WIDTH = 100
#: A number with its unit and code stay on one line.
_UNBROKEN = re.compile(r"[0-9] %"), re.compile(r"`[^`]{,60}`")
_TABLES = ("|", "#", "!", "<!--", "```")


def render(name: str, **values: Any) -> str:
    """Return a template with its values, its prose broken to lines.

    Parameters
    ----------
    name
        Of a file in ``templates``, without its ending.
    values
        What the template names, besides the functions of :mod:`bench.pages.words`.

    Raises
    ------
    jinja2.UndefinedError
        If it names what is not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    functions = (
        words.count, words.counted, words.listed, words.share, words.signed, words.percent,
        words.extent, words.against, words.effect,
        names.title, names.prose_name, names.plural, names.on_streams,
    )  # fmt: skip
    environment.globals |= {function.__name__: function for function in functions}
    return reflow(environment.get_template(f"{name}.md").render(values))


def reflow(text: str) -> str:
    """Break paragraphs and points of a list to lines; leave tables, code and headings.

    Examples
    --------
    >>> print(reflow("# A\\n\\nsome\\nprose\\n\\n| a |\\n| --- |\\n"), end="")
    # A
    <BLANKLINE>
    some prose
    <BLANKLINE>
    | a |
    | --- |
    """
    blocks, fenced = [], False
    for block in text.strip().split("\n\n"):
        block = block.strip("\n")
        if fenced or block.startswith(_TABLES):
            blocks.append(block)
            fenced ^= block.count("```") % 2 == 1
        elif block:
            points = block.split("\n- ") if block.startswith("- ") else [block]
            lines = [point.removeprefix("- ") for point in points]
            mark, rest = ("- ", "  ") if block.startswith("- ") else ("", "")
            blocks.append("\n".join(_fill(line, mark, rest) for line in lines))
    return "\n\n".join(blocks) + "\n"


def _fill(text: str, mark: str, rest: str) -> str:
    whole = " ".join(text.split())
    for pattern in _UNBROKEN:
        whole = pattern.sub(lambda found: found[0].replace(" ", "\0"), whole)
    lines = textwrap.fill(
        whole,
        WIDTH,
        initial_indent=mark,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace("\0", " ")
