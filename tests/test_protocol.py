"""The names that others build on, frozen: the public API and the method protocol. Changing one is a release note."""

import inspect

import tvr_cli
from tvr_cli.methods.base import Method


def signature(f):
    return str(inspect.signature(f))


def test_the_public_api():
    assert (
        signature(tvr_cli.evaluate)
        == "(scores: 'Scores', video_of_caption: 'Ints', protocol: 'V2TProtocol' = 'max') -> 'dict[str, Any]'"
    )
    assert (
        signature(tvr_cli.load_method)
        == "(workspace: 'Path | str', *, run: 'str | None' = None, method: 'str | None' = None) -> 'Method'"
    )
    assert signature(tvr_cli.Index.open) == "(folder: 'Path') -> 'Index'"


def test_the_method_protocol():
    expected = {
        "init_from_backbone": "(self, text_tower: 'Mapping[str, Tensor]', logit_scale: 'Tensor') -> 'None'",
        "encode_text": "(self, text: 'TextFeatures') -> 'Encoding'",
        "encode_video": "(self, video: 'VideoFeatures') -> 'Encoding'",
        "score": "(self, text: 'Encoding', video: 'Encoding') -> 'Tensor'",
        "loss": "(self, batch: 'Batch', *, step: 'int', draws: 'Draws') -> 'LossOutput'",
        "coarse": "(self, e: 'Encoding') -> 'Tensor'",
        "explain": "(self, text: 'Encoding', video: 'Encoding') -> 'Tensor'",
        "dead": "(self) -> 'frozenset[str]'",
    }
    assert {name: signature(getattr(Method, name)) for name in expected} == expected


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(tvr_cli, "nothing_of_this_name")
