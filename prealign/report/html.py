"""The parts of a standalone HTML page: it opens from disk and fetches nothing.

Whatever a model wrote is hostile until escaped. Besides, the page names the only style sheet and
script that a browser may use by their hashes, so nothing in a sample could run even unescaped.
"""

import base64
import hashlib
import re
from html import escape

from prealign.report.style import SCRIPT, STYLE
from prealign.report.tables import Table
from prealign.report.visible import visible

WITH_INTERVAL = re.compile(r"(.+?) \((.+)\)(.*)")


def whole_page(title: str, body: str) -> str:
    """Return a page with this title, which is any text, and this body, which is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{words(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main><script>{SCRIPT}</script></body></html>\n"
    )


def words(text: object) -> str:
    """Return any text as HTML."""
    return escape(visible(str(text)))


def table_html(table: Table, note: str = "") -> str:
    """Return a section with the table; nothing for a table without rows."""
    if not table.rows:
        return ""
    text_columns = table.text_columns
    head = "".join(
        f'<th scope="col"{_side(i, text_columns)}>{words(cell)}</th>'
        for i, cell in enumerate(table.head)
    )
    rows = []
    for row in table.rows:
        cells = [f'<th scope="row">{words(row[0])}</th>']
        cells += [f"<td{_side(i, text_columns)}>{_cell(row[i])}</td>" for i in range(1, len(row))]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    foot = f'<p class="note">{words(note)}</p>' if note else ""
    return (
        f'<section><h2>{words(table.title)}</h2><div class="scroll" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{foot}"
        "</section>"
    )


def _side(column: int, words: int) -> str:
    return ' class="word"' if column < words else ""


def _cell(text: str) -> str:
    """Return a cell; the interval of a number stands below it."""
    match = WITH_INTERVAL.fullmatch(text)
    if match is None or not match[1].endswith((*"0123456789", "%", "infinite")):
        return words(text)
    return f"{words(match[1] + match[3])}<small>{words(match[2])}</small>"


def _policy() -> str:
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (STYLE, SCRIPT)
    ]
    return f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"
