"""ingest: a folder of documents as Document records."""
