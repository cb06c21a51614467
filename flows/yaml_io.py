"""YAML as DVC reads it (1.2: `1e-5` is a number, `yes` a word), duplicate keys refused, scalars edited in place.

PyYAML follows YAML 1.1, in which `learning_rate: 1e-5` is text. DVC compares parameters with a 1.2 reader, so both must
see the same values.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from stages.common.errors import ConfigError

_INT = re.compile(r"^[-+]?(?:0x[0-9a-fA-F_]+|0o[0-7_]+|[0-9][0-9_]*)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_RESOLVERS: list[tuple[str, re.Pattern[str], list[str]]] = [
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("tag:yaml.org,2002:int", _INT, list("-+0123456789")),
    ("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789")),
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"), ["<"]),
]


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars; a key that occurs twice is an error, not a silent overwrite."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  PyYAML's own hook

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} occurs twice in this section", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what `_Loader` would not read back as text, and never writes aliases."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _read_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    if text.startswith(("0x", "-0x", "+0x", "0o", "-0o", "+0o")):
        return int(text, 0)
    return int(text)


def _read_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _read_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _read_float)


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping that a YAML text holds. ConfigError names the file and line that is broken."""
    try:
        loaded = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: {error.problem or error.context}. Mend it and run again.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where} cannot be read as YAML: {error}. Mend it and run again.") from None
    if not isinstance(loaded, dict):
        found = "nothing" if loaded is None else type(loaded).__name__
        raise ConfigError(f"{where} must hold `key: value` lines, found {found}.")
    return loaded


def parse_value(text: str, where: str) -> Any:
    """One value, as `--set key=value` gives it."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{where}: {text!r} cannot be read as a YAML value: {problem}.") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. ConfigError if it is missing, not UTF-8 or broken."""
    return parse_yaml(read_text(path), path.name)


def read_text(path: Path) -> str:
    """A UTF-8 file. ConfigError if it is missing or something else."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path.name} does not exist in {path.parent}. Restore it: `git checkout {path.name}`."
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; a YAML file is expected there.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Block style, keys in the mapping's order, floats that YAML 1.1 and 1.2 both read as numbers."""
    return yaml.dump(
        dict(value), Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=1000
    )


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> leaf; lists and empty mappings are leaves.

    >>> flatten({"rl": {"stage2": {"steps": 2}}, "seed": 17})
    {'rl.stage2.steps': 2, 'seed': 17}
    """
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            leaves.update(flatten(item, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = item
    return leaves


def _value_nodes(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode) and node.value:
        for key, value in node.value:
            yield from _value_nodes(value, f"{prefix}{key.value}.")
    else:
        yield prefix[:-1], node


def edit_values(text: str, wanted: Mapping[str, Any]) -> str | None:
    """`text` with some leaves changed so that it holds `wanted`; comments and layout stay.

    None if that cannot be done by replacing leaves: a key comes or goes, or a value is shared through an anchor.
    """
    root = yaml.compose(text, Loader=_Loader)
    if root is None:
        return None
    nodes = dict(_value_nodes(root))
    now, then = flatten(parse_yaml(text, "")), flatten(wanted)
    if now.keys() != then.keys() or not now.keys() <= nodes.keys():
        return None
    changed = [key for key in then if then[key] != now[key] or type(then[key]) is not type(now[key])]
    edited = text
    for key in sorted(changed, key=lambda key: nodes[key].start_mark.index, reverse=True):
        node = nodes[key]
        written = yaml.dump(then[key], Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=1 << 20)
        written = written.removesuffix("\n").removesuffix("\n...")
        edited = edited[: node.start_mark.index] + written + edited[node.end_mark.index :]
    try:
        return edited if parse_yaml(edited, "") == dict(wanted) else None
    except ConfigError:
        return None


def write_if_different(path: Path, text: str) -> bool:
    """Write beside and rename, keeping the file's mode; False if the file holds that text already."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        os.chmod(partial, mode)  # noqa: PTH101
        os.replace(partial, path)  # noqa: PTH105
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return True
