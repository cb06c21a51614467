"""How a sample becomes a prompt. One place, so that checks, training and evaluation ask alike.

The documents are data, not instructions: they stand between tags, and tags inside them are defused.
"""

from __future__ import annotations

import re

from stages.common.records import AnswerKind, Sample
from stages.common.storage import DocumentStore
from stages.common.tokens import Message

_ANSWER_FORM = {
    AnswerKind.TEXT: "Answer with the name or phrase only.",
    AnswerKind.NUMBER: "Answer with the number only.",
    AnswerKind.LETTER: "Answer with the letter of the right option only.",
    AnswerKind.SEQUENCE: "Answer with the requested text only, word for word.",
    AnswerKind.SET: "Answer with the items only, separated by semicolons.",
}
_TAG = re.compile(r"</?\s*(document|documents|question)\b|<\|", re.IGNORECASE)  # "<|" opens chat special tokens


def defuse_tags(text: str) -> str:
    """Break our own tags inside untrusted text, so that a document cannot close its quotation."""
    return _TAG.sub(lambda match: match.group(0).replace("<", "‹"), text)


def materialise_context(sample: Sample, documents: DocumentStore) -> str:
    """The sample's context as one text: its spans in reading order, each headed by its document's title."""
    parts = []
    for span in sample.context:
        parts.append(
            f"{opening_tag(documents[span.document_id].title)}\n{defuse_tags(documents.text_of(span))}\n</document>"
        )
    return "\n".join(parts)


def opening_tag(title: str) -> str:
    """What stands on the line above a document's text."""
    plain = defuse_tags(title).replace('"', "'").replace("\n", " ")
    return f'<document title="{plain}">'


def core_question(sample: Sample) -> str:
    """The question with its options, without the formatting instruction. Both quote documents, so tags are defused."""
    if not sample.choices:
        return defuse_tags(sample.question)
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCDEFGH", sample.choices, strict=False))
    return defuse_tags(f"{sample.question}\n{options}")


def answer_instruction(sample: Sample) -> str:
    """How the answer is to be written."""
    return _ANSWER_FORM[sample.answer_kind]


def full_context_messages(sample: Sample, context: str) -> list[Message]:
    """The single-pass prompt: documents, question, form of the answer."""
    return [
        {
            "role": "user",
            "content": f"<documents>\n{context}\n</documents>\n\n{core_question(sample)}\n{answer_instruction(sample)}",
        }
    ]


def closed_book_messages(sample: Sample) -> list[Message]:
    """The same question without the documents (knowledge grounding check)."""
    return [{"role": "user", "content": f"{core_question(sample)}\n{answer_instruction(sample)}"}]
