"""The decoder against audiocraft's LMModel, and what a request may expect whatever else is in flight."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from studio.engine import delay
from studio.engine.attention import Dense
from studio.engine.decoder import Decoder
from studio.engine.linear import Int8WeightLinear
from studio.engine.loader import pick_precision
from studio.engine.model import Conditions
from studio.engine.recording import Graphs, Traces
from studio.engine.sampling import FIRST_OF_KEPT, Sampling, SamplingRows, draw, truncate
from studio.engine.step import UNKNOWN, Batch
from studio.engine.transformer import MONO_DELAYS, STEREO_DELAYS, decoder_shapes
from studio.errors import InvalidRequest, NotFinite
from tests.oracle import MONO, SHAPES, Oracle, audiocraft, oracle

CPU = torch.device("cpu")
MAX_FRAMES = 150
PROMPTS = ["sad piano", "drum and bass, fast, 174 bpm", "flute", "a choir in a cathedral, slow and solemn"]


@pytest.fixture(scope="module", params=list(SHAPES))
def reference(request: pytest.FixtureRequest) -> Oracle:
    return oracle(SHAPES[request.param])


@pytest.fixture(scope="module")
def mono() -> Oracle:
    return oracle(MONO)


def decoder(reference: Oracle, slots: int = 4, precision: str = "fp32") -> Decoder:
    return Decoder(
        reference.config, reference.parameters, device=CPU, precision=precision, slots=slots, max_frames=MAX_FRAMES
    )


def finish(decoder: Decoder, keys: list[str]) -> dict[str, Tensor]:
    """Step until these requests are done."""
    codes: dict[str, Tensor] = {}
    while set(keys) - codes.keys():
        for key, done, total in decoder.step():
            if done == total:
                codes[key] = decoder.take(key)
    return codes


def decode(
    decoder: Decoder, conditions: Conditions, frames: int, sampling: Sampling, given: Tensor | None = None
) -> Tensor:
    decoder.admit("only", conditions, frames, sampling, given)
    return finish(decoder, ["only"])["only"]


class Forced(Decoder):
    """Every request takes the codes that it is given; keeps all logits."""

    def force(self, codes: Tensor) -> None:
        self.given = delay.delay(codes, self.config.delays, special=0)[:, 1:]  # [K, steps]
        self.seen: list[Tensor] = []

    def _advance(self, batch: Batch) -> None:
        codes = self.given[:, self._in_flight[0].done].expand(len(self._in_flight), -1)
        self.seen.append(self._step.logits(batch))
        self._step.record(len(codes), codes, torch.ones(codes.shape))


def test_logits_equal_audiocrafts(reference: Oracle) -> None:
    config, frames = reference.config, 90
    codes = torch.randint(config.cardinality, (config.codebooks, frames))
    forced = Forced(config, reference.parameters, device=CPU, precision="fp32", slots=2, max_frames=frames)
    forced.force(codes)
    assert torch.equal(decode(forced, reference.conditions("sad piano"), frames, Sampling(0)), codes)

    logits = torch.stack(forced.seen, dim=3)[0]  # [2, K, steps, card]
    ours = torch.stack([logits[:, k, lag : lag + frames] for k, lag in enumerate(config.delays)], dim=1)
    theirs, valid = reference.logits(codes, "sad piano")  # [2, K, F, card]
    assert bool(valid.all())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("prompt", "cfg_coef"), [("sad piano", 3.0), ("drum and bass, 174 bpm", 1.5)])
def test_greedy_decoding_with_guidance_gives_audiocrafts_codes(reference: Oracle, prompt: str, cfg_coef: float) -> None:
    ours = decode(decoder(reference), reference.conditions(prompt), 100, Sampling(0, cfg_coef=cfg_coef, greedy=True))
    assert torch.equal(ours, reference.greedy(prompt, 100, cfg_coef))


@pytest.mark.parametrize("count", [1, 3, 40, 99])
def test_given_codes_go_on_as_audiocrafts(reference: Oracle, count: int) -> None:
    given = torch.randint(reference.config.cardinality, (reference.config.codebooks, count))
    sampling = Sampling(0, cfg_coef=3.0, greedy=True)
    ours = decode(decoder(reference), reference.conditions("sad piano"), 100, sampling, given)
    assert torch.equal(ours[:, :count], given)
    assert torch.equal(ours, reference.greedy("sad piano", 100, 3.0, given))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_codes_given_at_once_are_read_as_step_by_step(reference: Oracle, precision: str) -> None:
    config, frames = reference.config, 70
    codes, seen = torch.randint(config.cardinality, (config.codebooks, frames)), []
    for given in (None, codes[:, :40]):
        forced = Forced(config, reference.parameters, device=CPU, precision=precision, slots=1, max_frames=frames)
        forced.force(codes)
        decode(forced, reference.conditions("flute"), frames, Sampling(0), given)
        seen.append(torch.stack(forced.seen[-30:]))
    error = (seen[0] - seen[1]).std() / seen[0].std()
    assert float(error) < {"fp32": 1e-5, "bf16": 0.02, "int8": 0.02}[precision]


def test_audiocrafts_cross_attention_adds_nothing_to_the_null_branch(mono: Oracle) -> None:
    layer = mono.lm.transformer.layers[0]
    queries, nothing = torch.randn(1, 5, MONO.dim), torch.zeros(1, 7, MONO.dim)
    with torch.no_grad():
        assert torch.count_nonzero(layer._cross_attention_block(queries, nothing)) == 0


@pytest.mark.parametrize("delays", [MONO_DELAYS, STEREO_DELAYS])
def test_the_delay_pattern_is_audiocrafts_and_comes_back(delays: tuple[int, ...]) -> None:
    codes = torch.randint(64, (2, len(delays), 17))
    pattern = audiocraft().modules.codebooks_patterns.DelayedPatternProvider(len(delays), list(delays))
    theirs, _, _ = pattern.get_pattern(17).build_pattern_sequence(codes, special_token=64)
    ours = delay.delay(codes, delays, special=64)
    assert torch.equal(ours, theirs)
    assert torch.equal(delay.undelay(ours, delays), codes)


def rows(*samplings: Sampling, cardinality: int = 64) -> SamplingRows:
    return SamplingRows.of(samplings, cardinality, CPU)


@pytest.mark.parametrize("top_k", [1, 5, 63, 64])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_top_k_leaves_audiocrafts_probabilities(top_k: int, temperature: float) -> None:
    logits = torch.randn(1, 4, 64) * 2
    theirs = torch.softmax(logits / temperature, dim=-1)
    audiocraft().utils.utils.sample_top_k(theirs, top_k)  # works in place
    ours = truncate(logits, rows(Sampling(0, temperature=temperature, top_k=top_k))).softmax(-1)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("top_p", [0.1, 0.6, 0.95, 1.0])
def test_top_p_draws_as_audiocraft_does(top_p: float) -> None:
    """Audiocraft's truncated distribution is not to be seen, so its draws are counted. Top-k counts for nothing."""
    torch.manual_seed(3)
    logits, draws = torch.randn(1, 1, 12) * 1.5, 40_000
    probabilities = torch.softmax(logits[0] / 0.9, dim=-1).expand(draws, -1)
    theirs = audiocraft().utils.utils.sample_top_p(probabilities, top_p).flatten().bincount(minlength=12) / draws
    ours = truncate(logits, rows(Sampling(0, temperature=0.9, top_k=2, top_p=top_p), cardinality=12)).softmax(-1)
    assert torch.equal(ours[0, 0] > 0, theirs > 0)
    torch.testing.assert_close(ours[0, 0], theirs, rtol=0, atol=0.012)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_each_codebook_takes_its_share_of_guidance(mono: Oracle, precision: str) -> None:
    def codes(guidance: tuple[float, ...], cfg_coef: float) -> Tensor:
        config = replace(mono.config, guidance=guidance)
        one = Decoder(config, mono.parameters, device=CPU, precision=precision, slots=1, max_frames=20)
        return decode(one, mono.conditions("flute"), 20, Sampling(0, cfg_coef=cfg_coef))

    assert torch.equal(codes((1.0,) * 4, 5.0), codes((), 5.0))
    assert torch.equal(codes((0.5,) * 4, 5.0), codes((), 3.0))
    assert not torch.equal(codes((1.0, 1.0, 0.5, 0.5), 5.0), codes((), 5.0))


