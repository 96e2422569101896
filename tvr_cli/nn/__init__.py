"""Blocks that two or more methods use, each citing its source."""
