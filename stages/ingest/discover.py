"""Walks a folder of documents and says what becomes one document: a file, or a whole Python package.

Names and links are untrusted: nothing here opens a file, follows a link to a folder or recurses.

    general/peru.md                     -> general/peru             one file
    code/pluggy/pluggy/_manager.py ...  -> code/pluggy              a tree: every .py file below it
    notes/todo.txt                      -> general/notes/todo       no category folder: by format
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
    """What the walk found. `files` counts everything that was looked at, skipped ones included."""

    units: list[Unit] = field(default_factory=list)
    dropped: list[tuple[str, DropReason, str]] = field(default_factory=list)  # path, reason, detail
    files: int = 0
    skipped: int = 0


def suffix_of(path: str) -> str:
    """`a/B.TXT` -> `.txt`"""
    return PurePosixPath(path).suffix.lower()


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
                continue
            kind, reason = _classify(entry)
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
    return found


def _classify(entry: os.DirEntry[str]) -> tuple[str, str]:
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
    return "file", ""


def _units(files: list[str]) -> list[Unit]:
    trees: dict[str, list[str]] = {}
    units = []
    folders_with_python = {path.rpartition("/")[0] for path in files if suffix_of(path) == ".py"}
    for path in files:
        tree = _tree_of(path, folders_with_python) if suffix_of(path) == ".py" else None
        if tree is not None:
            trees.setdefault(tree, []).append(path)
        else:
            units.append(_unit(path, (path,), str(PurePosixPath(path).with_suffix(""))))
    for tree, members in trees.items():
        units.append(_unit(tree, tuple(members), tree))
    return units


def _tree_of(path: str, folders_with_python: set[str]) -> str | None:
    """The folder whose Python files form one document; None for a lone script in the corpus or a category folder."""
    parts = path.split("/")
    above = 1 if parts[0] in CATEGORIES else 0  # a category folder is never itself a package
    for depth in range(above + 1, len(parts)):
        folder = "/".join(parts[:depth])
        if parts[0] == Category.CODE or folder in folders_with_python:
            return folder
    return None


def _unit(source: str, members: tuple[str, ...], stem: str) -> Unit:
    first, _, rest = stem.partition("/")
    if first in CATEGORIES and rest:
        category, name = Category(first), rest
    elif suffix_of(members[0]) == ".py":
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
