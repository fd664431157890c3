"""The rules that keep the code small and one-directional. Each failure says how to mend it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "prealign"

# A room imports from lower rows only: never from its own row, never from above.
ROWS = [
    {"errors"},
    {"config"},
    {"runs"},
    {"text"},
    {"ask", "hub"},
    {"tokens", "score", "corpora", "objectives"},
    {"models", "guard"},
    {"train"},
    {"posttrain", "evals"},
    {"harden"},
    {"lab", "report", "serve"},
    {"recipes"},
    {"cli"},
]
LEVEL = {name: level for level, row in enumerate(ROWS) for name in row}
ONLY = {"report": {"errors", "config", "runs", "text"}}
TORCH_FREE = {
    "errors",
    "config",
    "runs",
    "text",
    "ask",
    "hub",
    "tokens",
    "score",
    "corpora",
    "report",
    "cli",
}
TORCH_FREE_FILES = {
    f"guard/{name}.py"
    for name in (
        "audit", "audit_leaks", "audit_read", "audit_report", "audit_routes", "audit_show",
        "boundary", "export", "hostile", "nesting", "policy", "table",
    )
}  # fmt: skip
LATE_IMPORTS = {"cli.py"}  # the command line must start without torch
MAX_LINES = 500
MAX_FUNCTION_LINES = 100
FILES = [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]
NAMES = [p.relative_to(ROOT).as_posix() for p in FILES]


def room(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""


@pytest.fixture(params=NAMES)
def parsed(request: pytest.FixtureRequest) -> tuple[str, ast.Module]:
    return request.param, ast.parse((ROOT / request.param).read_text())


def test_imports_point_down(parsed):
    file, tree = parsed
    home = room(file)
    assert home in LEVEL, f"{file}: {home!r} is no room; see DESIGN, or add it to ROWS"
    for line, name in imports(tree):
        top, _, rest = name.partition(".")
        to = rest.partition(".")[0]
        if top == "prealign" and to and to != home:
            fine = LEVEL[to] < LEVEL[home] and to in ONLY.get(home, {to})
            assert fine, f"{file}:{line}: {home} may not import {to}; move what they share down"


def test_light_rooms_import_no_torch(parsed):
    file, tree = parsed
    if room(file) in TORCH_FREE or file in TORCH_FREE_FILES:
        for line, name in imports(tree):
            heavy = name.split(".")[0] in {"torch", "transformers"}
            assert not heavy, f"{file}:{line}: {room(file)} must import without torch"


def test_imports_are_at_the_top(parsed):
    file, tree = parsed
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and file not in LATE_IMPORTS:
            late = [line for line, _ in imports(node)]
            assert not late, f"{file}:{late[0]}: import at the top of the file"


def test_files_and_functions_can_be_read_in_one_sitting(parsed):
    file, tree = parsed
    lines = (ROOT / file).read_text().count("\n")
    assert lines <= MAX_LINES, f"{file}: {lines} lines, the limit is {MAX_LINES}; split it"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, (
                f"{file}:{node.lineno}: {node.name} has {length} lines, the limit is "
                f"{MAX_FUNCTION_LINES}; split it"
            )


def test_every_module_says_what_it_is(parsed):
    file, tree = parsed
    assert ast.get_docstring(tree), f"{file}: begin with a docstring"
