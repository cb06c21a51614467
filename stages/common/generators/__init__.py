"""Generators of exact benchmark questions."""
