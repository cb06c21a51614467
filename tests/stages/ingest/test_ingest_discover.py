"""What becomes one document, its id and category, and what the walk refuses to touch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stages.ingest.discover import discover


def fill(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("text", encoding="utf-8")
    return root


def ids(root: Path) -> list[str]:
    return [unit.id for unit in discover(root).units]


def drops(root: Path) -> dict[str, str]:
    return {path: reason.value for path, reason, _ in discover(root).dropped}


def test_category_is_the_folder_else_the_format(tmp_path):
    fill(
        tmp_path,
        "academic/plos/a.md",
        "notes/b.txt",
        "chat.json",
        "logs/chat.jsonl",
        "dialogues/c.md",
        "script.py",
        "general",
    )
    found = {unit.id: unit.category.value for unit in discover(tmp_path).units}
    assert found == {
        "academic/plos/a": "academic",
        "general/notes/b": "general",
        "dialogues/chat": "dialogues",
        "dialogues/logs/chat": "dialogues",
        "dialogues/c": "dialogues",
        "code/script": "code",
        "general/general": "general",  # a file named like a category is no category folder
    }


def test_a_python_package_is_one_unit_and_its_other_files_are_their_own(tmp_path):
    fill(tmp_path, "code/tool/tool/a.py", "code/tool/tool/sub/b.py", "code/tool/README.md", "code/lone.py")
    units = {unit.id: unit for unit in discover(tmp_path).units}
    assert sorted(units) == ["code/lone", "code/tool", "code/tool/README"]
    assert units["code/tool"].members == ("code/tool/tool/a.py", "code/tool/tool/sub/b.py")
    assert units["code/tool"].source == "code/tool"
    assert not units["code/lone"].is_tree


def test_outside_code_the_topmost_folder_with_python_is_the_package(tmp_path):
    fill(tmp_path, "repo/src/pkg/a.py", "repo/src/pkg/deep/b.py", "repo/tools/c.py", "professional/x.py")
    units = {unit.id: unit.members for unit in discover(tmp_path).units}
    assert units == {
        "code/repo/src/pkg": ("repo/src/pkg/a.py", "repo/src/pkg/deep/b.py"),
        "code/repo/tools": ("repo/tools/c.py",),
        "professional/x": ("professional/x.py",),
    }


def test_ids_stay_unique_when_files_differ_only_in_suffix(tmp_path):
    fill(tmp_path, "general/a.md", "general/a.txt", "general/b.md")
    assert ids(tmp_path) == ["general/a.md", "general/a.txt", "general/b"]


def test_ids_stay_unique_when_even_the_suffix_does_not_help(tmp_path):
    fill(tmp_path, "general/notes/a.md", "notes/a.md")
    found = ids(tmp_path)
    assert len(set(found)) == 2
    assert all(name.startswith("general/notes/a.md~") for name in found)
    (tmp_path / "notes/a.md").unlink()
    assert ids(tmp_path) == ["general/notes/a"]


def test_ids_do_not_depend_on_how_the_file_system_spells_accents(tmp_path):
    fill(tmp_path, "general/cafe\u0301.md")
    assert ids(tmp_path) == ["general/caf\u00e9"]


def test_sources_licences_and_hidden_files_are_skipped_and_counted(tmp_path):
    skipped = ("SOURCES.md", "code/p/LICENSE", "code/p/LICENSE.md", "code/p/LICENCE-MIT.txt", "COPYING", ".hidden/x.md")
    fill(tmp_path, *skipped, ".DS_Store", "code/p/__pycache__/a.py", "license_plates.md", "NOTICEBOARD.md")
    found = discover(tmp_path)
    assert [unit.id for unit in found.units] == ["general/NOTICEBOARD", "general/license_plates"]
    assert found.skipped == 8  # a hidden folder counts once
    assert found.files == 10
    assert found.dropped == []


def test_links_to_files_are_read_and_links_to_folders_are_not_followed(tmp_path):
    fill(tmp_path / "corpus", "general/real.md")
    fill(tmp_path, "outside/secret.md")
    (tmp_path / "corpus/general/link.md").symlink_to("real.md")
    (tmp_path / "corpus/out").symlink_to(tmp_path / "outside")
    (tmp_path / "corpus/general/up").symlink_to("..")
    assert ids(tmp_path / "corpus") == ["general/link", "general/real"]
    assert drops(tmp_path / "corpus") == {"out": "symlink_folder", "general/up": "symlink_folder"}


def test_loops_dangling_links_and_pipes_are_dropped_unopened(tmp_path):
    (tmp_path / "a.md").symlink_to("b.md")
    (tmp_path / "b.md").symlink_to("a.md")
    (tmp_path / "gone.md").symlink_to("nowhere.md")
    os.mkfifo(tmp_path / "pipe.txt")  # opening it would wait for ever
    assert drops(tmp_path) == {
        "a.md": "unreadable",
        "b.md": "unreadable",
        "gone.md": "unreadable",
        "pipe.txt": "not_a_file",
    }


def test_names_with_line_breaks_or_broken_bytes_are_dropped_with_a_printable_path(tmp_path):
    fill(tmp_path, "a\nb.md", "good.md", "folder\n/x.md", "line\u2028break.md")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md")).write_text("text", encoding="utf-8")
    assert ids(tmp_path) == ["general/good"]
    found = drops(tmp_path)
    assert set(found.values()) == {"bad_name"}
    assert r"a\nb.md" in found
    assert r"caf\udce9.md" in found
    for path in found:
        path.encode("utf-8")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_listed_is_dropped(tmp_path):
    fill(tmp_path, "closed/x.md", "open.md")
    (tmp_path / "closed").chmod(0)
    try:
        assert drops(tmp_path) == {"closed": "unreadable"}
        assert ids(tmp_path) == ["general/open"]
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_very_deep_folders_do_not_recurse(tmp_path):
    deep = tmp_path
    for _ in range(1200):  # deeper than Python's recursion limit, path length within the system's
        deep = deep / "d"
        os.mkdir(deep)  # noqa: PTH102
    (deep / "x.md").write_text("text", encoding="utf-8")
    assert len(ids(tmp_path)) == 1
    for folder in [deep, *deep.parents][:1200]:  # pytest's own clean-up would recurse
        for path in folder.glob("*.md"):
            path.unlink()
        folder.rmdir()
