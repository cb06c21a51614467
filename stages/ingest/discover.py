"""Walks a folder of documents and says what becomes one document: a file, or a whole Python repository.

Names and links are untrusted: nothing here opens a file, follows a link to a folder or recurses.

    general/peru.md                     -> general/peru             one file
    code/pluggy/pluggy/_manager.py ...  -> code/pluggy              a tree: every .py file below it
    tool/pyproject.toml, tool/src/a.py  -> code/tool                a tree: the folder that says how it is built
    notes/todo.txt                      -> general/notes/todo       no category folder: by format
    chats/june.jsonl.gz                 -> dialogues/chats/june     unpacked as it is read
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from stages.common.records import Category
from stages.ingest.reasons import DropReason

CATEGORIES = frozenset(category.value for category in Category)
DIALOGUE_SUFFIXES = (".json", ".jsonl", ".ndjson")
LINE_SUFFIXES = (".jsonl", ".ndjson")  # one document per line

_LICENCE = re.compile(r"(LICEN[SC]E|COPYING|NOTICE)([-._].*)?")
_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg")  # they make their folder a repository
_PYTHON_SUFFIXES = (".py", ".pyi")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is parsed together and cached together.

    source: path relative to the corpus, with `/`: a file, or the folder of a Python tree.
    members: the files to read, relative to the corpus; a tree has several.
    """

    id: str
    category: Category
    source: str
    members: tuple[str, ...]

    @property
    def is_tree(self) -> bool:
        return self.members != (self.source,)

    @property
    def by_line(self) -> bool:
        return not self.is_tree and suffix_of(self.source) in LINE_SUFFIXES


@dataclass
class Discovery:
    """What the walk found. `files` counts everything that was looked at, skipped ones included.

    notices: licence files and SOURCES.md, in order of their paths; they are no documents, but say what others may do with them.
    """

    units: list[Unit] = field(default_factory=list)
    dropped: list[tuple[str, DropReason, str]] = field(default_factory=list)  # path, reason, detail
    notices: list[str] = field(default_factory=list)
    files: int = 0
    skipped: int = 0


def suffix_of(path: str) -> str:
    """`a/B.TXT` -> `.txt`, `a.jsonl.gz` -> `.jsonl`"""
    return PurePosixPath(_unpacked(path)).suffix.lower()


def without_suffix(path: str) -> str:
    """`a/B.TXT` -> `a/B`, `a.jsonl.gz` -> `a`"""
    return str(PurePosixPath(_unpacked(path)).with_suffix(""))


def _unpacked(path: str) -> str:
    inner = path[:-3]
    return inner if path.lower().endswith(".gz") and PurePosixPath(inner).suffix else path


def printable_path(path: str) -> str:
    """A path that any file can hold: escapes where the name has control characters or undecodable bytes."""
    return path if _good_name(path) else ascii(path)[1:-1]


