"""audiocraft's LMModel with random weights, small: what the studio's decoder is held against.

Importing audiocraft takes seconds, so it is imported once, by the first test that asks for an oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from studio.engine.model import Conditions
from studio.engine.transformer import MONO_DELAYS, STEREO_DELAYS, DecoderConfig, decoder_shapes

TEXT_DIM = 12
# Heads of 64 channels, as the released ones, suit the compiled step; those of `STEREO` do not.
MONO = DecoderConfig(dim=128, heads=2, layers=3, ffn=256, delays=MONO_DELAYS, cardinality=64)
STEREO = DecoderConfig(dim=48, heads=3, layers=2, ffn=192, delays=STEREO_DELAYS, cardinality=40)
SUMMED = DecoderConfig(dim=128, heads=2, layers=2, ffn=256, cardinality=64, summed=True)
PREPENDED = DecoderConfig(dim=128, heads=2, layers=2, ffn=256, cardinality=64, cross_attention=False)
SHAPES = {"mono": MONO, "stereo": STEREO, "summed": SUMMED, "prepended": PREPENDED}


@cache
def audiocraft() -> Any:
    """The package, imported without its warnings."""
    from studio.engine.quiet import quiet

    with quiet():
        import audiocraft.models.lm
        import audiocraft.modules.conditioners
        import audiocraft.utils.utils

        return audiocraft


@dataclass
class Oracle:
    """An LMModel that reads letters, and what the studio needs to do the same."""

    config: DecoderConfig
    lm: Any

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The decoder's, under audiocraft's names."""
        state = self.lm.state_dict()
        return {name: state[name] for name in decoder_shapes(self.config)}

    def conditions(self, prompt: str) -> Conditions:
        """The prompt as the studio's decoder takes it."""
        tensors = self.tensors(prompt)
        text = tensors["description"][0]  # [2, S, dim], prompted and null
        if self.config.cross_attention:
            return Conditions(cross=text[0], summed=tensors["gist"][0] if self.config.summed else None)
        return Conditions(prefix=text[0], null_prefix=text[1])

    def tensors(self, prompt: str) -> Any:
        """audiocraft's condition tensors for both branches."""
        with torch.no_grad():
            return self.lm.condition_provider(self.lm.condition_provider.tokenize(self._attributes(prompt, None)))

    def logits(self, codes: Tensor, prompt: str) -> tuple[Tensor, Tensor]:
        """Teacher-forced logits of codes [K, F] in both branches [2, K, F, card], and where they are valid."""
        with torch.no_grad():
            both = codes[None].expand(2, -1, -1)
            output = self.lm.compute_predictions(both, [], self.tensors(prompt), keep_only_valid_steps=False)
        return output.logits, output.mask

    def greedy(self, prompt: str, frames: int, cfg_coef: float, given: Tensor | None = None) -> Tensor:
        """Codes [K, F] of LMModel.generate without sampling, the first of which may be given [K, P]."""
        codes: Tensor = self.lm.generate(
            None if given is None else given[None], self._attributes(prompt), max_gen_len=frames, use_sampling=False,
            cfg_coef=cfg_coef, check=True,
        )[0]  # fmt: skip
        return codes

    def _attributes(self, *prompts: str | None) -> list[Any]:
        attributes = audiocraft().modules.conditioners.ConditioningAttributes
        return [attributes(text=dict.fromkeys(self.lm.condition_provider.conditioners, prompt)) for prompt in prompts]


def oracle(config: DecoderConfig, seed: int = 0) -> Oracle:
    """An oracle of this shape, initialised as audiocraft does, with norms that do something."""
    models, modules = audiocraft().models, audiocraft().modules
    torch.manual_seed(seed)
    how = "cross" if config.cross_attention else "prepend"
    fuse: dict[str, list[str]] = {"sum": [], "prepend": [], "cross": [], "input_interpolate": []}
    conditioners = {"description": _letters(config.dim)}
    if config.summed:
        conditioners["gist"] = _letters(config.dim, gist=True)
        fuse["sum"] = ["gist"]
    lm = models.lm.LMModel(
        modules.codebooks_patterns.DelayedPatternProvider(config.codebooks, list(config.delays)),
        modules.conditioners.ConditioningProvider(conditioners),
        modules.conditioners.ConditionFuser(fuse | {how: ["description"]}),
        n_q=config.codebooks,
        card=config.cardinality,
        dim=config.dim,
        num_heads=config.heads,
        hidden_scale=config.ffn // config.dim,
        num_layers=config.layers,
        cross_attention=config.cross_attention,
        norm_first=True,
        bias_proj=False,
        bias_ff=False,
        bias_attn=False,
        activation="gelu",
        causal=True,
        memory_efficient=True,
        dropout=0.0,
        weight_init="gaussian",
    ).eval()
    for parameter in lm.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return Oracle(config, lm)


def _letters(dim: int, gist: bool = False) -> Any:
    """A text conditioner that knows the alphabet; with `gist` it says one thing of the whole text [B, 1, dim]."""
    conditioners = audiocraft().modules.conditioners

    class Letters(conditioners.TextConditioner):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(TEXT_DIM, dim)
            self.table = torch.nn.Embedding(128, TEXT_DIM)

        def tokenize(self, prompts: list[str | None]) -> tuple[Tensor, Tensor]:
            rows = [torch.tensor([ord(letter) % 128 for letter in prompt or " "]) for prompt in prompts]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            lengths = torch.tensor([len(prompt or "") for prompt in prompts])
            return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).int()

        def forward(self, tokens: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            ids, mask = tokens
            said = self.output_proj(self.table(ids)) * mask[..., None]
            return (said.sum(1, keepdim=True), mask[:, :1]) if gist else (said, mask)

    return Letters()
