"""Checkpoints with random weights in the formats that are released: audiocraft's exports, T5, EnCodec, the bundle.

`xp.cfg` has the keys of audiocraft's own configuration (config/solver/musicgen/musicgen_base_32khz.yaml,
config/conditioner/*.yaml, config/model/lm/musicgen_lm.yaml, config/model/encodec/encodec_large_nq4_s640.yaml), with
its interpolations, dumped as audiocraft.utils.export dumps it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from studio.engine.bundle import CONDITIONERS, Bundle
from studio.engine.metre import BEATS, SIGNATURES
from studio.engine.quiet import quiet
from studio.engine.reader import AttributeConditioner, Reader, WordPieces, attribute_count
from studio.engine.spectral_codec import SpectralCodec, SpectralCodecConfig
from studio.engine.transformer import MONO_DELAYS, STEREO_DELAYS, DecoderConfig, decoder_shapes

Kind = Literal["text", "melody", "style"]
ATTRIBUTES = {  # of a tiny bundle
    "drums": ("none", "drums"),
    "instruments": ("piano", "flute", "cello"),
    "metre": tuple(SIGNATURES),
    "beat": tuple(map(str, BEATS)),
}


@dataclass(frozen=True)
class Shape:
    """The size of a checkpoint."""

    dim: int
    heads: int
    layers: int
    cardinality: int
    t5: str  # a name that audiocraft knows
    t5_dim: int
    t5_heads: int
    t5_layers: int
    t5_vocabulary: int
    codec_filters: int
    codec_dim: int
    codec_lstm: int


TINY = Shape(32, 4, 2, 64, "t5-small", 512, 2, 1, 400, 4, 16, 1)
SMALL = Shape(1024, 16, 24, 2048, "t5-base", 768, 12, 12, 32128, 64, 128, 2)  # as facebook/musicgen-small


@dataclass(frozen=True)
class Export:
    """What to write: a kind of model in a shape."""

    kind: Kind = "text"
    stereo: bool = False
    encodec: str | None = None  # the repository that the codec's file points to, instead of holding the codec
    shape: Shape = TINY

    @property
    def config(self) -> DecoderConfig:
        s = self.shape
        delays = STEREO_DELAYS if self.stereo else MONO_DELAYS
        return DecoderConfig(s.dim, s.heads, s.layers, 4 * s.dim, delays, s.cardinality, self.kind == "text")


def write_export(folder: Path, export: Export, seed: int = 0) -> None:
    """`state_dict.bin` and `compression_state_dict.bin` as audiocraft.utils.export writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    package = {
        "best_state": {name: t.half() for name, t in _decoder_state(export, seed).items()},
        "xp.cfg": _yaml(_decoder_config(export)),
        "version": "1.3.0",
        "exported": True,
    }
    torch.save(package, folder / "state_dict.bin")
    write_compression(folder / "compression_state_dict.bin", export)


def write_compression(path: Path, export: Export) -> None:
    """The codec's half: its weights, or the name of a repository that has them."""
    if export.encodec:
        torch.save({"pretrained": export.encodec, "exported": True, "version": "1.3.0"}, path)
        return
    config = _yaml(_codec_config(export.shape))
    state = encodec(config).state_dict()
    torch.save({"best_state": state, "xp.cfg": config, "version": "1.3.0", "exported": True}, path)


def encodec(config: str, seed: int = 0) -> Any:
    """audiocraft's EnCodec with random weights and codebooks."""
    from omegaconf import OmegaConf

    with quiet():
        from audiocraft.models.builders import get_compression_model

        torch.manual_seed(seed)
        model = get_compression_model(OmegaConf.create({**OmegaConf.create(config), "device": "cpu"}))
    for layer in model.quantizer.vq.layers:
        layer._codebook.embed.normal_()
        layer._codebook.inited.fill_(1)
    return model.eval()


def write_encodec_repository(folder: Path, shape: Shape = TINY, seed: int = 0) -> Any:
    """An EnCodec as transformers stores it (facebook/encodec_32khz); returns it."""
    bits = shape.cardinality.bit_length() - 1
    with quiet():
        from transformers import EncodecConfig, EncodecModel

        torch.manual_seed(seed)
        config = EncodecConfig(
            target_bandwidths=[50 * 4 * bits / 1000], sampling_rate=32_000, audio_channels=1, normalize=False,
            use_causal_conv=False, num_filters=shape.codec_filters, hidden_size=shape.codec_dim,
            codebook_dim=shape.codec_dim, codebook_size=shape.cardinality, upsampling_ratios=[8, 5, 4, 4],
            num_lstm_layers=shape.codec_lstm, norm_type="weight_norm",
        )  # fmt: skip
        model = EncodecModel(config).eval()
        for layer in model.quantizer.layers:
            layer.codebook.embed.normal_()
        model.save_pretrained(folder)
    return model


