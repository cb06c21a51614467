"""params.yaml and the profiles that it is made from: read, check, change, write.

params.yaml is complete, tracked in git and the only truth. A profile is a sparse overlay over flows/profiles/base.yaml.
A change by `--set` edits the file in place; `--profile` writes base + overlay and never loses hand edits unasked.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.catalog import StageSpec
from flows.schema import Params, nearest, validate
from flows.yaml_io import (
    dump_yaml,
    edit_values,
    flatten,
    parse_value,
    parse_yaml,
    read_text,
    read_yaml,
    write_if_different,
)
from stages.common.config import Section
from stages.common.errors import ConfigError, InputError

PROFILES = Path(__file__).parent / "profiles"
_SOURCES = "ingest.sources"


class HandEditsError(ConfigError):
    """Switching the profile would lose changes made by hand; the command line exits with 2."""

    def __init__(self, profile: str, edits: Sequence[tuple[str, Any, Any]]) -> None:
        self.edits = tuple(edits)
        lines = "\n".join(f"  {key}: {ours} (profile: {theirs})" for key, theirs, ours in edits)
        super().__init__(
            f"params.yaml has changes that `--profile {profile}` would lose:\n{lines}\n"
            "Keep them: leave --profile out. Give them up: add --discard-edits."
        )


def load_params(path: Path) -> dict[str, Any]:
    """The checked values of params.yaml. ConfigError lists every problem with its dotted key."""
    values = read_yaml(path)
    _check_sources(values, path.name)
    check_params(values, path.name)
    return values


def check_params(values: Mapping[str, Any], where: str = "params.yaml") -> Params:
    """The values as a typed model. ConfigError lists every problem."""
    checked = validate(Params, values, where)
    assert isinstance(checked, Params)
    return checked


def stage_config(spec: StageSpec, params: Mapping[str, Any]) -> Section:
    """The configuration of one stage: exactly the sections that dvc.yaml lets it depend on."""
    values = {field: value_at(params, dotted) for field, dotted in spec.params.items()}
    return validate(spec.config_type(), values, f"the parameters of stage {spec.name}")


def value_at(params: Mapping[str, Any], dotted: str) -> Any:
    """The value at a dotted key. ConfigError names the nearest key if there is none."""
    value: Any = params
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(f"there is no parameter {dotted!r}.{_hint(dotted, params)}")
        value = value[part]
    return value


# --- profiles


def list_profiles() -> list[str]:
    """Names of the overlays."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml") if path.stem != "base")


def profile_params(name: str) -> dict[str, Any]:
    """base.yaml with a profile's overlay: a complete params.yaml. ConfigError for an unknown profile or key."""
    names = list_profiles()
    if name not in names:
        near = nearest(name, names)
        hint = f" Did you mean {near!r}?" if near else ""
        raise ConfigError(f"there is no profile {name!r}.{hint} Profiles: {', '.join(names)}.")
    base = read_yaml(PROFILES / "base.yaml")
    overlay = read_yaml(PROFILES / f"{name}.yaml")
    values = _overlay(base, overlay, f"profile {name}")
    values["profile"] = name
    _unwrap_sources(values)
    check_params(values, f"profile {name}")
    return values


def _overlay(base: Mapping[str, Any], overlay: Mapping[str, Any], where: str, prefix: str = "") -> dict[str, Any]:
    """A deep merge in the base's order. An overlay may change what the base has, never add to it."""
    for key in overlay:
        if key not in base:
            near = nearest(str(key), base)
            hint = f"did you mean {near}?" if near else f"known here: {', '.join(base)}."
            raise ConfigError(f"{where}: {prefix}{key}: unknown key; {hint}")
    merged: dict[str, Any] = {}
    for key, value in base.items():
        if key in overlay and isinstance(value, Mapping) and isinstance(overlay[key], Mapping):
            merged[key] = _overlay(value, overlay[key], where, f"{prefix}{key}.")
        else:
            merged[key] = copy.deepcopy(overlay.get(key, value))
    return merged


