"""Real text with no download: the sources of Python's standard library, byte by byte."""

import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

BYTES = 256
BATCHES = 4
"""Batches there are before the first one comes again."""


def text_batches(batch: int, sequence: int) -> Callable[[], torch.Tensor]:
    """Returns a function that fetches the next batch of tokens, int64 [batch, sequence].

    A token is a byte, 0 to 255. A model with a larger vocabulary never sees the rest of it.
    """
    tokens = batch * sequence
    # As bytes until they are fetched: the text is an eighth of what int64 would take.
    text = torch.tensor(_sources(BATCHES * tokens))
    fetched = 0

    def fetch() -> torch.Tensor:
        nonlocal fetched
        start = fetched % BATCHES * tokens
        fetched += 1
        return text[start : start + tokens].view(batch, sequence).long()

    return fetch


def _sources(size_bytes: int) -> np.ndarray:
    """Returns the first bytes of the sources, uint8, from the start again where they end."""
    folder = Path(sysconfig.get_path("stdlib"))
    text = bytearray()
    for path in sorted(folder.glob("*.py")):
        text += path.read_bytes()
        if len(text) >= size_bytes:
            break
    return np.resize(np.frombuffer(bytes(text), dtype=np.uint8), size_bytes)