def test_beyond_strong_guidance_half_is_taken() -> None:
    samplings = [Sampling(0, cfg_coef=cfg_coef) for cfg_coef in (1.0, 3.0, 4.5, 6.0)]
    taken = SamplingRows.of(samplings, 64, CPU, guidance=(1.0, 0.5), strong_guidance=3.0).cfg_coef[..., 0]
    torch.testing.assert_close(taken, torch.tensor([[1.0, 1.0], [3.0, 2.0], [3.75, 2.375], [4.5, 2.75]]))


def test_without_truncation_every_token_can_be_drawn() -> None:
    logits = torch.randn(1, 4, 64)
    torch.testing.assert_close(truncate(logits, rows(Sampling(0, top_k=0))), logits)


def test_requests_are_truncated_each_in_its_own_way() -> None:
    samplings = [
        Sampling(0, top_k=5),
        Sampling(0, top_k=0),
        Sampling(0, top_p=0.5),
        Sampling(0, temperature=0.5, top_k=9),
    ]
    logits = torch.randn(len(samplings), 4, 64)
    together = truncate(logits, rows(*samplings))
    alone = [truncate(logits[[i]], rows(sampling))[0] for i, sampling in enumerate(samplings)]
    assert torch.equal(together, torch.stack(alone))


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, -torch.inf, 2.0])
    noise = torch.rand(1, 50_000, generator=torch.Generator().manual_seed(1))
    codes, mass = draw(logits.expand(1, 50_000, 5), noise)
    torch.testing.assert_close(codes[0].bincount(minlength=5) / 50_000, logits.softmax(-1), rtol=0, atol=0.01)
    torch.testing.assert_close(mass, torch.ones_like(mass))