def hand_edits(params: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, value of the profile, value in params.yaml) for everything that differs from the profile."""
    theirs = flatten(profile_params(str(params["profile"])))
    ours = flatten(params)
    return [
        (key, theirs.get(key), ours.get(key))
        for key in dict.fromkeys([*theirs, *ours])
        if theirs.get(key) != ours.get(key)
    ]


def switch_profile(path: Path, name: str, *, discard_edits: bool = False) -> bool:
    """Make params.yaml that of a profile; True if the file changed.

    Raises HandEditsError if changes made by hand would be lost and `discard_edits` is off.
    """
    wanted = profile_params(name)
    if path.exists() and not discard_edits:
        current = load_params(path)
        edits = [] if current == wanted else hand_edits(current)
        if edits:
            raise HandEditsError(name, edits)
    return write_params(path, wanted)


# --- changes


def apply_sets(
    params: Mapping[str, Any], sets: Sequence[str] = (), *, corpus: Path | None = None, root: Path | None = None
) -> dict[str, Any]:
    """A copy of `params` with `key=value` changes and another corpus folder; the result is checked as a whole.

    Values are YAML: `rl.stage2.learning_rate=1e-5`, `sft.enabled=false`, `evaluate.shared.needle_tokens=[256, 512]`.
    """
    changed = copy.deepcopy(dict(params))
    for item in sets:
        dotted, equals, text = item.partition("=")
        dotted = dotted.strip()
        if not equals or not dotted:
            raise ConfigError(f"--set {item!r} is no key=value, for example --set rl.stage2.learning_rate=1e-5.")
        if dotted == "profile":
            raise ConfigError("--set cannot change the profile: use --profile NAME.")
        old = value_at(changed, dotted)
        parent: Any = value_at(changed, dotted.rpartition(".")[0]) if "." in dotted else changed
        leaf = dotted.rpartition(".")[2]
        new = parse_value(text, f"--set {dotted}")
        if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
            new = float(new)  # the file keeps `1.0` where a number is meant
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            new = _overlay(old, new, f"--set {dotted}", f"{dotted}.")
        parent[leaf] = new
    if corpus is not None:
        changed["ingest"]["sources"] = _relative_to_project(corpus, root or Path.cwd())
    _unwrap_sources(changed)
    check_params(changed, "after --set" if sets else "params.yaml")
    return changed


def _relative_to_project(folder: Path, root: Path) -> str:
    """Relative inside the project, so that a clone elsewhere is the same; absolute outside it."""
    resolved = folder.expanduser().resolve()
    if not resolved.is_dir():
        what = "is a file" if resolved.is_file() else "does not exist"
        raise InputError(f"--corpus {folder}: {what}. Give a folder with documents.")
    if resolved.is_relative_to(root.resolve()):
        return resolved.relative_to(root.resolve()).as_posix()
    return resolved.as_posix()


def _unwrap_sources(values: dict[str, Any]) -> None:
    """A list of one folder is that folder."""
    ingest = values.get("ingest")
    sources = ingest.get("sources") if isinstance(ingest, dict) else None
    if isinstance(sources, list) and len(sources) == 1 and isinstance(ingest, dict):
        ingest["sources"] = sources[0]
    _check_sources(values, "params.yaml")


def _check_sources(values: Mapping[str, Any], where: str) -> None:
    ingest = values.get("ingest")
    sources = ingest.get("sources") if isinstance(ingest, Mapping) else None
    if not isinstance(sources, list):
        return
    if len(sources) == 1:  # DVC fills the value into dvc.yaml and refuses a list there
        raise ConfigError(f"{where}: {_SOURCES}: a list; write the folder alone: `sources: {sources[0]}`.")
    raise ConfigError(
        f"{where}: {_SOURCES}: a list of {len(sources)}, but one folder is read. Put all documents below one folder: "
        "copy or move the folders there, or hard-link them with `cp -al FOLDER corpus/`."
    )


def write_params(path: Path, params: Mapping[str, Any]) -> bool:
    """Write params.yaml atomically, only if a value differs; True if it was written.

    Comments and layout survive if only values change.
    """
    if path.exists():
        text = read_text(path)
        try:
            if parse_yaml(text, path.name) == dict(params):
                return False
            edited = edit_values(text, params)
        except ConfigError:  # broken by hand: there is nothing to keep
            edited = None
        if edited is not None:
            return write_if_different(path, edited)
    return write_if_different(path, dump_yaml(params))


def _hint(dotted: str, params: Mapping[str, Any]) -> str:
    known: dict[str, None] = {}
    for key in flatten(params):
        parts = key.split(".")
        known.update({".".join(parts[: end + 1]): None for end in range(len(parts))})
    near = nearest(dotted, known)
    return f" Did you mean {near!r}?" if near else f" Sections: {', '.join(params)}."
