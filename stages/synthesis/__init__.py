"""synthesize, assemble, verify, stratify: verifiable questions from documents."""
