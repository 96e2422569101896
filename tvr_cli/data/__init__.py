"""Datasets: annotation files to a `Manifest`, one file each. No decoding and no tokenising here."""
