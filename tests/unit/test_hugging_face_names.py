"""CLIP saved by Hugging Face's CLIPModel, as X-Pool's and T-MASS's checkpoints hold it, gives CLIPModel's features."""

from __future__ import annotations

import pytest
import torch

from tvr_cli.backbones.openclip import OpenClipBackbone
from tvr_cli.backbones.openclip.hugging_face_names import openai_names
from tvr_cli.errors import DataError

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """A CLIPModel of two blocks a tower, heads of 64 as OpenAI's, with random weights in which nothing is zero."""
    tower = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": 90, "max_position_embeddings": 16, "eos_token_id": 2},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=64,
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def test_both_towers_give_the_same_features(theirs):
    state = {f"clip.{k}": v for k, v in theirs.state_dict().items()}
    ours = OpenClipBackbone.from_state_dict(state, name="theirs")
    ids = torch.randint(1, 89, (3, 16), generator=torch.Generator().manual_seed(1))
    ids[:, 9], ids[:, 10:] = 89, 0  # the end is the largest id, pads follow
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    text = theirs.text_projection(theirs.text_model(input_ids=ids).pooler_output)
    image = theirs.visual_projection(theirs.vision_model(pixel_values=pixels).pooler_output)
    torch.testing.assert_close(ours.encode_text(ids)[0], text, rtol=0, atol=2e-5)
    torch.testing.assert_close(ours.encode_normalized(pixels[None])[0], image, rtol=0, atol=2e-5)


def test_what_is_not_known_is_kept_so_that_it_is_refused(theirs):
    state = dict(theirs.state_dict())
    state["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    assert not [k for k in openai_names(state) if k.startswith(("text_model", "vision_model"))]
    state["text_model.encoder.layers.0.gate.weight"] = torch.zeros(1)
    assert "transformer.resblocks.0.gate.weight" in openai_names(state)
    with pytest.raises(DataError, match="gate"):
        OpenClipBackbone.from_state_dict(state, name="other")
