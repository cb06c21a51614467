"""What stages share: records, files, tokens, prompts, metrics, seeds, errors."""
