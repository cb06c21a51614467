"""Merging a synthetic checkpoint of 8 GB (three inputs: 24 GB read, 8 GB written): peak memory, and speed against the disk.

    python benchmarks/merge.py --folder DIR [--layers 36] [--json FILE]

The tensors are those of a 4B model (Qwen3-4B's shapes, bfloat16; its embedding has 778 MB). In one run, one after the other:

copy    the same bytes without arithmetic, in sequence: the three inputs read, one of them written; cold
merge   SCE in a process of its own, whose largest resident set is reported; cold

Cold: the inputs are dropped from the page cache (POSIX_FADV_DONTNEED) before. Both end when the output is on the disk (fsync).
Needs 4 x the checkpoint's size on the disk of DIR; what it made there is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from stages.merge.merge import MAX_SHARD_BYTES, merge_checkpoints  # noqa: E402
from stages.merge.writing import ShardWriter, plan_shards, write_index  # noqa: E402

INPUTS = ("base", "a", "b")
PIECE = 1 << 24  # elements written at once


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Qwen3-4B's tensors."""
    hidden, inner, heads, kv = 2560, 9728, 4096, 1024
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (151_936, hidden)}
    for layer in range(layers):
        block = f"model.layers.{layer}."
        found |= {
            block + "input_layernorm.weight": (hidden,),
            block + "post_attention_layernorm.weight": (hidden,),
            block + "self_attn.q_proj.weight": (heads, hidden),
            block + "self_attn.k_proj.weight": (kv, hidden),
            block + "self_attn.v_proj.weight": (kv, hidden),
            block + "self_attn.o_proj.weight": (hidden, heads),
            block + "mlp.gate_proj.weight": (inner, hidden),
            block + "mlp.up_proj.weight": (inner, hidden),
            block + "mlp.down_proj.weight": (hidden, inner),
        }
    return found | {"model.norm.weight": (hidden,)}


def make_inputs(folder: Path, layers: int) -> int:
    """Base and two experts; returns the bytes of one. Values repeat every 16M elements: merging does not mind."""
    specs = {name: (shape, torch.bfloat16) for name, shape in shapes(layers).items()}
    generator = torch.Generator().manual_seed(1)
    base = (torch.randn(PIECE, generator=generator) * 0.02).bfloat16()
    for name in INPUTS:
        values = base
        if name != "base":  # 1 % of the weights' size, as after a warm-up: bfloat16 shows it on most elements
            values = (base.float() + torch.randn(PIECE, generator=generator) * 2e-4).bfloat16()
        (folder / name).mkdir()
        shards = plan_shards(specs, MAX_SHARD_BYTES)
        for shard in shards:
            with ShardWriter(folder / name, shard) as writer:
                for tensor, (shape, _) in shard.specs.items():
                    count = torch.Size(shape).numel()
                    for start in range(0, count, PIECE):
                        writer.write(tensor, start, values[: min(PIECE, count - start)])
        write_index(folder / name, shards)
        (folder / name / "config.json").write_text('{"model_type": "qwen3", "tie_word_embeddings": true}')
        (folder / name / "tokenizer.json").write_text('{"model": {"vocab": {}}}')
    return sum(path.stat().st_size for path in (folder / "base").glob("*.safetensors"))


def drop_from_cache(folder: Path) -> None:
    os.sync()
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy_seconds(folder: Path) -> float:
    """Read all inputs and write the base's bytes, in sequence."""
    drop_from_cache(folder)
    buffer = memoryview(bytearray(8 << 20))
    started = time.perf_counter()
    (folder / "copy").mkdir()
    for name in INPUTS:
        for path in sorted((folder / name).glob("*.safetensors")):
            with (
                path.open("rb", buffering=0) as source,
                (folder / "copy" / path.name).open("wb", buffering=0) as target,
            ):
                while got := source.readinto(buffer):
                    if name == "base":
                        target.write(buffer[:got])
                os.fsync(target.fileno())
    seconds = time.perf_counter() - started
    shutil.rmtree(folder / "copy")
    return seconds


def merge_figures(folder: Path) -> dict[str, float]:
    """Seconds, processor seconds and largest resident set of a process that merges."""
    drop_from_cache(folder)
    done = subprocess.run(
        [sys.executable, __file__, "--folder", str(folder), "--merge-here"], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def merge_here(folder: Path) -> None:
    started = time.perf_counter()
    reports = merge_checkpoints(folder / "base", [folder / "a", folder / "b"], folder / "out")
    seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "merge_seconds": seconds,
                "merge_cpu_seconds": usage.ru_utime + usage.ru_stime,
                "peak_resident_gib": usage.ru_maxrss / 2**20,
                "parameters": sum(report.parameters for report in reports),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    parser.add_argument("--layers", type=int, default=36, help="36: 8.0 GB")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--merge-here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.merge_here:
        merge_here(arguments.folder)
        return
    folder = Path(tempfile.mkdtemp(prefix="merge-", dir=arguments.folder))
    try:
        needed = 4 * 2 * sum(torch.Size(shape).numel() for shape in shapes(arguments.layers).values())
        if shutil.disk_usage(folder).free < needed + 2e9:
            raise SystemExit(f"{needed / 1e9:.0f} GB are needed in {arguments.folder}.")
        size = make_inputs(folder, arguments.layers)
        moved = 4 * size / 1e9  # three read, one written
        copied = copy_seconds(folder)
        figures = {"checkpoint_gb": size / 1e9, "copy_seconds": copied, **merge_figures(folder)}
        figures |= {
            "copy_gb_per_s": moved / copied,
            "merge_gb_per_s": moved / figures["merge_seconds"],
            "merge_to_copy": copied / figures["merge_seconds"],
        }
    finally:
        shutil.rmtree(folder)
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