def write_t5(folder: Path, shape: Shape = TINY, seed: int = 0) -> None:
    """A T5 encoder with the files that its repositories have: `config.json`, `model.safetensors`, `tokenizer.json`."""
    with quiet():
        from transformers import T5Config, T5EncoderModel

        torch.manual_seed(seed)
        config = T5Config(
            vocab_size=shape.t5_vocabulary, d_model=shape.t5_dim, d_kv=64, d_ff=4 * shape.t5_dim,
            num_layers=shape.t5_layers, num_heads=shape.t5_heads,
        )  # fmt: skip
        T5EncoderModel(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(_t5_tokenizer()))


def write_bundle(folder: Path, seed: int = 0) -> None:
    """A model in the format of musicgen-mini, tiny and untrained."""
    torch.manual_seed(seed)
    config = DecoderConfig(dim=32, heads=4, layers=2, ffn=64, cardinality=32, summed=True)
    codec = SpectralCodec(
        SpectralCodecConfig(cardinality=32, dim=16, expansion=16, latent=8, encoder_coarse=1, decoder_coarse=1)
    )
    codec.codebooks.normal_()
    lm = {name: 0.1 * torch.randn(shape) for name, shape in decoder_shapes(config).items()}
    pieces = word_pieces()
    reader = Reader(pieces.table.shape[1], config.dim, ATTRIBUTES)
    conditioner = AttributeConditioner(attribute_count(ATTRIBUTES), config.dim)
    Bundle(config, lm, pieces, reader, conditioner, codec).write(folder, "test")


def word_pieces(dim: int = 16) -> WordPieces:
    """A word-piece tokenizer of a few words and all letters, with a random table."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [
        "[UNK]",
        *letters,
        *(f"##{letter}" for letter in letters),
        "piano",
        "drums",
        "sad",
        "happy",
        "slow",
        "fast",
    ]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return WordPieces(tokenizer, torch.randn(len(words), dim))


def _decoder_state(export: Export, seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {**decoder_shapes(export.config)}
    dim = export.shape.dim
    shapes[f"{CONDITIONERS}description.output_proj.weight"] = (dim, export.shape.t5_dim)
    shapes[f"{CONDITIONERS}description.output_proj.bias"] = (dim,)
    if export.kind != "text":
        width = 12 if export.kind == "melody" else 512
        shapes[f"{CONDITIONERS}self_wav.output_proj.weight"] = (dim, width)
        shapes[f"{CONDITIONERS}self_wav.output_proj.bias"] = (dim,)
    state = {name: _random(name, shape, random) for name, shape in shapes.items()}
    if export.kind == "melody":
        state[f"{CONDITIONERS}self_wav.chroma.spec.window"] = torch.hann_window(2**14)
    return state


def _random(name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Norms near one, the rest at the scale that keeps activations of a model of any width alive."""
    noise = torch.randn(shape, generator=random)
    if "norm" in name:
        return 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
    return noise if "emb" in name or name.endswith("bias") else noise * shape[-1] ** -0.5


def _yaml(config: dict[str, Any]) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(config))


