"""No measured number is typed into a page: digits and number words are computed or explained."""

import ast
import doctest
import importlib
import re

import pytest

from bench.pages.rendering import TEMPLATES
from bench.pages.site import every

#: What may stand in a template, and why: no result of a measurement is among them.
ALLOWED = {
    r"Eq\. \d+": "an equation of the paper",
    r"MovieLens \d+[KM]": "the name of a data set",
    r"Algorithm 1": "the paper's",
    r"B = 1\b": "the whole model, by definition",
    r"no event, one to two, three to six": "the octaves, by definition",
    r"first tenth": "a stage, by definition",
    r"one by one": "a phrase",
    r"half the bytes|least half of the streams": "the bound that is asked about, not its answer",
}
#: Strings of the code that are no results, and why.
ALLOWED_IN_CODE = {
    "users 1 to 2,999": "which part of a data set is meant",
    "20 % to 80 %": "quantiles, named by the record's keys",
    " on two threads": "which record is meant",
    "20 more steps added": "named by the record's key",
}
NUMBER_WORDS = re.compile(
    r"\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|half|twice|third|"
    r"quarter|tenth|double)s?\b",
    re.IGNORECASE,
)
CODE = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)", re.DOTALL)
COMPUTED = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
MODULES = sorted(path.stem for path in TEMPLATES.parent.glob("[a-z]*.py"))


def typed(text):
    """Return the numbers of a template that are neither computed nor allowed."""
    for pattern in (COMPUTED, CODE):
        text = pattern.sub(" ", text)
    text = " ".join(text.split())
    for allowed in ALLOWED:
        text = re.sub(allowed, " ", text)
    return re.findall(r"\S*\d\S*", text) + [found[0] for found in NUMBER_WORDS.finditer(text)]


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.md")), ids=lambda path: path.stem)
def test_no_number_is_typed_into_a_template(path):
    assert typed(path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("costs 0.37 % online", ["0.37"]),
        ("below on two of {{ n }} streams", ["two"]),
        ("{{ percent(x, 2) }} by Eq. 7 of `--budget 0.25`, [see](page2.md)", []),
    ],
)
def test_a_typed_number_is_found(text, found):
    assert typed(text) == found


def prose_of(tree):
    """Yield the strings of code that are no docstrings and hold words with a number."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if id(node) not in docstrings and re.search(r"[a-z]{2,} ", text):
                yield text


@pytest.mark.parametrize("name", MODULES)
def test_no_number_is_typed_into_a_string(name):
    tree = ast.parse((TEMPLATES.parent / f"{name}.py").read_text())
    for text in prose_of(tree):
        assert not typed(text) or any(allowed in text for allowed in ALLOWED_IN_CODE)


def test_nothing_is_allowed_that_no_page_holds():
    templates = " ".join(" ".join(path.read_text().split()) for path in TEMPLATES.glob("*.md"))
    code = "".join((TEMPLATES.parent / f"{name}.py").read_text() for name in MODULES)
    for allowed in ALLOWED:
        assert re.search(allowed, templates + code), allowed
    for allowed in ALLOWED_IN_CODE:
        assert allowed in code, allowed


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("_")])
def test_examples(name):
    module = importlib.import_module(f"bench.pages.{name}")
    assert doctest.testmod(module).failed == 0


def test_sentences_are_short():
    """Of what is generated but for ``benchmarks``, which tells what a record says was timed."""
    pages = {path: text for path, text in every().items() if path.suffix == ".md"}
    for path, text in pages.items():
        if path.stem == "benchmarks":
            continue
        if path.stem == "README":
            text = text.partition("<!-- figures: begin -->")[2].partition("<!-- figures: end")[0]
        for block in re.sub(r"```.*?```", "", text, flags=re.DOTALL).split("\n\n"):
            if block.strip().startswith(("|", "#", "!", "<!--")):
                continue
            for sentence in re.split(r'(?<=[.!?:])\s+(?=["A-Z`\[-])', block):
                words = sentence.split()
                assert len(words) < 30, f"{path.name}: {' '.join(words)}"


def test_documents_name_files_that_are_there():
    root = TEMPLATES.parents[2]
    named = re.compile(r"`((?:autoemb|bench|csrc|docs|tests)/[\w/.]+)`")
    for document in [*root.glob("docs/*.md"), *root.glob("*.md")]:
        for path in named.findall(document.read_text()):
            assert (root / path).exists(), f"{document.name}: {path}"
