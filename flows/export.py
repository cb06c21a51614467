"""`longfuse export`: the stratified samples as a dataset for other tools."""

from __future__ import annotations

from pathlib import Path

from stages.common.errors import ConfigError, InputError


def export_dataset(outputs: Path, folder: Path, *, form: str, contexts: str) -> str:
    """Write the dataset; what was written, in words.

    ConfigError for an unknown format, InputError if the folder is not empty or the samples are not there yet.
    """
    if form != "hf":
        raise ConfigError(f"there is no format {form!r}. Known: hf.")
    if contexts not in ("references", "text"):
        raise ConfigError(f"--contexts is {contexts!r}; give references or text.")
    stratified = outputs / "stratify" / "data"
    if not (stratified / "train.jsonl").is_file():
        raise InputError(f"{stratified} holds no samples yet. `longfuse run --only stratify` makes them.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder. Name a new one.")
    folder.mkdir(parents=True, exist_ok=True)

    from stages.synthesis.export import write_dataset  # pyarrow

    counts = write_dataset(
        folder,
        stratified,
        outputs / "assemble" / "data" / "documents.jsonl",
        outputs / "verify" / "data" / "verification.jsonl",
        "text" if contexts == "text" else "references",
    )
    told = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    return f'{folder}: {told}. Read it with `datasets.load_dataset("{folder}")`.'
