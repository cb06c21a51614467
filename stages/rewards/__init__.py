"""Rewards: a prediction and a gold answer in, a number in [0, 1] out."""