def _good_name(name: str) -> bool:
    # Cc: control characters; Cs: how Python shows undecodable bytes; Zl, Zp: line and paragraph separators.
    return all(unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") for character in name)


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name in ("SOURCES.md", "__pycache__") or bool(_LICENCE.fullmatch(name))


def discover(root: Path) -> Discovery:
    """Every unit below `root`, sorted by id; what cannot be one is in `dropped`."""
    found = Discovery()
    real_root = os.path.realpath(root)
    files: list[str] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as listing:
                entries = list(listing)
        except OSError as error:
            found.dropped.append((folder or ".", DropReason.UNREADABLE, error.strerror or "cannot be listed"))
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if _is_skipped(entry.name):
                found.files += 1
                found.skipped += 1
                if _is_notice(entry):
                    found.notices.append(path)
                continue
            kind, reason = _classify(entry, real_root)
            if kind == "folder":
                folders.append(path)
                continue
            found.files += 1
            if kind == "file":
                files.append(path)
            else:
                found.dropped.append((printable_path(path), DropReason(kind), reason))
    found.units = _with_unique_ids(_units(sorted(files)))
    found.dropped.sort()
    found.notices.sort()
    return found


def _is_notice(entry: os.DirEntry[str]) -> bool:
    named = entry.name == "SOURCES.md" or _LICENCE.fullmatch(entry.name)
    return bool(named) and _good_name(entry.name) and entry.is_file(follow_symlinks=False)


def _classify(entry: os.DirEntry[str], real_root: str) -> tuple[str, str]:
    """("file" | "folder" | a drop reason, detail)"""
    if not _good_name(entry.name):
        return DropReason.BAD_NAME, "the name holds control characters or bytes that are no UTF-8; rename it"
    try:
        if entry.is_dir(follow_symlinks=False):
            return "folder", ""
        mode = entry.stat().st_mode
    except OSError as error:
        return DropReason.UNREADABLE, error.strerror or "cannot be read"
    if stat.S_ISDIR(mode):
        return DropReason.SYMLINK_FOLDER, "a link to a folder; put the folder itself here"
    if not stat.S_ISREG(mode):
        return DropReason.NOT_A_FILE, "a pipe, socket or device"
    if entry.is_symlink() and not os.path.realpath(entry.path).startswith(real_root.rstrip(os.sep) + os.sep):
        return DropReason.SYMLINK_OUTSIDE, "a link to a file outside the corpus; put the file itself here"
    return "file", ""


def _units(files: list[str]) -> list[Unit]:
    trees: dict[str, list[str]] = {}
    units = []
    roots = {path.rpartition("/")[0] for path in files if _of_repository(path)}
    alone = []
    for path in files:
        tree = _tree_of(path, roots) if _of_repository(path) else None
        if tree is not None:
            trees.setdefault(tree, []).append(path)
        else:
            alone.append(path)
    for tree, members in trees.items():
        if any(suffix_of(path) in _PYTHON_SUFFIXES for path in members):
            units.append(_unit(tree, tuple(members), tree))
        else:
            alone += members
    return units + [_unit(path, (path,), without_suffix(path)) for path in alone]


def _of_repository(path: str) -> bool:
    return suffix_of(path) in _PYTHON_SUFFIXES or PurePosixPath(path).name in _PROJECT_FILES


def _tree_of(path: str, roots: set[str]) -> str | None:
    """The folder whose Python files form one document; None for a lone script in the corpus or a category folder.

    roots: the folders that hold Python files or a project file themselves.
    """
    parts = path.split("/")
    above = 1 if parts[0] in CATEGORIES else 0  # a category folder is never itself a package
    for depth in range(above + 1, len(parts)):
        folder = "/".join(parts[:depth])
        if parts[0] == Category.CODE or folder in roots:
            return folder
    return None


def _unit(source: str, members: tuple[str, ...], stem: str) -> Unit:
    first, _, rest = stem.partition("/")
    if first in CATEGORIES and rest:
        category, name = Category(first), rest
    elif len(members) > 1 or suffix_of(members[0]) in _PYTHON_SUFFIXES:
        category, name = Category.CODE, stem
    elif suffix_of(source) in DIALOGUE_SUFFIXES:
        category, name = Category.DIALOGUES, stem
    else:
        category, name = Category.GENERAL, stem
    return Unit(
        id=f"{category.value}/{unicodedata.normalize('NFC', name)}", category=category, source=source, members=members
    )


def _with_unique_ids(units: list[Unit]) -> list[Unit]:
    """Units that share an id get their suffix back, and a hash of their path where even that is not enough.

    All of a group are renamed alike, so the outcome does not depend on which file was found first.
    """
    count = Counter(unit.id for unit in units)
    units = [
        unit if count[unit.id] == 1 else replace(unit, id=unit.id + PurePosixPath(unit.source).suffix) for unit in units
    ]
    count = Counter(unit.id for unit in units)
    units = [
        unit
        if count[unit.id] == 1
        else replace(unit, id=f"{unit.id}~{hashlib.sha256(unit.source.encode()).hexdigest()[:8]}")
        for unit in units
    ]
    return sorted(units, key=lambda unit: unit.id)
