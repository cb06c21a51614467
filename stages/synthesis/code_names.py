"""Which file an import means: `from .exc import BadData` in itsdangerous/signer.py is itsdangerous/exc.py."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ImportedName:
    """A name that an import statement binds at the top of a file.

    name: as bound; original: as the other file calls it; module, level: "exc", 1 for `.exc`.
    whole_module: `import x` (no name is taken out of it). conditional: inside `if`, `try` and the like.
    """

    name: str
    original: str
    module: str
    level: int
    whole_module: bool
    conditional: bool
    node: ast.Import | ast.ImportFrom


def imported_names(tree: ast.Module) -> list[ImportedName]:
    """Names that the imports of a file's top level bind, also under a condition, in order; a name may occur twice."""
    found: list[ImportedName] = []
    for node, conditional in top_level(tree.body):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = alias.asname or alias.name
                found.append(ImportedName(name, alias.name, node.module or "", node.level, False, conditional, node))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".", 1)[0]
                found.append(ImportedName(bound, alias.name, alias.name, 0, True, conditional, node))
    return found


def top_level(body: Sequence[ast.stmt], *, conditional: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Statements that run when a file is imported, outside of classes and functions; True: only under a condition."""
    for node in body:
        yield node, conditional
        if isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While):
            inner = [*node.body, *getattr(node, "orelse", []), *getattr(node, "finalbody", [])]
            inner += [statement for handler in getattr(node, "handlers", []) for statement in handler.body]
            yield from top_level(inner, conditional=True)


def bound_once(names: list[ImportedName]) -> dict[str, ImportedName]:
    """The names that one import alone binds."""
    counts = Counter(item.name for item in names)
    return {item.name: item for item in names if counts[item.name] == 1 and item.name != "*" and not item.conditional}


def import_target(path: str, module: str, level: int) -> str:
    """The module that is meant, as a path without suffix: ("a/b/c.py", "exc", 1) -> "a/b/exc"; "" if it leaves the tree."""
    parts = module.split(".") if module else []
    if level == 0:
        return "/".join(parts)
    folder = path.split("/")[:-1]
    if level - 1 > len(folder):
        return ""
    return "/".join([*folder[: len(folder) - level + 1], *parts])


def resolve_import(path: str, found: ImportedName, paths: Collection[str]) -> str | None:
    """The file that an import means, or None if that is no file of the repository nor one of another package.

    `from .a import b` may mean the file a.py or the file a/b.py: the second where it exists. Files of other packages cannot
    be seen from here: "click/core" becomes "click/core.py", which the graph drops if there is no such file.
    """
    target = import_target(path, found.module, found.level)
    if not target:
        return None
    inside = {f"{target}.py", f"{target}/__init__.py"}
    if not found.whole_module:
        inner = f"{target}/{found.original}.py"
        if inner in paths:
            return inner
    for candidate in sorted(inside):
        if candidate in paths:
            return candidate
    if found.level == 0 and target.split("/", 1)[0] != path.split("/", 1)[0]:
        return f"{target}.py" if "/" in target else f"{target}/__init__.py"
    return None
