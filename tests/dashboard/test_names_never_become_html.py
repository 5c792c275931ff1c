"""The dashboard uses no function that could interpret a name as HTML or code."""

import ast
import re
from pathlib import Path

import pytest

import trainvitals_dashboard

PACKAGE = Path(trainvitals_dashboard.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
BOARD = PACKAGE / "parts" / "board.py"
"""The one file that may load a component: our own script from the wheel."""
APP = PACKAGE / "app.py"
"""The one file that may add HTML: a constant style sheet."""
SCRIPTS = sorted((Path(__file__).parents[2] / "dashboard" / "board" / "src").glob("*.js"))
HTML = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function")
UNSAFE = {"html", "iframe", "components", "component", "declare_component", "write", "help"}
"""Attributes of `st` that show raw HTML, run other code, or choose how to show a value."""


def unsafe_uses(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.keyword(arg="unsafe_allow_html"):
                found.append("unsafe_allow_html")
            case ast.Attribute(value=ast.Name(id="st"), attr=attribute) if attribute in UNSAFE:
                found.append(f"st.{attribute}")
            case ast.ImportFrom(module=str(module)) if "components" in module:
                found.append(module)
            case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__" as name)):
                found.append(name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_file_uses_one(path):
    found = unsafe_uses(path.read_text())
    if path == BOARD:
        found = [name for name in found if not name.startswith("streamlit.components.v2")]
    if path == APP:
        found.remove("st.html")
    assert found == []


def test_the_html_of_the_app_is_a_constant_style_sheet():
    tree = ast.parse(APP.read_text())
    [html] = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and "st.html" in ast.unparse(n)]
    assert ast.unparse(html) == "st.html(STYLE)"
    [style] = [n for n in ast.walk(tree) if isinstance(n, ast.Assign) and _names(n) == ["STYLE"]]
    text = ast.literal_eval(style.value)
    assert text.startswith("<style>")
    assert text.count("<") == 2


def _names(assignment):
    return [ast.unparse(target) for target in assignment.targets]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_of_the_board_makes_html_or_code_of_a_text(path):
    assert HTML.findall(path.read_text()) == []


def test_the_lint_reads_the_board():
    assert "chart.js" in [path.name for path in SCRIPTS]
    assert HTML.findall("root.innerHTML = name") == ["innerHTML"]


@pytest.mark.parametrize(
    "sick",
    [
        "st.markdown(name, unsafe_allow_html=True)",
        "st.html(name)",
        "from streamlit.components.v1 import html",
        "eval(name)",
    ],
)
def test_the_lint_finds_each_unsafe_use(sick):
    assert unsafe_uses(sick)


def test_there_is_no_magic_pages_folder():
    assert not (Path(trainvitals_dashboard.__file__).parent / "pages").exists()


def test_no_chart_puts_text_into_a_template():
    """A formatter is a template, and HTML in a tooltip: only constants go in."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Dict):
                continue
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in ("formatter", "rich"):
                    numbers = isinstance(value, ast.JoinedStr) and all(
                        isinstance(part, ast.Constant)
                        or (isinstance(part.value, ast.Name) and part.value.id == "exponent")
                        for part in value.values
                    )
                    assert isinstance(value, ast.Constant) or numbers, f"{path.name}: {key.value}"
