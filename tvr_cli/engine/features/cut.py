"""Saying of a sentence that it is longer than what is read of it. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvr_cli import log

_SHOWN = 60  # characters of a long sentence in a message


def say_cut(
    texts: Sequence[str],
    n_tokens: Sequence[int],
    length: int,
    backbone: str,
    count: Callable[[Sequence[str]], Sequence[int]],
) -> None:
    """Warn of each sentence that was cut. n_tokens: as it was encoded, up to `length`.
    count: how many tokens sentences have before that.
    """
    full = [text for text, n in zip(texts, n_tokens, strict=True) if n >= length]
    for text, n in zip(full, count(full) if full else (), strict=True):
        if n > length:
            log.logger.warning(
                "warning: a sentence of %d tokens is read up to the first %d, all that these features of %s keep: %s",
                n, length, backbone, text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…",
            )  # fmt: skip
