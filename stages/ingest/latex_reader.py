"""LaTeX to Markdown: headings, lists and tables; formulas stay as written, comments, preamble and layout go.

pylatexenc reads what is there: no file is included, no macro is run, so a document that defines its own language keeps the text
of its arguments and loses its notation outside formulas.
"""

from __future__ import annotations

import re
from typing import Any

from pylatexenc import latex2text, latexwalker
from pylatexenc.macrospec import MacroSpec

from stages.common.text import collapse_blanks
from stages.ingest.reasons import DropReason, UnusableError
from stages.ingest.tables import pipe_table

_LEVELS = {"part": 1, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4, "paragraph": 5}
# Names that packages give to their own sectioning (Open Logic's \olsection and the like).
_PREFIXES = ("", "ol")
_SILENT = (
    "label",
    "ollabel",
    "olfileid",
    "ref",
    "pageref",
    "index",
    "vspace",
    "hspace",
    "bibliographystyle",
    "includegraphics",
)
_TABLES = ("tabular", "tabular*", "tabularx", "longtable")
_DRAWINGS = ("tikzpicture", "pspicture", "picture", "filecontents", "filecontents*")
_VERBATIM = re.compile(r"\A\\begin\{\w+\}(?:\[[^\]]*\])?|\\end\{\w+\}\Z")
_TITLE = re.compile(r"\\(?:title|chapter|olchapter)\*?(?:\[[^\]]*\])?\{([^{}]{1,200})\}")
_INDENT = re.compile(r"^[ \t]+(?=\S)", re.MULTILINE)


def read_latex(source: str) -> tuple[str, str]:
    """(title or "", Markdown). Raises UnusableError (bad_latex, too_deep)."""
    title = _TITLE.search(source)
    body = source.partition("\\begin{document}")[2] if source.count("\\begin{document}") == 1 else source
    try:
        nodes, _, _ = latexwalker.LatexWalker(
            body, latex_context=_walker_context(), tolerant_parsing=True
        ).get_latex_nodes()
        text = _Converter(
            latex_context=_text_context(), math_mode="verbatim", strict_latex_spaces=False, keep_comments=False
        ).nodelist_to_text(nodes)
    except RecursionError:
        raise UnusableError(DropReason.TOO_DEEP, "groups are nested too deeply") from None
    except (latexwalker.LatexWalkerError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise UnusableError(DropReason.BAD_LATEX, f"{type(error).__name__}: {error}"[:300]) from None
    return collapse_blanks(title[1]) if title else "", _INDENT.sub("", text.replace("\xa0", " "))


class _Converter(latex2text.LatexNodes2Text):
    """pylatexenc's converter with tables of our own."""

    def macro_node_to_text(self, node: Any) -> str:
        try:
            return super().macro_node_to_text(node)
        except (IndexError, TypeError, AttributeError):  # fewer arguments than the macro's rule expects
            arguments = node.nodeargd.argnlist if node.nodeargd is not None else ()
            return "".join(self.nodelist_to_text([argument]) for argument in arguments if argument is not None)

    def environment_node_to_text(self, node: Any) -> str:
        if node.environmentname in _TABLES:
            return f"\n\n{pipe_table(_rows(node.nodelist, self))}\n\n"
        if node.environmentname in ("verbatim", "lstlisting"):
            code = _VERBATIM.sub("", node.latex_verbatim())
            return f"\n\n```\n{code.strip(chr(10))}\n```\n\n"
        return "" if node.environmentname in _DRAWINGS else super().environment_node_to_text(node)


def _walker_context() -> Any:
    context = latexwalker.get_default_latex_context_db()
    headings = [MacroSpec(prefix + name, "*[{") for name in _LEVELS for prefix in _PREFIXES]
    others = [
        MacroSpec("ollabel", "{"),
        MacroSpec("olfileid", "{{{"),
        MacroSpec("multirow", "[{[{[{"),
        MacroSpec("multicolumn", "{{{"),
        MacroSpec("caption", "[{"),
    ]
    context.add_context_category("longfuse", macros=headings + others, prepend=True)
    return context


def _text_context() -> Any:
    context = latex2text.get_default_latex_context_db()
    headings = [
        latex2text.MacroTextSpec(prefix + name, simplify_repl=_heading(level))
        for name, level in _LEVELS.items()
        for prefix in _PREFIXES
    ]
    silent = [latex2text.MacroTextSpec(name, simplify_repl="") for name in _SILENT]
    cite = [latex2text.MacroTextSpec(name, simplify_repl=_citation) for name in ("cite", "citet", "citep", "parencite")]
    caption = latex2text.MacroTextSpec("caption", simplify_repl=_caption)
    item = latex2text.MacroTextSpec("item", simplify_repl=_item)
    context.add_context_category("longfuse", macros=[*headings, *silent, *cite, caption, item], prepend=True)
    return context


def _argument(node: Any, number: int) -> Any:
    arguments = node.nodeargd.argnlist if node.nodeargd is not None else ()
    return arguments[number] if -len(arguments) <= number < len(arguments) else None


def _text(node: Any, converter: Any) -> str:
    return collapse_blanks(converter.nodelist_to_text([node])) if node is not None else ""


def _heading(level: int) -> Any:
    def repl(node: Any, l2tobj: Any) -> str:
        return f"\n\n{'#' * level} {_text(_argument(node, -1), l2tobj)}\n\n"

    return repl


def _citation(node: Any, l2tobj: Any) -> str:
    return f"[{_text(_argument(node, -1), l2tobj)}]"


def _caption(node: Any, l2tobj: Any) -> str:
    return f"\n\n{_text(_argument(node, -1), l2tobj)}\n\n"


def _item(node: Any, l2tobj: Any) -> str:
    label = _text(_argument(node, 0), l2tobj)
    return f"\n- {label} " if label else "\n- "


def _rows(nodes: Any, converter: Any) -> list[list[str]]:
    r"""Cells of a tabular: `&` and `\\` part them, rules go, \multicolumn and \multirow repeat their text."""
    rows: list[list[str]] = [[]]
    cell: list[Any] = []
    below: dict[int, tuple[str, int]] = {}

    def close_cell() -> None:
        width, height, text = 1, 1, ""
        spans = [node for node in cell if _macro(node) in ("multicolumn", "multirow")]
        if spans and spans[0].nodeargd is not None:
            text = _text(_argument(spans[0], -1), converter)
            count = _number(_text(_argument(spans[0], 0 if _macro(spans[0]) == "multicolumn" else 1), converter))
            width, height = (count, 1) if _macro(spans[0]) == "multicolumn" else (1, count)
        else:
            text = collapse_blanks(converter.nodelist_to_text(cell))
        for _ in range(width):
            column = len(rows[-1])
            above, left = below.pop(column, ("", 0))
            if left > 1:
                below[column] = (above, left - 1)
            if height > 1:
                below[column] = (text, height - 1)
            rows[-1].append(text or above)
        cell.clear()

    for node in nodes:
        if _macro(node) == "\\":
            close_cell()
            rows.append([])
        elif getattr(node, "specials_chars", None) == "&":
            close_cell()
        elif not (_macro(node) or "").endswith(("line", "rule")):
            cell.append(node)
    close_cell()
    return [row for row in rows if any(row)]


def _macro(node: Any) -> str | None:
    return getattr(node, "macroname", None)


def _number(text: str) -> int:
    return min(max(int(text), 1), 64) if text.isascii() and text.isdigit() and len(text) < 6 else 1
