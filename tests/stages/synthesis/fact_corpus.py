"""Documents for the tests of fact-based questions: small ones written here, and the starter corpus."""

from __future__ import annotations

from pathlib import Path

from stages.common.records import Category, Document
from stages.common.storage import DocumentStore, write_jsonl

STARTER = Path("data/starter_corpus")


def document(title: str, body: str, category: Category = Category.GENERAL, name: str = "") -> Document:
    """A Markdown document headed by its title."""
    name = name or title.lower().replace(" ", "_")
    text = f"# {title}\n\n{body}"
    return Document(
        id=f"{category}/{name}",
        category=category,
        title=title,
        text=text,
        source=f"{category}/{name}.md",
        format="markdown",
        tokens=len(text) // 4,
    )


def country(name: str, capital: str, coast: str, borders: str, extra: str = "") -> Document:
    """A country profile in the shape of the factbook."""
    body = f"""## Geography

### Land boundaries

#### border countries

{borders}

### Coastline

{coast}

## Government

### Country name

#### conventional short form

{name}

### Capital

#### name

{capital}
{extra}"""
    return document(f"{name} - The World Factbook", body)


def write_documents(folder: Path, documents: list[Document]) -> Path:
    """One JSONL per category, as ingest writes them."""
    for category in Category:
        write_jsonl(folder / f"{category}.jsonl", [d for d in documents if d.category is category])
    return folder


def starter_documents() -> list[Document]:
    """The Markdown documents of the starter corpus that state facts."""
    found = []
    for folder in ("academic", "professional", "general"):
        for path in sorted((STARTER / folder).rglob("*.md")):
            text = path.read_text(encoding="utf-8").strip("\n")
            tops = [line for line in text.split("\n") if line.startswith("# ")]
            title = tops[0][2:].strip() if len(tops) == 1 and text.startswith("# ") else path.stem
            source = path.relative_to(STARTER).as_posix()
            found.append(
                Document(
                    id=source.removesuffix(".md"),
                    category=Category(folder),
                    title=title,
                    text=text,
                    source=source,
                    format="markdown",
                    tokens=len(text) // 4,
                )
            )
    return found


def store_of(folder: Path) -> DocumentStore:
    """The documents of a folder by id."""
    return DocumentStore(sorted(folder.glob("*.jsonl")))
