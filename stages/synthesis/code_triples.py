"""Triples of Python source, read with `ast` and never executed: files, imports, classes, bases, methods, functions, constants.

    # file: rq/job.py                 (class Job) --defined in--> (rq/job.py)
    class Job(Base):                  (class Job) --base class--> Base, linked through the file's own import of that name
        def cancel(self): ...         (class Job) --method--> cancel

A repository is one document; every file begins with a line `# file: <path>`. A name bound twice in one file belongs to
neither. Imports are resolved inside the repository and, by package name, to the other repositories of the corpus.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter

from stages.common.records import Document
from stages.synthesis.code_files import CodeFile, code_files
from stages.synthesis.code_names import ImportedName, bound_once, imported_names, resolve_import, top_level
from stages.synthesis.triples import SHADOW, TripleRows

MAX_FILE_CHARACTERS = 400_000
MAX_LITERAL_CHARACTERS = 60
MIN_LITERAL_CHARACTERS = 2
_IGNORED_METHODS = re.compile(r"__\w+__")


def code_triples(document: Document, rows: TripleRows) -> int:
    """Add the triples of a repository; returns how many files could not be parsed."""
    unreadable = 0
    paths = {file.path for file in code_files(document.text)}
    for file in code_files(document.text):
        if not file.path.endswith(".py") or file.end - file.start > MAX_FILE_CHARACTERS:
            continue
        source = document.text[file.start : file.end]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # odd escapes in other people's strings
                tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            unreadable += 1
            continue
        _FileReader(document, file, source, paths, rows).read(tree)
    return unreadable


class _FileReader:
    """The triples of one parsed file."""

    def __init__(self, document: Document, file: CodeFile, source: str, paths: set[str], rows: TripleRows) -> None:
        self._document, self._file, self._source, self._paths, self._rows = document, file, source, paths, rows
        self._rule = "code"
        self._lines = [0]
        for line in source.split("\n"):
            self._lines.append(self._lines[-1] + len(line) + 1)
        self._module = f"module:{file.path}"

    def read(self, tree: ast.Module) -> None:
        package = self._file.path.split("/", 1)[0]
        at = self._file.line[0] + len("# file: ")
        if "/" in self._file.path:
            self._module_triple("package", package, "entity", (at, at + len(package)), [], tail=f"package:{package}")
        imported = imported_names(tree)
        names = bound_once(imported)
        bound = Counter(
            node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        )
        for found in imported:
            self._import(found, once=found.name in names)
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and bound[node.name] == 1 and node.name not in names:
                self._class(node, names, bound)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and bound[node.name] == 1:
                self._function(node)
            elif isinstance(node, ast.Assign) and len(node.targets) == 1:
                self._constant(node)
        self._shadows(tree, names, bound)

    def _shadows(self, tree: ast.Module, names: dict[str, ImportedName], bound: Counter[str]) -> None:
        """What is not asked about but may stand in the way of "the only one": nested classes, conditional constants ..."""
        self._rule = SHADOW
        for node, _ in top_level(tree.body):
            targets: list[ast.expr] = [node.target] if isinstance(node, ast.AnnAssign) else []
            for name in node.targets if isinstance(node, ast.Assign) else targets:
                if isinstance(name, ast.Name) and name.id.isupper():
                    self._module_triple("constant", name.id, "identifier", self._span(name), [self._span(name)])
        top = {id(node) for node in tree.body}
        for found in ast.walk(tree):
            if not isinstance(found, ast.ClassDef):
                continue
            plain = id(found) in top and bound[found.name] == 1 and found.name not in names
            key = f"class:{self._file.path}:{found.name}{'' if plain else f'#{found.lineno}'}"
            head = (key, found.name, "class")
            self._bases(head, found, names, bound)
            for item in ast.walk(found):
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                    line = self._line_span(item.lineno)
                    start = line[0] + self._text(line).find(f"def {item.name}") + 4
                    self._add(head, "method", item.name, "identifier", (start, start + len(item.name)), [line], [])

    def _span(self, node: ast.expr | ast.stmt | ast.alias) -> tuple[int, int]:
        """Characters of a node in the document (ast counts columns in UTF-8 bytes)."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _at(self, line: int, column_bytes: int) -> int:
        start = self._lines[line - 1]
        text = self._source[start : self._lines[line] - 1]
        column = column_bytes if text.isascii() else len(text.encode()[:column_bytes].decode(errors="ignore"))
        return self._file.start + start + column

    def _line_span(self, line: int) -> tuple[int, int]:
        start = self._file.start + self._lines[line - 1]
        return start, self._file.start + self._lines[line] - 1

    def _text(self, span: tuple[int, int]) -> str:
        return self._document.text[span[0] : span[1]]

    def _add(
        self,
        head: tuple[str, str, str],
        relation: str,
        text: str,
        tail_type: str,
        span: tuple[int, int],
        evidence: list[tuple[int, int]],
        labels: list[str],
        tail: str = "",
        link: str = "",
        number: str = "",
    ) -> None:
        if self._text(span) != text:
            return  # continuation lines, tabs: a span that is not what it claims is no span
        self._rows.add(
            head=head[0],
            head_name=head[1],
            head_type=head[2],
            relation=relation,
            tail_text=text,
            tail_type=tail_type,
            document_id=self._document.id,
            span=span,
            evidence=[self._file.line, *evidence],
            labels=[f"# file: {self._file.path}", *labels],
            rule=self._rule,
            tail=tail,
            link=link,
            number=number,
        )

    def _module_triple(
        self,
        relation: str,
        text: str,
        tail_type: str,
        span: tuple[int, int],
        evidence: list[tuple[int, int]],
        labels: tuple[str, ...] = (),
        tail: str = "",
    ) -> None:
        head = (self._module, self._file.path, "module")
        self._add(head, relation, text, tail_type, span, evidence, list(labels), tail)

    def _import(self, found: ImportedName, *, once: bool) -> None:
        target = resolve_import(self._file.path, found, self._paths)
        span = self._span(found.node)
        source = self._text(span)
        written = "." * found.level + found.module
        offset = source.find(written)
        if target is None or offset < 0 or target == self._file.path:
            return
        start = span[0] + offset
        relation = f"import of {found.name}"
        line = self._line_span(found.node.lineno)
        evidence = span if span[1] - span[0] <= 600 else line
        if once and found.name in self._text(evidence):
            place = (start, start + len(written))
            self._module_triple(relation, written, "import", place, [evidence], (found.name,), f"module:{target}")
        self._rule = SHADOW if found.conditional else "code"
        place = (start, start + len(written))
        self._module_triple("imports", written, "entity", place, [evidence], (), f"module:{target}")
        self._rule = "code"

    def _class(self, node: ast.ClassDef, names: dict[str, ImportedName], bound: Counter[str]) -> None:
        line = self._line_span(node.lineno)
        key = f"class:{self._file.path}:{node.name}"
        head = (key, node.name, "class")
        label = f"class {node.name}"
        self._defined(head, line, label)
        self._bases(head, node, names, bound)
        counted = Counter(item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef))
        for item in node.body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and counted[item.name] == 1:
                self._method(head, label, line, item)
            elif isinstance(item, ast.Assign) and len(item.targets) == 1 and isinstance(item.targets[0], ast.Name):
                self._literal(
                    head,
                    f"attribute {item.targets[0].id}",
                    item.value,
                    [line, self._line_span(item.lineno)],
                    [label, item.targets[0].id],
                )

    def _bases(
        self, head: tuple[str, str, str], node: ast.ClassDef, names: dict[str, ImportedName], bound: Counter[str]
    ) -> None:
        line = self._line_span(node.lineno)
        label = f"class {node.name}"
        for base in node.bases:
            span = self._span(base)
            text = self._text(span)
            if not re.fullmatch(r"[A-Za-z_][\w.]{1,60}", text):
                continue
            if span[1] > line[1] and self._rule != SHADOW:
                continue  # bases on lines of their own
            tail = link = ""
            if text in bound and bound[text] == 1 and text not in names:
                tail = f"class:{self._file.path}:{text}"
            elif text in names and not names[text].whole_module:
                target = resolve_import(self._file.path, names[text], self._paths)
                if target is not None and names[text].original == text:
                    tail, link = f"class:{target}:{text}", f"import of {text}"
            self._add(head, "base class", text, "entity" if tail else "identifier", span, [line], [label], tail, link)

    def _defined(self, head: tuple[str, str, str], line: tuple[int, int], label: str) -> None:
        at = self._file.line[0] + len("# file: ")
        span = (at, at + len(self._file.path))
        self._add(head, "defined in", self._file.path, "entity", span, [line], [label], f"{self._module}")

    def _method(
        self,
        head: tuple[str, str, str],
        label: str,
        line: tuple[int, int],
        node: ast.FunctionDef | ast.AsyncFunctionDef,
    ) -> None:
        def_line = self._line_span(node.lineno)
        start = def_line[0] + self._text(def_line).find(f"def {node.name}") + 4
        if not _IGNORED_METHODS.fullmatch(node.name):
            self._add(
                head, "method", node.name, "identifier", (start, start + len(node.name)), [line, def_line], [label]
            )
        for argument, default in _defaults(node):
            relation = f"default of {argument} in {node.name}"
            self._literal(
                head,
                relation,
                default,
                [line, self._span_lines(node.lineno, default)],
                [label, f"def {node.name}", argument],
            )

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        head = (f"function:{self._file.path}:{node.name}", node.name, "function")
        line = self._line_span(node.lineno)
        label = f"def {node.name}"
        self._defined(head, line, label)
        for argument, default in _defaults(node):
            self._literal(
                head, f"default of {argument}", default, [self._span_lines(node.lineno, default)], [label, argument]
            )
        if node.returns is not None:
            span = self._span(node.returns)
            text = self._text(span)
            if re.fullmatch(r"[A-Za-z_][\w.\[\], |]{2,50}", text) and text != "None":
                self._add(
                    head,
                    "return annotation",
                    text,
                    "identifier",
                    span,
                    [self._span_lines(node.lineno, node.returns)],
                    [label],
                )

    def _span_lines(self, first: int, node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None
        return self._line_span(first)[0], self._line_span(node.end_lineno)[1]

    def _constant(self, node: ast.Assign) -> None:
        target = node.targets[0]
        if not isinstance(target, ast.Name) or not target.id.isupper() or len(target.id) < 4:
            return
        line = self._line_span(node.lineno)
        start = self._span(target)
        self._module_triple("constant", target.id, "identifier", start, [line])
        head = (self._module, self._file.path, "module")
        self._literal(head, f"constant {target.id}", node.value, [line], [target.id])

    def _literal(
        self,
        head: tuple[str, str, str],
        relation: str,
        value: ast.expr,
        evidence: list[tuple[int, int]],
        labels: list[str],
    ) -> None:
        """A string or number written there; the string's characters without its quotes."""
        if not isinstance(value, ast.Constant) or isinstance(value.value, bool) or value.value is None:
            return
        span = self._span(value)
        if any(end - start > 600 for start, end in evidence) or not any(
            s <= span[0] and span[1] <= e for s, e in evidence
        ):
            return
        if isinstance(value.value, str):
            text = value.value
            offset = self._text(span).find(text)
            if (
                not MIN_LITERAL_CHARACTERS <= len(text) <= MAX_LITERAL_CHARACTERS
                or offset < 0
                or not any(map(str.isalnum, text))
            ):
                return
            if text != " ".join(text.split()):
                return
            self._add(
                head, relation, text, "string", (span[0] + offset, span[0] + offset + len(text)), evidence, labels
            )
        elif isinstance(value.value, int) and 2 <= value.value < 10**15:
            self._add(head, relation, self._text(span), "number", span, evidence, labels, number=str(value.value))


def _defaults(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[tuple[str, ast.expr]]:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    found = list(
        zip([a.arg for a in positional[len(positional) - len(arguments.defaults) :]], arguments.defaults, strict=True)
    )
    found += [(a.arg, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None]
    return found
