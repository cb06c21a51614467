"""Parameters of the ingest stage."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Section


class IngestConfig(Section):
    """Which documents are read, and which are dropped."""

    sources: str = Field(description="Folder with the documents; a first-level folder named like a category sets it.")
    min_characters: int = Field(ge=1, description="Shorter documents are dropped (reason too_short).")
    max_file_mb: float = Field(gt=0, description="Larger files are dropped unread (reason too_large).")


class IngestStage(Section):
    """Everything that the ingest stage depends on."""

    ingest: IngestConfig
