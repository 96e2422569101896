"""Backbones of transformers: dual encoders of pictures, and of whole clips, that its classes build; never remote code.

backbone.py       the class: text, frames, clips, saving
recipes.py        the table: what to call of each model_type, what it provides, how its text is written
chat.py           a language model as an encoder: what stands around captions and clips, and its last token
source.py         from a name to configuration, weights, picture and tokenizer
hub.py            the cache of the Hugging Face hub: revisions
published.py      what is known of published weights before they are here: sizes, licences
preprocessing.py  how a processor's configuration makes a picture
weights.py        files of weights: finding, reading, filling a model
"""

from __future__ import annotations

from tvr_cli.backbones.hf.backbone import HfBackbone

__all__ = ["PACKAGE", "Backbone", "HfBackbone"]

PACKAGE = "transformers"
Backbone = HfBackbone
