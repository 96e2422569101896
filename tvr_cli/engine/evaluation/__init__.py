"""Judging scores: the split of a store, a score file, runs beside each other, rows of a paper."""
