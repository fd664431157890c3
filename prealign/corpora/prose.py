"""English that is installed here: the docstrings of packages, and what they say of themselves."""

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prealign.corpora.source import PythonSource
from prealign.text.document import Document
from prealign.text.python import parsed

EVERYTHING = PythonSource()
DEFINED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, kw_only=True)
class PackageProse:
    """One document per Python file, its docstrings, and one per installed package, its METADATA.

    The source of a document is that of its file, as `PythonSource` names it; metadata have
    `metadata/NAME`. Files that do not parse, and those without docstrings, give none.
    """

    source: PythonSource = EVERYTHING
    metadata: bool = True
    """Also the METADATA of installed packages: authors, addresses, descriptions."""

    def __call__(self) -> Iterator[Document]:
        """Yield the docstrings file by file, then the metadata by name."""
        for document in self.source():
            text = docstrings(document.text)
            if text:
                yield Document(f"{document.id}#docstrings", text, source=document.source)
        if self.metadata:
            paths = sysconfig.get_paths()
            folders = sorted({Path(paths["purelib"]), Path(paths["platlib"])})
            for folder in folders:
                for file in sorted(folder.glob("*.dist-info/METADATA")):
                    name = file.parent.name.partition("-")[0]
                    text = file.read_bytes().decode(errors="surrogateescape")
                    yield Document(f"metadata/{name}", text, source=f"metadata/{name}")


def docstrings(source: str) -> str:
    """Return the docstrings of a module and of all that it defines, in order, a blank line between.

    Empty if there are none, or the text is no Python.
    """
    tree = parsed(source)
    if tree is None:
        return ""
    found = [
        (getattr(node, "lineno", 0), text)
        for node in ast.walk(tree)
        if isinstance(node, DEFINED) and (text := (ast.get_docstring(node) or "").strip())
    ]
    found.sort(key=lambda one: one[0])
    return "".join(text + "\n\n" for _, text in found)[:-1]
