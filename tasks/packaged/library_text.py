"""Text that Python itself ships: source files, and reference text made of docstrings.

A module shows up either as code or as docs, never as both, because its docstrings stand in its source too: so text
of one domain does not give away held-out text of the other.
"""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Tests, bundled packages, build leftovers, and tables that are data in the form of code.
SKIPPED_FOLDERS = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "encodings",
    "_bundled",
    "__pycache__",
}
SKIPPED_FILES = {"pydoc_data/topics.py"}
DOCS_SHARE = 2  # one module in so many becomes docs

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def library_code(files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield source files of the standard library."""
    yield from _modules(as_docs=False)


def library_docs(files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield the topics of the language reference, then the docstrings of standard modules, one document each."""
    yield from _topics()
    for name, source in _modules(as_docs=True):
        yield name, reference_text(name, source)


def reference_text(name: str, source: str) -> str:
    """Return the docstrings of a module's source as a reference page: signature, then what it does."""
    module = ast.parse(source)
    title = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    sections = [f"{title}\n{'=' * len(title)}\n\n{ast.get_docstring(module) or ''}".rstrip()]
    sections += _sections(module, title)
    return "\n\n".join(sections) + "\n" if len(sections) > 1 or ast.get_docstring(module) else ""


def _sections(parent: Documented, prefix: str) -> Iterator[str]:
    for node in parent.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = f"{prefix}.{node.name}"
        if text := ast.get_docstring(node):
            yield f"{_signature(node, name)}\n\n" + "\n".join(f"    {line}".rstrip() for line in text.splitlines())
        if isinstance(node, ast.ClassDef):
            yield from _sections(node, name)


def _signature(node: Documented, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {name}"
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return f"{name}({ast.unparse(node.args)})"


def _topics() -> Iterator[tuple[str, str]]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions of Python leave it out
        return
    yield from ((f"topics/{name}", topics[name].strip() + "\n") for name in sorted(topics))


def _modules(*, as_docs: bool) -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if SKIPPED_FOLDERS & set(path.relative_to(root).parts) or name in SKIPPED_FILES or "sysconfigdata" in name:
            continue
        is_docs = hashlib.sha256(name.encode()).digest()[0] % DOCS_SHARE == 0
        if is_docs == as_docs and (source := _source(path)):
            yield name, source


def _source(path: Path) -> str | None:
    """Return a module's source, or None where it is not UTF-8 or not Python (templates are neither)."""
    try:
        source = path.read_bytes().decode()
        ast.parse(source)
    except (UnicodeDecodeError, SyntaxError, ValueError):
        return None
    return source
