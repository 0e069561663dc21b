"""What CONTRIBUTING says of the house: one way of imports, short functions, a light library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "autoemb"

#: Rooms from the ground up; a module imports from its own room and from those before it. Modules at
#: the top of the package are rooms of their own.
ROOMS = (
    ("errors",),
    (
        "files",
        "declared",
        "runtime",
        "_runtime",
        "_runtime_python",
        "_statistics_python",
        "_arrays",
    ),
    ("schema", "batch"),
    ("tasks", "ops"),
    ("build", "metrics"),
    ("optim", "nn", "data"),
    ("recipe", "bilevel"),
    ("streaming",),
    ("learners",),
    ("__init__",),
    ("serving",),
    ("lab",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}

LONGEST = 60


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree):
    """Yield the rooms that a module imports from when it is loaded or called."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
            if node.module == "autoemb":
                names = [f"autoemb.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "autoemb":
                yield rest.split(".")[0] or "__init__"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    own = FLOOR[room_of(path)]
    for room in imported(ast.parse(path.read_text())):
        # `from autoemb import name` of the top module's names is an import of the top module.
        floor = FLOOR.get(room, FLOOR["__init__"])
        assert floor <= own, f"{path.relative_to(PACKAGE)} imports from {room}"


def length_of(function):
    """Return the lines of a function without its docstring, which is for readers elsewhere."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_functions_are_short():
    long = {}
    for folder in (PACKAGE, PACKAGE.parent / "bench"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and length_of(node) > LONGEST:
                    long[f"{path.name}:{node.name}"] = length_of(node)
    assert long == {}


def test_the_library_loads_nothing_of_the_command_line():
    heavy = "polars", "typer", "rich", "matplotlib", "jinja2", "autoemb.lab", "autoemb.data"
    code = f"import autoemb, sys; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
