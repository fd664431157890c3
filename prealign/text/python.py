"""Python source as a syntax tree, where it is one."""

import ast
import warnings


def parsed(text: str) -> ast.Module | None:
    """Return the text's syntax tree; None if it is no Python that this interpreter reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is odd about a text is no concern of ours
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
