"""What DVC knows of the project, read in process: stages, locked and present hashes, the run-cache.

The only file that touches DVC's private API (pinned; tests/flows/test_plan.py covers each use). Nothing here takes DVC's
rwlock, starts a process or changes an output, so a plan can be made while a run is going.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.bucket_outputs import BucketOutput, recorded
from stages.common.errors import ConfigError, EnvironmentFailureError, InputError

_LOCK_WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Hash:
    """md5 of a file or (ending in `.dir`) a folder as DVC computes it; `meta` is what DVC stores beside it."""

    md5: str
    meta: Any = field(compare=False, repr=False)


@dataclass(frozen=True)
class DagDep:
    """One dependency that is no parameter."""

    path: str
    absolute: str
    locked_md5: str | None
    dvc: Any = field(repr=False)

    @property
    def is_code(self) -> bool:
        """Code of the stages, as opposed to data."""
        return self.path.startswith("stages/")


@dataclass(frozen=True)
class DagOut:
    """One output."""

    path: str
    absolute: str
    locked_md5: str | None
    dvc: Any = field(repr=False)


@dataclass(frozen=True)
class DagStage:
    """One stage of dvc.yaml beside its entry in dvc.lock."""

    name: str
    command: str
    locked_command: str | None  # None: no entry in dvc.lock, it never ran
    parameters: Mapping[str, Any]  # dotted key as in dvc.yaml -> value now
    locked_parameters: Mapping[str, Any]
    deps: tuple[DagDep, ...]
    outs: tuple[DagOut, ...]
    upstream: tuple[str, ...]  # direct ones
    dvc: Any = field(repr=False)


class Dag:
    """The project's DAG in topological order; with `only` that stage alone, without neighbours and dvc.lock.

    Raises ConfigError if dvc.yaml is broken or a parameter that it names is missing, EnvironmentFailureError if DVC cannot
    work in this folder at all.
    """

    def __init__(self, root: Path, params: Mapping[str, Any], *, only: str | None = None) -> None:
        self.root = root
        self._repo = _open_repo(root)
        self._hashes: dict[str, Hash | None] = {}
        self._cached: dict[str, bool] = {}
        self._trees: dict[str, Any] = {}
        self._recorded = {} if only else recorded(root)
        self._away: dict[str, BucketOutput | None] = {}
        from dvc.exceptions import DvcException

        try:
            dvc_file = _load_dvc_file(self._repo, root, params, "" if only else _read_lock_file(root))
            if only is not None:
                self.stages = {only: _read_stage(dvc_file.stages[only], None, params, ())}
            else:
                self.stages = {stage.name: stage for stage in self._ordered(dvc_file, params)}
        except DvcException as error:
            raise ConfigError(
                f"DVC cannot read the DAG of {root.name}: {error}. Bring back dvc.yaml or dvc.lock from git; a dvc.lock that "
                "git does not know may be deleted, finished results then come back from the cache."
            ) from None
        self._out_owner = {out.absolute: (stage, out) for stage in self.stages.values() for out in stage.outs}

    def _ordered(self, dvc_file: Any, params: Mapping[str, Any]) -> Iterator[DagStage]:
        import networkx as nx
        from dvc.repo.index import Index

        locked = dvc_file.lockfile_contents.get("stages", {})
        loaded = list(dvc_file.stages.values())
        position = {stage: number for number, stage in enumerate(loaded)}
        graph = Index(self._repo, stages=loaded).graph  # edges point from a stage to what it needs
        for stage in nx.lexicographical_topological_sort(graph.reverse(copy=False), key=position.__getitem__):
            upstream = sorted(graph.successors(stage), key=position.__getitem__)
            yield _read_stage(stage, locked.get(stage.name), params, tuple(needed.name for needed in upstream))

    def owner(self, absolute: str) -> tuple[DagStage, DagOut] | None:
        """The stage and output that a path is or lies in."""
        path = absolute
        while True:
            if path in self._out_owner:
                return self._out_owner[path]
            parent = os.path.dirname(path)  # noqa: PTH120  plain strings: this runs for every dependency
            if parent == path:
                return None
            path = parent

    def in_bucket(self, out: DagOut) -> BucketOutput | None:
        """The record of an output of which something lies in the bucket only, and nothing else than it here.

        None if all of it is here (or could come from the cache), or if what is here differs from it.
        """
        if out.absolute not in self._away:
            self._away[out.absolute] = self._look_for(out)
        return self._away[out.absolute]

    def _look_for(self, out: DagOut) -> BucketOutput | None:
        from dvc_objects.errors import ObjectFormatError

        record = self._recorded.get(out.path)
        if record is None or record.md5 != out.locked_md5 or not record.absent(self.root) or self.is_cached(record.md5):
            return None
        if not record.md5.endswith(".dir"):
            return record
        try:
            self._tree(record.md5)  # what lies in it is read from there
            _, built = _build(out.dvc)
        except NotADirectoryError:
            return None
        except FileNotFoundError:
            return record if not os.path.lexists(out.absolute) and self.has_listing(record.md5) else None
        except ObjectFormatError:  # a damaged listing
            return None
        try:
            here = {"/".join(key): entry.value for key, _, entry in built}
        except TypeError:  # a file where a folder was made
            return None
        same = all(name in record.files and record.files[name][0] == md5 for name, md5 in here.items())
        return record if same else None

    def has_listing(self, md5: str) -> bool:
        """Whether the cache holds the listing of a folder."""
        return self.cache_file(md5).is_file()

    def hash_now(self, item: DagDep | DagOut) -> Hash | None:
        """What is on disk, or of a dependency in the bucket; None if nothing is. Unchanged files are not read again (DVC's state
        database).
        """
        owner = self.owner(item.absolute) if isinstance(item, DagDep) else None
        record = self.in_bucket(owner[1]) if owner is not None else None
        if owner is not None and record is not None:
            return self.hash_inside(record.md5, owner[1], item.absolute)
        if item.absolute not in self._hashes:
            try:
                meta, built = _build(item.dvc)
                self._hashes[item.absolute] = Hash(built.hash_info.value, meta)
            except (FileNotFoundError, NotADirectoryError):
                self._hashes[item.absolute] = None
            except PermissionError as error:
                raise InputError(f"{item.path} cannot be read ({error.strerror}: {error.filename}).") from None
        return self._hashes[item.absolute]

    def is_cached(self, md5: str) -> bool:
        """True if .dvc/cache holds the object, and for a folder every file of it."""
        if md5 not in self._cached:
            self._cached[md5] = self._check_cached(md5)
        return self._cached[md5]

    def _check_cached(self, md5: str) -> bool:
        from dvc_objects.errors import ObjectFormatError

        database = self._repo.cache.local
        try:
            if md5.endswith(".dir"):
                for _, _, entry in self._tree(md5):
                    database.check(entry.value)
            database.check(md5)
        except (FileNotFoundError, ObjectFormatError):
            return False
        return True

    def _tree(self, md5: str) -> Any:
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.tree import Tree

        if md5 not in self._trees:
            self._trees[md5] = Tree.load(self._repo.cache.local, HashInfo("md5", md5))
        return self._trees[md5]

    def hash_inside(self, out_md5: str, out: DagOut, absolute: str) -> Hash | None:
        """Hash of a path at or below an output, read from the cached folder listing instead of the disk."""
        from dvc_data.hashfile.meta import Meta
        from dvc_data.hashfile.tree import Tree

        if absolute == out.absolute:
            return Hash(out_md5, Meta())
        if not out_md5.endswith(".dir"):
            return None
        parts = Path(absolute).relative_to(out.absolute).parts
        part, size = Tree(), len(parts)
        for key, meta, entry in self._tree(out_md5):
            if key == parts:
                return Hash(entry.value, Meta())
            if key[:size] == parts:
                part.add(key[size:], meta, entry)
        if not len(part):
            return None
        part.digest()
        assert part.hash_info is not None
        return Hash(str(part.hash_info.value), Meta())

    def run_cache(self, stage: DagStage, deps: Mapping[str, Hash]) -> dict[str, str] | None:
        """Output path -> md5 that this stage gave for these inputs before, or None. Newest first, as DVC does it."""
        from dvc.dependency import ParamsDependency
        from dvc.stage.cache import _get_cache_hash
        from dvc.stage.serialize import to_single_stage_lockfile
        from dvc_data.hashfile.hash_info import HashInfo

        for dep in stage.deps:
            dep.dvc.hash_info, dep.dvc.meta = HashInfo("md5", deps[dep.path].md5), deps[dep.path].meta
        for item in stage.dvc.deps:
            if isinstance(item, ParamsDependency):
                values: Any = {key: stage.parameters[key] for key in item.params}
                item.hash_info = HashInfo("params", values)
        cache = self._repo.stage_cache
        key = _get_cache_hash(to_single_stage_lockfile(stage.dvc), key=True)
        folder = Path(cache._get_cache_dir(key))
        if not folder.is_dir():
            return None
        entries = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        entry = cache._load_cache(key, entries[0].name) if entries else None
        return {out["path"]: out["md5"] for out in entry["outs"]} if entry else None

    def changed_files(self, out: DagOut) -> dict[str, str | None]:
        """Files of an output that differ from dvc.lock: path relative to the project -> locked md5 (None: was not there)."""
        now = self.hash_now(out)
        if now is None or out.locked_md5 is None or now.md5 == out.locked_md5:
            return {}
        if not out.locked_md5.endswith(".dir") or not self.is_cached(out.locked_md5) or not Path(out.absolute).is_dir():
            return {out.path: out.locked_md5}
        locked = {"/".join(key): entry.value for key, _, entry in self._tree(out.locked_md5)}
        _, built = _build(out.dvc)
        found = {"/".join(key): entry.value for key, _, entry in built}
        names = sorted(name for name in locked.keys() | found.keys() if locked.get(name) != found.get(name))
        return {f"{out.path}/{name}": locked.get(name) for name in names}

    def cache_file(self, md5: str) -> Path:
        """Where the cache keeps an object."""
        return Path(self._repo.cache.local.oid_to_path(md5))


def _build(item: Any) -> tuple[Any, Any]:
    """(meta, object) of a path on disk; nothing is added to the cache."""
    _, meta, built = item._build(
        item.local_cache,
        item.fs_path,
        item.fs,
        item.hash_name,
        ignore=item.dvcignore,
        dry_run=True,
        no_progress_bar=True,
    )
    return meta, built


def _read_stage(
    stage: Any, entry: Mapping[str, Any] | None, params: Mapping[str, Any], upstream: tuple[str, ...]
) -> DagStage:
    from dvc.dependency import ParamsDependency

    parameters: dict[str, Any] = {}
    for item in stage.deps:
        if isinstance(item, ParamsDependency):
            parameters.update({key: _parameter(params, key, stage.name) for key in item.params})
    locked_parameters: dict[str, Any] = {}
    for values in (entry or {}).get("params", {}).values():
        locked_parameters.update(values)
    return DagStage(
        name=stage.name,
        command=stage.cmd,
        locked_command=entry["cmd"] if entry else None,
        parameters=parameters,
        locked_parameters={key: value for key, value in locked_parameters.items() if key in parameters},
        deps=tuple(
            DagDep(item.def_path, item.fs_path, item.hash_info.value if item.hash_info else None, item)
            for item in stage.deps
            if not isinstance(item, ParamsDependency)
        ),
        outs=tuple(
            DagOut(item.def_path, item.fs_path, item.hash_info.value if item.hash_info else None, item)
            for item in stage.outs
        ),
        upstream=upstream,
        dvc=stage,
    )


def _parameter(params: Mapping[str, Any], dotted: str, stage: str) -> Any:
    value: Any = params
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(f"params.yaml: {dotted}: missing; stage {stage} depends on it.")
        value = value[part]
    return value


def _open_repo(root: Path) -> Any:
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        return Repo(str(root))
    except NotDvcRepoError:
        raise EnvironmentFailureError(
            f"{root} holds no .dvc folder. Get the project with `git clone`; a copy must include .dvc/config."
        ) from None
    except SCMError:
        raise EnvironmentFailureError(
            f"{root} is no git repository, and DVC works in one only. Get the project with `git clone`, or make one: "
            "`git init && git add -A && git commit -m start`."
        ) from None
    except (DvcException, OSError) as error:
        raise EnvironmentFailureError(f"DVC cannot open {root}: {error}") from None


def _load_dvc_file(repo: Any, root: Path, params: Mapping[str, Any], lock_text: str) -> Any:
    """dvc.yaml with `${...}` filled from `params`, not from the file on disk."""
    from dvc.dvcfile import load_file
    from dvc.parsing.context import Context
    from dvc.utils.serialize import parse_yaml

    dvc_file = load_file(repo, str(root / "dvc.yaml"))
    context = dvc_file.resolver.context
    context.data.clear()
    context.merge_update(Context(dict(params)))
    dvc_file.__dict__["lockfile_contents"] = parse_yaml(lock_text, str(root / "dvc.lock"))
    return dvc_file


def _read_lock_file(root: Path) -> str:
    """dvc.lock as text, not while DVC is writing it.

    DVC writes it in place under its global lock; a shared lock on the same file keeps it out for the moment of reading.
    When DVC keeps the lock for long it hashes outputs, and the file stands still.
    """
    path, lock = root / "dvc.lock", root / ".dvc" / "tmp" / "lock"
    with contextlib.ExitStack() as stack:
        if lock.exists() and sys.platform != "win32":
            import fcntl

            handle = stack.enter_context(lock.open("rb"))
            deadline = time.monotonic() + _LOCK_WAIT_SECONDS
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.02)
        return path.read_text(encoding="utf-8") if path.exists() else ""
