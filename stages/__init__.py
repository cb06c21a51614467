"""The work of each stage: pure functions from folders to a folder; no tracking, no orchestration, no cloud."""
