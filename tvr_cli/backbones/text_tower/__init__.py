"""CLIP's text tower in numpy on a mapped weights file: a sentence becomes a vector without importing torch.

mapped.py   tensors of a safetensors file, mapped
tower.py    the transformer, equal to open_clip's to rounding (a test holds it)
bpe.py      sentences to ids, CLIP's byte pair encoding
"""
