"""Tokenizers: one for counting (no torch, no transformers) and one with the model's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from stages.common.errors import InputError

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}


class TokenCounter:
    """Counts tokens with a `tokenizer.json` alone, so CPU-only stages need neither torch nor transformers."""

    def __init__(self, tokenizer_json: Path) -> None:
        from tokenizers import Tokenizer  # a compiled package that loads in milliseconds, but not at import

        if not tokenizer_json.is_file():
            raise InputError(
                f"{tokenizer_json} does not exist. Run the base_model stage first: `longfuse run --only base_model`."
            )
        self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self._tokenizer.no_truncation()

    @property
    def vocabulary_size(self) -> int:
        """Ids that the tokenizer knows, added tokens included."""
        return int(self._tokenizer.get_vocab_size())

    def count(self, text: str) -> int:
        """Tokens of a text, no special tokens added."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def count_many(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text (one call, in parallel inside the tokenizer)."""
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span of each token of a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).offsets)


class ChatTokenizer:
    """The model's tokenizer and chat template.

    Raises InputError if the folder has no tokenizer or the tokenizer no chat template.
    """

    def __init__(self, model_dir: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                str(model_dir), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise InputError(f"{model_dir} holds no tokenizer that transformers can open: {error}") from None
        if not self._tokenizer.chat_template:
            raise InputError(
                f"the tokenizer in {model_dir} has no chat template. Use an instruct model, "
                "or put a chat_template.jinja into the model's folder."
            )
        if self._tokenizer.eos_token_id is None:
            raise InputError(
                f"the tokenizer in {model_dir} names no end token. Set eos_token in tokenizer_config.json."
            )
        self._backend: Any = getattr(
            self._tokenizer, "backend_tokenizer", None
        )  # compiled; None: a tokenizer in Python
        self.eos_id: int = self._tokenizer.eos_token_id
        self.pad_id: int = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self.eos_id

    def encode_chat(
        self, messages: Sequence[Message], known: tuple[str, tuple[int, ...]] | None = None
    ) -> tuple[int, ...]:
        """Prompt ids of a conversation, up to and including the opening of the assistant's turn.

        known: a long part of the prompt and its ids, which are then not computed again. The ids may differ from those without
        it where the part begins and ends; the text is the same.
        """
        text = str(self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
        if known is not None and self._parts_join:
            before, part, after = text.partition(known[0])
            if part:
                return (*self.encode_text(before), *known[1], *self.encode_text(after))
        return self.encode_text(text)

    @cached_property
    def _parts_join(self) -> bool:
        """False for tokenizers that put a blank before every text they are given."""
        parts = ("<a>\n", "Words, words.\n\n  And", "\n</a>")
        return self.decode([i for part in parts for i in self.encode_text(part)]) == "".join(parts)

    @cached_property
    def opens_reasoning(self) -> bool:
        """True if the template opens `<think>` itself (Qwen3-Thinking): a response then begins inside the reasoning."""
        prompt = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": "?"}], tokenize=False, add_generation_prompt=True
        )
        return str(prompt).rstrip().endswith("<think>")

    def decode_response(self, token_ids: Sequence[int]) -> str:
        """Text of a response, with the `<think>` that the template has opened for it."""
        return ("<think>\n" if self.opens_reasoning else "") + self.decode(token_ids)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Ids of plain text, no special tokens added. Several threads may encode at once."""
        if self._backend is None:
            return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        # Without masks and offsets, and without the interpreter's lock, which a single `encode` would hold.
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=False)
        return tuple(encoding.ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ids, special tokens removed, blanks as generated."""
        return str(
            self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def save(self, folder: Path) -> None:
        """Write tokenizer files into a model folder."""
        self._tokenizer.save_pretrained(str(folder))
