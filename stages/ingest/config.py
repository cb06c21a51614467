"""Parameters of the ingest stage."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Section


class IngestConfig(Section):
    """Which documents are read, and which are dropped."""

    sources: str = Field(description="Folder with the documents; a first-level folder named like a category sets it.")
    min_characters: int = Field(ge=1, description="Shorter documents are dropped (reason too_short).")
    max_file_mb: float = Field(gt=0, description="Larger files, also once unpacked, are dropped (reason too_large).")
    max_file_seconds: float = Field(gt=0, description="A file that takes longer to parse is dropped (reason too_slow).")
    max_duplicate_lines: float = Field(
        ge=0, le=1, description="Largest share of a text, by characters, in lines that stood there before (repetitive)."
    )
    max_repeated_ngrams: float = Field(
        ge=0, le=1, description="Largest share of words in a 10-gram that occurred before (repetitive)."
    )
    max_boilerplate: float = Field(
        ge=0, le=1, description="Largest share of a text in cookie notices, menus and filler (boilerplate)."
    )
    max_damaged: float = Field(
        ge=0, le=1, description="Largest share of characters that a wrong encoding has destroyed (damaged)."
    )
    near_duplicate_similarity: float = Field(
        gt=0, le=1, description="Documents whose word 5-grams overlap so much (Jaccard) are one (near_duplicate)."
    )
    decontaminate_against: str = Field(
        description="Folder of benchmark texts or their 13-grams (contaminated); an empty folder switches it off."
    )


class IngestStage(Section):
    """Everything that the ingest stage depends on."""

    ingest: IngestConfig
