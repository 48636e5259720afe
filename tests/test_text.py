"""A prompt that comes again is not encoded again."""

from __future__ import annotations

import torch

from studio.engine.text import RECENT_PROMPTS, RecentPrompts, T5Encoder


def test_a_prompt_is_encoded_once() -> None:
    recent = RecentPrompts(T5Encoder(Letters()))
    first = recent.encode("sad piano", 20, 0)
    assert recent.encode("sad piano", 30, 1) is first
    for i in range(RECENT_PROMPTS):
        recent.encode(f"piano {i}", 20, 0)
    assert recent.encode("sad piano", 20, 0) is not first


class Letters:
    """A text conditioner that knows the alphabet."""

    def tokenize(self, prompts: list[str]) -> list[str]:
        return prompts

    def __call__(self, prompts: list[str]) -> tuple[torch.Tensor, None]:
        return torch.tensor([[[float(ord(letter))] for letter in prompt] for prompt in prompts]), None