@pytest.mark.parametrize("noise", [0.0, 0.5, FIRST_OF_KEPT])
def test_a_token_without_probability_is_never_drawn(noise: float) -> None:
    logits = torch.full((1, 1, 64), -torch.inf)
    logits[..., 17] = 0.3
    codes, _ = draw(logits, torch.tensor([[noise]]))
    assert codes.item() == 17


def test_the_same_seed_gives_the_same_codes_and_another_seed_others(mono: Oracle) -> None:
    first, again, other = (decode(decoder(mono), mono.conditions("flute"), 30, Sampling(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (4, 30)
    assert 0 <= int(first.min()) <= int(first.max()) < MONO.cardinality


SAMPLINGS = [
    Sampling(1, top_k=20),
    Sampling(2, top_p=0.9, temperature=1.3),
    Sampling(3, top_k=0, cfg_coef=1.0),
    Sampling(4, top_k=5, temperature=0.7, cfg_coef=8.0),
]
FRAMES = [40, 90, 25, 60]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_codes_do_not_depend_on_the_neighbours(reference: Oracle, precision: str) -> None:
    """Four requests, one admitted every seven steps, one with codes given, leaving at different times, against each of
    them alone."""
    conditions = [reference.conditions(prompt) for prompt in PROMPTS]
    given = [None, torch.randint(reference.config.cardinality, (reference.config.codebooks, 30)), None, None]
    requests = list(zip(map(str, range(4)), conditions, FRAMES, SAMPLINGS, given, strict=True))
    alone = {key: decode(decoder(reference, precision=precision), *request) for key, *request in requests}

    shared, together = decoder(reference, precision=precision), {}
    for step in range(150):
        if step % 7 == 0 and step < 28:
            shared.admit(*requests[step // 7])
        together |= {key: shared.take(key) for key, done, total in shared.step() if done == total}
    assert shared.free_slots == 4
    for key, codes in alone.items():
        assert torch.equal(together[key], codes), key


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("name", list(SHAPES))
def test_logits_are_the_same_bits_in_any_company(name: str, precision: str) -> None:
    reference, frames = oracle(SHAPES[name]), 40
    codes = torch.randint(reference.config.cardinality, (reference.config.codebooks, frames))
    shared = Forced(reference.config, reference.parameters, device=CPU, precision=precision, slots=7, max_frames=frames)
    seen, others = [], ["flute", *PROMPTS, *PROMPTS]
    for company in (1, 2, 4, 5, 7):  # 2, 4, 8, 8 + 2 and 8 + 4 + 2 rows
        shared.force(codes)
        for n, prompt in enumerate([*others[: company - 1], "flute"]):
            shared.admit(str(n), reference.conditions(prompt), frames, Sampling(0))
        finish(shared, list(map(str, range(company))))
        logits = torch.stack(shared.seen)  # [steps, company, 2, K, card]
        seen += [logits[:, 0], logits[:, -1]]
    for logits in seen[1:]:
        assert torch.equal(logits, seen[0])


def test_an_evicted_request_leaves_at_once_and_the_others_go_on(mono: Oracle) -> None:
    expected = {str(seed): decode(decoder(mono), mono.conditions("flute"), 40, Sampling(seed)) for seed in range(3)}
    shared = decoder(mono, slots=3)
    for seed in range(3):
        shared.admit(str(seed), mono.conditions("flute"), 40, Sampling(seed))
    for _ in range(10):
        shared.step()
    shared.evict("0")  # the last one moves into its place
    assert shared.free_slots == 1
    shared.evict("unknown")
    assert [advance.key for advance in shared.step()] == ["2", "1"]
    shared.admit("0", mono.conditions("flute"), 40, Sampling(0))
    codes = finish(shared, ["0", "1", "2"])
    assert {key: torch.equal(codes[key], expected[key]) for key in expected} == dict.fromkeys(expected, True)


def joined(reference: Oracle, precision: str = "fp32") -> dict[str, Tensor]:
    """The codes of a request that others join after three steps."""
    requests = list(zip(PROMPTS, FRAMES, SAMPLINGS[:1] * 4, strict=True))
    shared = decoder(reference, precision=precision)
    for at, (prompt, frames, sampling) in enumerate(requests):
        shared.admit(str(at), reference.conditions(prompt), frames, sampling)
        for _ in range(0 if at else 3):
            shared.step()
    return finish(shared, [str(at) for at in range(len(requests))])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_recorded_step_does_what_the_step_does(
    reference: Oracle, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One recording serves any number of requests and any length. The compiled step is not recorded."""
    monkeypatch.setattr("studio.engine.decoder._native", lambda *_: None)
    made = []
    for worth in (10**6, 1):
        monkeypatch.setattr("studio.engine.recording.WORTH_RECORDING", worth)
        made.append(joined(reference, precision))
    for key, codes in made[0].items():
        assert torch.equal(made[1][key], codes), key


def test_a_captured_step_reads_whatever_batch_comes(reference: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, but that replaying a graph is running what it captured; keys and values lie as they do there."""
    monkeypatch.setattr("studio.engine.decoder.Bags", Dense)
    made, captured = [], []

    def capture(function: Callable[[], object]) -> Callable[[], object]:
        captured.append(function)
        return function

    for record in (Traces, lambda step: Graphs(step, capture)):
        monkeypatch.setattr("studio.engine.decoder.recorder", lambda step, _, record=record: record(step))
        made.append(joined(reference))
    for key, codes in made[0].items():
        assert torch.equal(made[1][key], codes), key
    assert 4 <= len(captured) <= 12  # by requests in flight and lengths


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8"])
def test_a_step_on_a_gpu_never_waits_for_it(reference: Oracle, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On imagined tensors of a GPU that nobody has: whatever asked for a number, or mixed devices, would raise."""
    config, gpu = reference.config, torch.device("cuda")
    monkeypatch.setattr("studio.engine.decoder.recorder", lambda step, _: Graphs(step, lambda function: function))
    with FakeTensorMode():
        parameters = {name: torch.empty(shape, device=gpu) for name, shape in decoder_shapes(config).items()}
        imagined = Decoder(config, parameters, device=gpu, precision=precision, slots=2, max_frames=MAX_FRAMES)
        for key in ("first", "second"):
            tokens = torch.empty(5, config.dim, device=gpu)
            prompt = {"cross": tokens} if config.cross_attention else {"prefix": tokens, "null_prefix": tokens}
            imagined.admit(key, Conditions(**prompt), 100, Sampling(0, greedy=True))
        advances = [imagined.step() for _ in range(3)]
    assert [(advance.key, advance.done) for advance in advances[-1]] == [("first", 3), ("second", 3)]


def test_eight_bit_weights_on_a_gpu_are_those_of_the_cpu() -> None:
    weight, x = torch.randn(48, 64), torch.randn(2, 64)
    rounded = Int8WeightLinear(weight, torch.float32)
    torch.testing.assert_close(rounded(x), x @ weight.T, rtol=0, atol=0.3)
    whole = rounded.weight.float() * rounded.scale[:, None]
    torch.testing.assert_close(rounded(x), x @ whole.T)
    assert (whole - weight).abs().max() <= weight.abs().amax() / 200


def test_nothing_in_flight_is_no_step(mono: Oracle) -> None:
    assert decoder(mono).step() == []


def test_a_prompt_longer_than_the_buffers_is_refused(mono: Oracle) -> None:
    shared = decoder(mono, slots=1)
    with pytest.raises(InvalidRequest, match="prompt: is too long"):
        shared.admit("long", Conditions(cross=torch.zeros(600, MONO.dim)), 10, Sampling(0))
    assert shared.free_slots == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_weights_that_are_not_numbers_fail_the_request_and_not_its_neighbour(mono: Oracle, precision: str) -> None:
    shared = decoder(mono, slots=2, precision=precision)
    shared.admit("bad", Conditions(cross=torch.full((5, MONO.dim), torch.nan)), 20, Sampling(0))
    shared.admit("good", mono.conditions("flute"), 30, Sampling(1))
    done: Mapping[str, bool] = {}
    while not done.get("bad"):
        done = {key: at == total for key, at, total in shared.step()}
    with pytest.raises(NotFinite):
        shared.take("bad")
    assert shared.free_slots == 1
    alone = decode(decoder(mono, precision=precision), mono.conditions("flute"), 30, Sampling(1))
    assert torch.equal(finish(shared, ["good"])["good"], alone)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_slot_that_held_numbers_that_are_none_can_be_used_again(mono: Oracle, precision: str) -> None:
    shared = decoder(mono, slots=1, precision=precision)
    shared.admit("bad", Conditions(cross=torch.full((5, MONO.dim), torch.nan)), 20, Sampling(0))
    for _ in range(15):
        shared.step()
    shared.evict("bad")
    assert torch.equal(
        decode(shared, mono.conditions("flute"), 30, Sampling(1)),
        decode(decoder(mono, precision=precision), mono.conditions("flute"), 30, Sampling(1)),
    )


class Compared(Decoder):
    """Draws each step's codes twice: as `sampling` does from the step's logits, and in the step."""

    equal: list[bool]

    def _advance(self, batch: Batch) -> None:
        step, rows = self._step, torch.arange(batch.size)
        drawn, _ = step.choose(batch, step.logits(batch))
        drawn[step.codes[rows, step.step[rows]] != UNKNOWN] = UNKNOWN  # not drawn
        super()._advance(batch)
        equal = drawn == step.tokens[rows]
        self.equal += equal[drawn != UNKNOWN].tolist()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_the_compiled_step_draws_as_the_operators_do(mono: Oracle, precision: str, threads: int) -> None:
    """All codes but those where the last bits of an exponential decide."""
    samplings = [*SAMPLINGS, Sampling(5, greedy=True), Sampling(6, top_k=1), Sampling(7, top_p=1e-6)]
    torch.set_num_threads(threads)
    shared = Compared(
        mono.config, mono.parameters, device=CPU, precision=precision, slots=len(samplings), max_frames=MAX_FRAMES
    )
    torch.set_num_threads(1)
    shared.equal = []
    for sampling in samplings:
        shared.admit(str(sampling.seed), mono.conditions("flute"), 100, sampling)
    finish(shared, [str(sampling.seed) for sampling in samplings])
    assert len(shared.equal) == len(samplings) * mono.config.codebooks * 100
    assert sum(shared.equal) >= 0.999 * len(shared.equal)


def test_the_threads_of_a_step_go_with_it(mono: Oracle) -> None:
    def helpers() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("decode-")]

    torch.set_num_threads(2)
    one = decoder(mono, precision="int8")
    torch.set_num_threads(1)
    decode(one, mono.conditions("flute"), 5, Sampling(0))
    held = weakref.ref(one._step)
    del one
    assert held() is None
    for _ in range(500):
        if helpers():
            time.sleep(0.01)
    assert not helpers()


@pytest.mark.parametrize(("precision", "error", "times"), [("int8", 0.03, 1.3), ("bf16", 0.015, 1.7)])
@pytest.mark.parametrize(
    ("name", "frames", "sharpness", "leeway"),
    [*((name, 70, 1.0, 1.0) for name in SHAPES), ("mono", 400, 1.0, 3.0), ("mono", 400, 8.0, 1.5)],
)
def test_the_compiled_step_is_near_fp32s(
    name: str, frames: int, sharpness: float, leeway: float, precision: str, error: float, times: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Nearly as near as the operators, which are taken where a processor lacks the instructions; in bf16 they keep keys
    and values in 16 bits. Where attention looks at hundreds of positions alike, two bits of their values are read."""
    reference = oracle(SHAPES[name])
    config, codes = reference.config, torch.randint(reference.config.cardinality, (reference.config.codebooks, frames))
    parameters = sharpened(reference, sharpness)
    seen = {}
    for kind, how, threads in (("fp32", "fp32", 1), ("one", precision, 1), ("two", precision, 2), ("no", precision, 1)):
        if kind == "no":
            monkeypatch.setattr("studio.engine.decoder._native", lambda *_: None)
        torch.set_num_threads(threads)
        forced = Forced(config, parameters, device=CPU, precision=how, slots=1, max_frames=frames)
        torch.set_num_threads(1)
        forced.force(codes)
        decode(forced, reference.conditions("flute"), frames, Sampling(0))
        seen[kind] = torch.stack(forced.seen)
    assert torch.equal(seen["one"], seen["two"])
    errors = {kind: (logits - seen["fp32"]).norm() / seen["fp32"].norm() for kind, logits in seen.items()}
    assert errors["one"] < leeway * error
    assert errors["one"] < leeway * times * errors["no"]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_who_looks_at_one_position_sees_it_however_large_the_score(mono: Oracle, precision: str) -> None:
    first = []
    for how in ("fp32", precision):
        forced = Forced(mono.config, sharpened(mono, 1e4), device=CPU, precision=how, slots=1, max_frames=1)
        forced.force(torch.zeros(4, 1, dtype=torch.int64))
        decode(forced, mono.conditions("flute"), 1, Sampling(0))
        first.append(forced.seen[0])
    assert (first[1] - first[0]).norm() < 0.03 * first[0].norm()


def sharpened(reference: Oracle, by: float) -> dict[str, Tensor]:
    """Its parameters, with larger scores of self-attention."""
    dim, parameters = reference.config.dim, reference.parameters
    for key in [key for key in parameters if key.endswith("self_attn.in_proj_weight")]:
        parameters[key] = torch.cat([by * parameters[key][:dim], parameters[key][dim:]])
    return parameters


def test_a_shape_says_how_many_codebooks_and_how_wide_a_head(mono: Oracle) -> None:
    assert (mono.config.codebooks, mono.config.head_dim) == (4, 64)


def test_auto_is_int8_where_the_compiled_step_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert pick_precision("auto", CPU, MONO) == "int8"
    assert pick_precision("auto", CPU, SHAPES["stereo"]) != "int8"


@pytest.mark.slow
@pytest.mark.parametrize("lacking", [("avx512", "avx10", "amx"), ("avx512", "avx10", "amx", "avxvnni")])
def test_the_compiled_step_is_near_fp32s_on_lesser_processors(lacking: tuple[str, ...]) -> None:
    """Compiled as for one that lacks instructions: with AVX-VNNI, where this one has that, and with AVX2."""
    from llvmlite import binding

    features = [name for name, there in binding.get_host_cpu_features().items() if there]
    left = ",".join(f"+{name}" for name in features if not name.startswith(lacking))
    command = [
        sys.executable,
        "-m",
        "pytest",
        __file__,
        "-n",
        "0",
        "-k",
        "is_near_fp32s and not lesser or one_position",
    ]
    environment = os.environ | {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": left}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
