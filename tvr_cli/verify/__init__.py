"""Proof against numbers that others published: what `tvr verify` runs. Not a part of what computes anything.

An expected value is never computed here: it stands beside its source, the line there and a tolerance (`rows`,
`vectors`), and a test fails for one without. What is checked is the code that every other command runs.
"""