def _decoder_config(export: Export) -> dict[str, Any]:
    s, config = export.shape, export.config
    return {
        "device": "cuda", "dtype": "float32", "solver": "musicgen", "sample_rate": 32000, "channels": 1 + export.stereo,
        "dora": {"dir": "/checkpoint/${oc.env:USER}/experiments/audiocraft/outputs"},
        "compression_model_checkpoint": "//pretrained/facebook/encodec_32khz", "compression_model_n_q": None,
        "interleave_stereo_codebooks": {"use": export.stereo, "per_timestep": False},
        "tokens": {"padding_with_special_token": False},
        "dataset": {"segment_duration": 30, "batch_size": 192},
        "classifier_free_guidance": {"training_dropout": 0.3, "inference_coef": 3.0},
        "attribute_dropout": {"args": {"active_on_eval": False}, "text": {}, "wav": {}},
        "fuser": {
            "cross_attention_pos_emb": False, "cross_attention_pos_emb_scale": 1, "sum": [], "input_interpolate": [],
            "prepend": [] if export.kind == "text" else ["self_wav", "description"],
            "cross": ["description"] if export.kind == "text" else [],
        },
        "conditioners": {**_wav_conditioner(export.kind), "description": {"model": "t5", "t5": {
            "name": s.t5, "finetune": False, "word_dropout": 0.3, "normalize_text": False,
        }}},
        "lm_model": "transformer_lm",
        "codebooks_pattern": {
            "modeling": "delay",
            "delay": {"delays": list(config.delays), "flatten_first": 0, "empty_initial": 0},
            "unroll": {"flattening": [0, 1, 2, 3], "delays": [0, 0, 0, 0]},
            "music_lm": {"group_by": 2}, "coarse_first": {"delays": [0, 0, 0]},
        },
        "transformer_lm": {
            "dim": s.dim, "num_heads": s.heads, "num_layers": s.layers, "hidden_scale": 4, "n_q": config.codebooks,
            "card": s.cardinality, "dropout": 0.0, "emb_lr": None, "activation": "gelu", "norm_first": True,
            "bias_ff": False, "bias_attn": False, "bias_proj": False, "past_context": None, "causal": True,
            "custom": False, "memory_efficient": True, "attention_as_float32": False, "layer_scale": None,
            "positional_embedding": "sin", "xpos": False, "checkpointing": "none", "weight_init": "gaussian",
            "depthwise_init": "current", "zero_bias_init": True, "norm": "layer_norm", "cross_attention": False,
            "qk_layer_norm": False, "qk_layer_norm_cross": False, "attention_dropout": None, "kv_repeat": 1,
            "two_step_cfg": False,
        },
    }  # fmt: skip


def _wav_conditioner(kind: Kind) -> dict[str, Any]:
    if kind == "text":
        return {}
    melody = {
        "sample_rate": "${sample_rate}", "n_chroma": 12, "radix2_exp": 14, "argmax": True, "match_len_on_eval": False,
        "eval_wavs": None, "n_eval_wavs": 100, "cache_path": None,
    }  # fmt: skip
    style = {"model_name": "mert", "sample_rate": "${sample_rate}", "ds_factor": 15, "length": 3.0, "eval_q": 3}
    model = "chroma_stem" if kind == "melody" else "style"
    return {"self_wav": {"model": model, model: melody if kind == "melody" else style}}


def _codec_config(s: Shape) -> dict[str, Any]:
    return {
        "device": "cuda", "sample_rate": 32000, "channels": 1, "solver": "compression", "compression_model": "encodec",
        "encodec": {
            "autoencoder": "seanet", "quantizer": "rvq", "sample_rate": "${sample_rate}", "channels": "${channels}",
            "causal": False, "renormalize": False,
        },
        "seanet": {
            "dimension": s.codec_dim, "channels": "${channels}", "causal": "${encodec.causal}",
            "n_filters": s.codec_filters, "n_residual_layers": 1, "ratios": [8, 5, 4, 4], "activation": "ELU",
            "activation_params": {"alpha": 1.0}, "norm": "weight_norm", "norm_params": {}, "kernel_size": 7,
            "residual_kernel_size": 3, "last_kernel_size": 7, "dilation_base": 2, "pad_mode": "constant",
            "true_skip": True, "compress": 2, "lstm": s.codec_lstm, "disable_norm_outer_blocks": 0,
            "decoder": {"trim_right_ratio": 1.0, "final_activation": None, "final_activation_params": None},
            "encoder": {},
        },
        "rvq": {
            "n_q": 4, "q_dropout": False, "bins": s.cardinality, "decay": 0.99, "kmeans_init": True, "kmeans_iters": 50,
            "threshold_ema_dead_code": 2, "orthogonal_reg_weight": 0.0, "orthogonal_reg_active_codes_only": False,
        },
        "no_quant": {},
    }  # fmt: skip


def _t5_tokenizer() -> dict[str, Any]:
    """A unigram tokenizer as t5-base's tokenizer.json has it, with a few hundred pieces."""
    words = ["music", "piano", "drums", "sad", "happy", "slow", "fast", "with", "and"]
    pieces = [[f"▁{word}", -4.0] for word in words] + [
        [letter, -8.0] for letter in "abcdefghijklmnopqrstuvwxyz0123456789,.-"
    ]
    extra = [f"<extra_id_{i}>" for i in range(99, -1, -1)]
    vocabulary = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -5.0], *pieces, *([name, 0.0] for name in extra)]
    special = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {name: len(vocabulary) - 100 + i for i, name in enumerate(extra)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    space = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True, "str_rep": "▁"}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "decoder": space,
        "added_tokens": [{"id": i, "content": name, **flags} for name, i in special.items()],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary},
    }  # fmt: skip
