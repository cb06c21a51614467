"""sft: the supervised warm-up."""
