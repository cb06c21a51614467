"""rl@stage1-4 and memory_rl: task-balanced policy optimisation with AEPO."""
