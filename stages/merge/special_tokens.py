"""Do these checkpoints mean the same by their special tokens? Equal vocabularies may still end a turn with another token.

The merged model keeps the base's files. So two that contradict each other are refused: the experts learnt to write tokens that
the merged model's users would not stop at. What only one of them says is a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.common.errors import InputError
from stages.common.storage import read_json

_log = logging.getLogger(__name__)

# Of these two the first one counts in transformers; the second is what releases before 5 wrote beside it.
_FILES = ("tokenizer_config.json", "special_tokens_map.json")
_GENERATION = "generation_config.json"
_SENTENCEPIECE = "tokenizer.model"
_LIST = "additional_special_tokens"
_NEW_LIST = "extra_special_tokens"  # the same list's name since release 5; as an object it holds named tokens

Meaning = str | frozenset[str]


def check_special_tokens(base_dir: Path, expert_dir: Path) -> None:
    """Equal tokens by name, wherever both folders set them. InputError names file, token and both values."""
    base, expert = _tokens(base_dir), _tokens(expert_dir)
    for key in sorted(base.keys() | expert.keys()):
        ours, theirs = base.get(key, {}), expert.get(key, {})
        if not ours or not theirs:
            has, lacks = (base_dir, expert_dir) if ours else (expert_dir, base_dir)
            file, value = next(iter((ours or theirs).items()))
            _log.warning("%s sets %s to %s, %s does not set it.", has / file, key, _shown(value), lacks)
            continue
        # The same file of both if there is one, else the one that counts in each.
        shared = [(file, file) for file in _FILES if file in ours and file in theirs]
        for our_file, their_file in shared or [(next(iter(ours)), next(iter(theirs)))]:
            if ours[our_file] != theirs[their_file]:
                raise InputError(
                    f"{expert_dir / their_file} sets {key} to {_shown(theirs[their_file])}, "
                    f"{base_dir / our_file} to {_shown(ours[our_file])}: merge models of one base."
                )


def check_sentencepiece(base_dir: Path, expert_dir: Path) -> None:
    """Equal bytes of tokenizer.model, where both have it."""
    files = [folder / _SENTENCEPIECE for folder in (base_dir, expert_dir)]
    there = [file for file in files if file.is_file()]
    if len(there) == 1:
        _log.warning("%s exists, the other model has no such file; its tokenizer.json was compared.", there[0])
    elif there and files[0].read_bytes() != files[1].read_bytes():
        raise InputError(f"{files[1]} differs from {files[0]}: merge models of one base.")


def check_generation(base_dir: Path, expert_dir: Path) -> None:
    """Warn if generation_config.json ends an answer with other tokens than the base's, which the merged model keeps."""
    base, expert = _end_ids(base_dir), _end_ids(expert_dir)
    if base != expert:
        _log.warning(
            "%s has eos_token_id %s, %s has %s; the merged model keeps the base's.",
            expert_dir / _GENERATION, sorted(expert) or "not set", base_dir / _GENERATION, sorted(base) or "not set",
        )  # fmt: skip


def _tokens(folder: Path) -> dict[str, dict[str, Meaning]]:
    """What each special token is, by file: {"eos_token": {"tokenizer_config.json": "<|im_end|>"}}."""
    found: dict[str, dict[str, Meaning]] = {}
    for file in _FILES:
        for key, value in _object(folder / file).items():
            if key == _NEW_LIST and isinstance(value, dict):
                for name, token in value.items():
                    _add(found, name, file, _content(token))
            elif key in (_LIST, _NEW_LIST):
                if not isinstance(value, list | None):
                    raise InputError(f"{folder / file}: {key} is {value!r}, which is no list of tokens.")
                tokens = frozenset(filter(None, map(_content, value or ())))
                _add(found, _LIST, file, tokens or None)
            elif key.endswith("_token"):
                _add(found, key, file, _content(value))
    return found


def _add(found: dict[str, dict[str, Meaning]], key: str, file: str, value: Meaning | None) -> None:
    if value is not None:
        found.setdefault(key, {})[file] = value


def _content(value: Any) -> str | None:
    """The token's text, from its text or its object form; None for null and for switches such as add_bos_token.

    >>> _content({"content": "<s>", "lstrip": False}) == _content("<s>")
    True
    """
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _end_ids(folder: Path) -> set[int]:
    value = _object(folder / _GENERATION).get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(number) is int for number in ids):
        raise InputError(
            f"{folder / _GENERATION}: eos_token_id is {value!r}, which is neither a token's number nor a list of such."
        )
    return set(ids)


def _object(path: Path) -> dict[str, Any]:
    """The file's JSON object; empty if there is no file."""
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} is no JSON object.")
    return value


def _shown(value: Meaning) -> str:
    return repr(value) if isinstance(value, str) else repr(sorted(value))
