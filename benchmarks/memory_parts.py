"""What the parts of benchmarks/memory.py share: lengths, documents of real paragraphs, engines."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from stages.common.generators.streamed import endless_hay, write_streamed
from stages.common.records import Category, Document
from stages.common.seeds import rng
from stages.common.storage import DocumentStore, write_jsonl
from stages.common.tokens import ChatTokenizer
from stages.engines.scripted_engine import ScriptedEngine

CORPUS = Path(__file__).resolve().parent.parent / "data" / "starter_corpus"
_LONGEST_SECONDS = 3600.0  # of one call into the engine's thread: all requests of a run, on a slow CPU
_FORM_TOKENS = 768  # chat template, rules, worked exchange, question


class Lengths(NamedTuple):
    """The agent's lengths, in the order of its arguments."""

    chunk_tokens: int
    memory_tokens: int
    turn_tokens: int
    answer_tokens: int

    @property
    def window(self) -> int:
        """Tokens that the longest turn needs."""
        return self.chunk_tokens + self.memory_tokens + self.memory_tokens // 4 + self.turn_tokens + _FORM_TOKENS


def tokens_of(word: str) -> int:
    """`8K`, `0.5M` or a plain number."""
    factor = {"K": 1_000, "M": 1_000_000}.get(word.strip()[-1:].upper(), 1)
    return round(float(word.strip().rstrip("KMkm")) * factor)


def open_corpus(folder: Path, corpus: Path | None = None) -> DocumentStore:
    """A documents.jsonl, or the starter corpus' plain text and Markdown."""
    if corpus is None:
        corpus = folder / "documents.jsonl"
        write_jsonl(corpus, _starter_documents())
    return DocumentStore([corpus])


def _starter_documents() -> Iterator[Document]:
    for category in Category:
        for path in sorted((CORPUS / category.value).rglob("*")):
            if path.suffix in (".txt", ".md"):
                name = path.relative_to(CORPUS).with_suffix("").as_posix()
                text = path.read_text(encoding="utf-8", errors="replace")
                yield Document(
                    id=name, category=category, title=path.stem, text=text, source=name, format="text", tokens=0
                )


def make_document(path: Path, documents: DocumentStore, model: Path, tokens: int, seed: int) -> Path:
    """A text of about `tokens` tokens: real paragraphs in random order."""
    tokenizer = ChatTokenizer(model)
    count = lru_cache(maxsize=16_384)(lambda text: len(tokenizer.encode_text(text)))
    ids = [name for name in documents if name.startswith(f"{Category.GENERAL.value}/")]
    write_streamed(path, endless_hay(documents, ids, rng(seed, "document")), [], tokens, count)
    return path


def scripted_engine(model: Path, lengths: Lengths) -> ScriptedEngine:
    """Answers every turn with a memory of half the cap and a plan; the model's tokenizer, no weights."""
    tokenizer = ChatTokenizer(model)
    words = tokenizer.decode(tokenizer.encode_text("The Elbe flows to Hamburg, the Rhine to Rotterdam. " * 2_000))
    memory = tokenizer.decode(tokenizer.encode_text(words)[: lengths.memory_tokens // 2])
    response = f"The section names places.</think><memory>{memory}</memory><plan>Look for more places.</plan>"
    return ScriptedEngine(lambda *_: response, tokenizer, max_model_tokens=lengths.window, keep_requests=False)


def open_engine(kind: str, model: Path, dtype: str, window: int, gpu_memory: float) -> Any:
    """An engine of the project's own class."""
    if kind == "vllm":
        from stages.engines.vllm_engine import VLLMEngine

        return VLLMEngine(
            model,
            compute_dtype=dtype,
            max_model_tokens=window,
            gpu_memory_utilization=gpu_memory,
            timeout_seconds=_LONGEST_SECONDS,
        )
    from stages.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model, compute_dtype=dtype, max_model_tokens=window)


def write_random_qwen(folder: Path, tokenizer_dir: Path, window: int) -> Path:
    """A Qwen3 of 0.6B's shape with random weights in bfloat16 and another model's tokenizer: for speeds at long windows."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = ChatTokenizer(tokenizer_dir)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=49_152,
        hidden_size=1_024,
        intermediate_size=3_072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=window,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_id,
    )
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(str(folder))
    tokenizer.save(folder)
    return folder
