"""Code dependencies of every stage in dvc.yaml, generated: `python -m flows.dvc_deps` (`--check`: only compare).

A stage depends on its run module, its config module and everything inside stages/ that these import, directly or not:
imports inside functions count, those under `if TYPE_CHECKING` do not, packages bring their `__init__.py`. A module named
in a string (`"stages.x.y:run"`, for lazy loading) counts as imported. A file beside the code that is no module (a prompt,
a template) is a dependency of whoever imports a module that names it. flows/ and infra/ are never dependencies: they
decide where and when a stage runs, not what it makes.

dvc.yaml's comments stay; dependencies outside stages/ stay as they are.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.catalog import CATALOG, StageSpec
from flows.yaml_io import write_if_different
from stages.common.errors import ConfigError, UserError

PACKAGE = "stages"
_MODULE_NAME = re.compile(rf"{PACKAGE}(\.\w+)+")
_IGNORED = frozenset({".pyc", ".typed"})


class CodeGraph:
    """Files inside the package and which of them each one uses."""

    def __init__(self, root: Path, package: str = PACKAGE) -> None:
        self.root = root
        folder = root / package
        self.modules = {_module_name(path.relative_to(root)): path for path in sorted(folder.rglob("*.py"))}
        self.data_files = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and path.suffix != ".py"
            and path.suffix not in _IGNORED
            and "__pycache__" not in path.parts
        ]
        self._uses: dict[Path, frozenset[Path]] = {}

    def files_of(self, *modules: str) -> list[str]:
        """Everything that modules need, as paths relative to the project, sorted. ConfigError if one does not exist."""
        waiting: list[Path] = []
        for module in modules:
            if module not in self.modules:
                raise ConfigError(f"{module} does not exist, but flows/catalog.py names it.")
            waiting += self._with_packages(module)
        found: set[Path] = set()
        while waiting:
            path = waiting.pop()
            if path not in found:
                found.add(path)
                waiting += self.uses(path)
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def uses(self, path: Path) -> frozenset[Path]:
        """Files that one file names: imported modules with their packages, data files."""
        if path not in self._uses:
            text = path.read_text(encoding="utf-8", errors="replace")
            used = {file for file in self.data_files if file != path and file.name in text}
            if path.suffix == ".py":
                for module in _named_modules(ast.parse(text, str(path)), self._package_of(path)):
                    used.update(self._with_packages(module))
            self._uses[path] = frozenset(used)
        return self._uses[path]

    def unnamed_data_files(self) -> list[str]:
        """Data files that no module names: a stage may read them without dvc.yaml knowing."""
        named = {file for path in [*self.modules.values(), *self.data_files] for file in self.uses(path)}
        return [path.relative_to(self.root).as_posix() for path in self.data_files if path not in named]

    def _with_packages(self, name: str) -> list[Path]:
        """The file of a module and the `__init__.py` of every package above; of `a.b.function` those of `a.b`."""
        parts = name.split(".")
        prefixes = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
        return [self.modules[prefix] for prefix in prefixes if prefix in self.modules]

    def _package_of(self, path: Path) -> str:
        return ".".join(path.relative_to(self.root).parent.parts)


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _named_modules(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names that may be modules: of imports and of strings."""
    for node in _outside_type_checking(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = module or ""
                if level:
                    parts = package.split(".")
                    base = ".".join([*parts[: len(parts) - level + 1], *([module] if module else [])])
                yield from (f"{base}.{alias.name}" for alias in names)
            case ast.Constant(value=str() as text) if _MODULE_NAME.fullmatch(text.partition(":")[0]):
                yield text.partition(":")[0]
            case _:
                continue


def _outside_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from _outside_type_checking(other)
            continue
        yield child
        yield from _outside_type_checking(child)


def code_deps(root: Path, spec: StageSpec, graph: CodeGraph | None = None) -> list[str]:
    """The code that one stage depends on."""
    return (graph or CodeGraph(root)).files_of(spec.run_module, spec.config.split(":")[0])


def group_deps(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """(entry of dvc.yaml -> code dependencies, modules that do not exist yet); a foreach group has the union."""
    graph = CodeGraph(root)
    groups: dict[str, set[str]] = {}
    missing: list[str] = []
    for spec in CATALOG.values():
        group = groups.setdefault(spec.name.split("@")[0], set())
        modules = [spec.run_module, spec.config.split(":")[0]]
        absent = [module for module in modules if module not in graph.modules]
        missing += [f"{module} (stage {spec.name})" for module in absent]
        group.update(graph.files_of(*[module for module in modules if module not in absent]))
    return {name: sorted(files) for name, files in groups.items()}, missing


def updated_dvc_yaml(root: Path, groups: dict[str, list[str]]) -> str:
    """The text of dvc.yaml with these code dependencies."""
    from io import StringIO

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 1000
    text = (root / "dvc.yaml").read_text(encoding="utf-8")
    document: Any = yaml.load(text)
    for name, files in groups.items():
        if name not in document["stages"]:
            raise ConfigError(f"dvc.yaml has no stage {name!r}, but flows/catalog.py has.")
        entry = document["stages"][name]
        _replace_code(entry.get("do", entry), files)
    out = StringIO()
    yaml.dump(document, out)
    return _blank_lines_between_stages(out.getvalue())


def _replace_code(entry: Any, files: list[str]) -> None:
    """Generated dependencies stand after the others, which keep their order."""
    if "deps" not in entry:
        if not files:
            return
        entry.insert(list(entry).index("outs"), "deps", [])
    deps = entry["deps"]
    for index in reversed(range(len(deps))):
        if str(deps[index]).startswith(f"{PACKAGE}/"):
            del deps[index]
    deps.extend(files)


def _blank_lines_between_stages(text: str) -> str:
    """One empty line before each stage: ruamel keeps such lines with the item before, which may have been replaced."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if inside and not line.strip():
            continue
        if inside and re.match(r"  \S+:", line) and lines[-1] != "stages:":
            lines.append("")
        inside = inside or line == "stages:"
        lines.append(line)
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write dvc.yaml, or compare it with `--check`; the exit code is 1 if it is stale, 2 for an error."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m flows.dvc_deps [--check]\n")
        return 2
    root = Path(__file__).resolve().parent.parent
    try:
        groups, missing = group_deps(root)
        text = updated_dvc_yaml(root, groups)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    unnamed = CodeGraph(root).unnamed_data_files()
    for module in missing:
        sys.stderr.write(f"{module} does not exist.\n")
    for name in unnamed:
        sys.stderr.write(f"{name}: no module names this file, so no stage depends on it. Name it where it is read.\n")
    if arguments:
        stale = text != (root / "dvc.yaml").read_text(encoding="utf-8")
        if stale:
            sys.stderr.write("dvc.yaml: code dependencies are not those of the imports. Run `make dvc-deps`.\n")
        return 1 if stale or missing or unnamed else 0
    sys.stdout.write(
        "dvc.yaml written.\n" if write_if_different(root / "dvc.yaml", text) else "dvc.yaml is up to date.\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
