"""evaluate: how a model answers held-out questions and probes."""
