"""A CLIP tokenizer in which every caption word is one token, learned by byte-pair encoding (Sennrich et al. 2016) on the word list alone.

Words that it does not know fall apart into the pieces that the merges left on their way, and in the end into bytes: nothing is unknown.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTokenizer

from training.studio.captions import words

_END = "</w>"


def write_tokenizer(directory: Path, tokens: int) -> None:
    """Write ``vocab.json``, ``merges.txt`` and the configuration for texts of ``tokens`` tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    letters = byte_letters()
    merges = learn_merges(words())
    vocabulary = [
        *letters,
        *(letter + _END for letter in letters),
        *dict.fromkeys(a + b for a, b in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    (directory / "vocab.json").write_text(
        json.dumps({word: index for index, word in enumerate(vocabulary)}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    lines = "".join(f"{first} {second}\n" for first, second in merges)
    (directory / "merges.txt").write_text("#version: 0.2\n" + lines, encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokens, "pad_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(directory: Path) -> Any:
    return CLIPTokenizer.from_pretrained(directory, local_files_only=True)


def tokenize(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """``(N, tokens)``, padded and cut as the service does it."""
    encoded = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt")
    ids: torch.Tensor = encoded.input_ids
    return ids


def learn_merges(vocabulary: list[str]) -> list[tuple[str, str]]:
    """Merge the commonest pair (ties: the first in order) until every word is one piece."""
    pieces = [(*word[:-1], word[-1] + _END) for word in vocabulary]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        most = max(pairs.values())
        first, second = min(pair for pair, count in pairs.items() if count == most)
        merges.append((first, second))
        pieces = [_merged(word, first, second) for word in pieces]
    return merges


def _merged(word: tuple[str, ...], first: str, second: str) -> tuple[str, ...]:
    out: list[str] = []
    index = 0
    while index < len(word):
        if word[index : index + 2] == (first, second):
            out.append(first + second)
            index += 2
        else:
            out.append(word[index])
            index += 1
    return tuple(out)


def byte_letters() -> list[str]:
    """A printable letter for each of the 256 bytes, in the order of CLIP's vocabulary (GPT-2's ``bytes_to_unicode``)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, printable), *(chr(256 + index) for index in range(256 - len(printable)))]
