"""Truth defended: a generation is its steps: every token's latency is that of one prediction, and nothing is counted twice or left out."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from functional.errors import BadInput
from hwmodels import chip_names, load_chip
from sim import Sampling, Speculation, Timeline, api, load_model, predict_generation
from sim.engines import ENGINES
from sim.explore.generation import DRAFT, expected_tokens
from sim.explore.stretch import TOLERANCE, ClassTimes, Stretch, _Asked, stretch
from sim.present.generation_tables import generation_tables
from tests.chips import round_chip, round_model
from workloads.scenario import Formats, Scenario
from workloads.trace import trace

CHIPS = ("edge-npu", "a100-sxm4-80gb", "gemmini-default")
DRAWN = Sampling(1.0, top_k=50, top_p=0.9)


def predict(*arguments: Any, **asked: Any) -> Timeline:
    """A step as a generation times it: without prefetch."""
    return api.predict(*arguments, **asked, prefetch=asked.get("engine") != "cycle")


def extended(model: str, chip: str, engine: str, q_len: int, context: int, logits: Any, sampling: Sampling | None = None) -> Any:
    """Another way to a step of several tokens: traced with numbers alone."""
    built = load_chip(chip)
    scenario = Scenario.extend(Formats.of(built.default_format), 1, q_len, context, logits, sampling)
    return api.predict_graph(trace(load_model(model), scenario), built, engine, prefetch=engine != "cycle")


# Token by token --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("chip", "fused"), [*((chip, True) for chip in CHIPS), ("edge-npu", False), ("a100-sxm4-80gb", False)])
def test_every_latency_is_that_of_a_prediction(chip: str, engine: str, fused: bool) -> None:
    """To the last bit, also where tiles change; stories15m unfused, since its scores then are tensors that grow."""
    asked: dict[str, Any] = {"prompt": 29, "batch": 2, "engine": engine, "fused": fused, "sampling": DRAWN}
    found = predict_generation("stories15m", chip, tokens=5, **asked)
    assert found.ttft_s == found.token_latency_s[0] == predict("stories15m", chip, **asked).total_s
    for i in range(1, 5):
        one = predict("stories15m", chip, phase="decode", context=29 + i - 1, **asked)
        assert found.token_latency_s[i] == one.total_s, i
    assert len(found.token_latency_s) == 5


@pytest.mark.parametrize("engine", ENGINES)
def test_across_a_tile_of_a_long_context(engine: str) -> None:
    found = predict_generation("llama-3.2-1b", "edge-npu", tokens=5, prompt=510, engine=engine)
    for i in range(1, 5):
        assert found.token_latency_s[i] == predict("llama-3.2-1b", "edge-npu", phase="decode", context=509 + i, engine=engine).total_s


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sliding_window(engine: str) -> None:
    """Contexts below, at and above the window: from there on a step does not grow."""
    model, chip = round_model(layers=2, window=16), round_chip()
    found = predict_generation(model, chip, tokens=9, prompt=12, engine=engine)
    for i in range(1, 9):
        assert found.token_latency_s[i] == predict(model, chip, phase="decode", context=11 + i, engine=engine).total_s
    assert found.token_latency_s[-1] == found.token_latency_s[-2] > found.token_latency_s[1]


def test_the_first_token_comes_out_of_the_prompt() -> None:
    """N tokens are N - 1 decode steps: one token is the prefill alone."""
    one = predict_generation("stories15m", "edge-npu", tokens=1, prompt=20)
    assert one.total_s == one.ttft_s == predict("stories15m", "edge-npu", prompt=20).total_s
    two = predict_generation("stories15m", "edge-npu", tokens=2, prompt=20)
    assert two.total_s == one.total_s + predict("stories15m", "edge-npu", phase="decode", context=20).total_s


@pytest.mark.parametrize("engine", ENGINES)
def test_totals_are_the_sums_of_the_steps(engine: str) -> None:
    """Per op and per component, of everything that the JSON object promises."""
    asked: dict[str, Any] = {"prompt": 40, "engine": engine}
    found = predict_generation("stories15m", "edge-npu", tokens=6, **asked).to_dict()
    steps = [predict("stories15m", "edge-npu", **asked).to_dict()]
    steps += [predict("stories15m", "edge-npu", phase="decode", context=40 + i, engine=engine).to_dict() for i in range(5)]
    assert [op["name"] for op in found["ops"]] == [op["name"] for op in steps[0]["ops"]]
    for i, op in enumerate(found["ops"]):
        assert set(op) == set(steps[0]["ops"][i])
        assert op["group"] == steps[0]["ops"][i]["group"]
        for name in ("flops", "useful_macs", "dram_bytes"):
            assert op[name] == sum(step["ops"][i][name] for step in steps), (op["name"], name)
        for name in ("issued_macs", "latency_s", "busy_s", "energy_j"):
            assert op[name] == pytest.approx(sum(step["ops"][i][name] for step in steps), rel=1e-12)
        for cause, seconds in op["lost_s"].items():
            assert seconds == pytest.approx(sum(step["ops"][i]["lost_s"][cause] for step in steps), rel=1e-9, abs=1e-18)
    for i, component in enumerate(found["components"]):
        for name in ("latency_s", "energy_j"):
            assert component[name] == pytest.approx(sum(step["components"][i][name] for step in steps), rel=1e-12)
    for name in ("latency_s", "floor_s", "energy_j"):
        assert found[name] == pytest.approx(sum(step[name] for step in steps), rel=1e-12)
    for name, joules in found["energy_by_j"].items():
        assert joules == pytest.approx(sum(step["energy_by_j"][name] for step in steps), rel=1e-12)
    assert found["j_per_token"] * 6 == pytest.approx(found["energy_j"])
    assert found["area_mm2"] == steps[0]["area_mm2"]
    assert sum(op["latency_s"] for op in found["ops"]) == pytest.approx(found["latency_s"], rel=1e-12)
    assert set(steps[0]) - {"mappings"} | {"generate"} == set(found)  # mappings are those of one step
    assert found["memory"]["kv_cache_bytes"] == steps[-1]["memory"]["kv_cache_bytes"]
    assert found["memory"]["activations_bytes"] == steps[0]["memory"]["activations_bytes"]


@pytest.mark.parametrize("engine", ENGINES)
def test_groups_that_do_not_grow_are_asked_once(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention of all layers counts as one; all else is timed with the first step."""
    seen: Counter[str] = Counter()
    time_classes = ENGINES[engine]

    def counting(plan: Any) -> Any:
        seen.update(op.kind for group_class in plan.classes for op in group_class.ops if op.name.startswith("layers."))
        return time_classes(plan)

    monkeypatch.setitem(ENGINES, engine, counting)  # type: ignore[call-overload]
    chip, formats = load_chip("edge-npu"), Formats.of("int8")
    stretch(load_model("llama-3.2-1b"), Scenario.decode(formats, 1, np.arange(60, 67)), chip, engine, True)
    if engine != "roofline":
        assert seen["MatMul"] == 2 * 7
        assert seen["Linear"] <= 14  # of two kinds of layers: the last one is alone


@pytest.mark.parametrize(("engine", "asked"), [
    ("roofline", {"speculation": Speculation("stories15m", 3)}),
    ("roofline", {"fused": False, "sampling": DRAWN}),
    ("tiled", {"chunk": 9, "split": 1, "sampling": DRAWN}),
    ("tiled", {"fused": False}),
    ("cycle", {"batch": 3}),
])  # fmt: skip
def test_layers_that_are_not_planned_are_as_if_they_were(engine: Any, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Six layers, of which three are planned: every figure is the same, op by op, to the last bit; sums of joules to rounding."""
    few = predict_generation("stories15m", "edge-npu", tokens=6, prompt=30, engine=engine, **asked).to_dict()
    monkeypatch.setattr("sim.explore.stretch.FEW", 6)
    whole = predict_generation("stories15m", "edge-npu", tokens=6, prompt=30, engine=engine, **asked).to_dict()
    assert len({op["component"] for op in few["ops"] if op["component"].startswith("layers.")}) == 6
    for name in ("energy_j", "j_per_token", "tokens_per_s_per_w", "power_w", "energy_by_j"):
        assert few.pop(name) == pytest.approx(whole.pop(name), rel=1e-14)
    assert few == whole


def test_progress_counts_contexts() -> None:
    told: list[tuple[int, int]] = []
    predict_generation("stories15m", "edge-npu", tokens=5, prompt=9, engine="tiled", progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("chip", chip_names())
def test_all_chips(chip: str) -> None:
    found = predict_generation("stories15m", chip, tokens=3, prompt=10)
    assert found.token_latency_s[2] == predict("stories15m", chip, phase="decode", context=11).total_s


@pytest.mark.parametrize("engine", ["tiled", "cycle"])
@pytest.mark.parametrize("chip", [*CHIPS, "cloud-npu"])
def test_what_lies_between_tilings(chip: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Close to the truth, and the truth where a pass of the array begins and ends; of a shorter curve everywhere."""
    built = load_chip(chip)
    config, scenario = load_model("llama-3.2-1b"), Scenario.decode(Formats.of(built.default_format), 1, np.arange(250, 291))
    exact = stretch(config, scenario, built, engine, True)
    monkeypatch.setattr("sim.explore.stretch.EXACT_CONTEXTS", 1)
    found = stretch(config, scenario, built, engine, True)
    np.testing.assert_allclose(found.latency_s, exact.latency_s, rtol=TOLERANCE)
    assert found.latency_s.sum() == pytest.approx(exact.latency_s.sum(), rel=1e-4)
    grain = max(built.matrix.rows, built.matrix.cols) if built.matrix.kind == "systolic" else max(built.matrix.tile)
    keys = np.arange(251, 292)
    edges = (keys % grain == 0) | (keys % grain == 1) | (keys == 251) | (keys == 291)
    assert (found.latency_s == exact.latency_s)[edges].all()
    weights = np.ones(41)
    for total, wanted in zip(found.totals(weights), exact.totals(weights), strict=True):
        assert total.name == wanted.name
        assert total.latency_s == pytest.approx(wanted.latency_s, rel=5e-3)
        assert total.useful_macs == wanted.useful_macs
        assert sum(total.bound_s.values()) == pytest.approx(total.latency_s, rel=1e-9)
    assert sum(total.latency_s for total in found.totals(weights)) == pytest.approx(found.latency_s.sum(), rel=1e-12)


@pytest.mark.parametrize("engine", ["tiled", "cycle"])
@pytest.mark.parametrize("chip", ["edge-npu", "gemmini-default"])
def test_contexts_that_are_found_in_line_are_so(chip: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step to rounding; op by op nearly, for they part a step's latency in proportions that grow in curves."""
    built, asked = load_chip(chip), Counter[str]()
    scenario = Scenario.decode(Formats.of(built.default_format), 1, np.arange(500, 1010))

    def timed() -> Stretch:
        return stretch(load_model("llama-3.2-1b"), scenario, built, engine, True, progress=lambda done, of: asked.update([name]))

    name = "few"
    found = timed()
    monkeypatch.setattr("sim.explore.stretch.FEWEST_IN_LINE", 1000)
    name = "all"
    exact = timed()
    assert asked["few"] < 0.8 * asked["all"]
    np.testing.assert_allclose(found.latency_s, exact.latency_s, rtol=1e-13)
    for total, wanted in zip(found.totals(np.ones(510)), exact.totals(np.ones(510)), strict=True):
        assert (total.latency_s, total.dram_bytes, total.issued_macs) == pytest.approx(
            (wanted.latency_s, wanted.dram_bytes, wanted.issued_macs), rel=5e-5
        )


NEVER = 10**9


@pytest.mark.parametrize(("teeth", "kink", "most"), [(1, NEVER, 12), (2, NEVER, 24), (8, NEVER, 45), (3, NEVER, 64), (1, 333, 64)])
def test_lines_are_followed_by_hand(teeth: int, kink: int, most: int) -> None:
    """Seconds that grow in a saw of some runs of 16 keys, faster from a context on: nothing that is not on a line is taken for it."""

    def seconds(place: int) -> float:
        return 100 + place / 7 + (place // 16 % teeth) ** 2 / 90 + max(place - kink, 0) / 5

    ask = _Asked(lambda place: [SimpleNamespace(latency_s=seconds(place))], [1], 0.0, lambda done: None)  # type: ignore[list-item]
    places = ask.all_that_matter([list(range(0, 1024, 16))])
    assert set(range(0, 1024, 16)) <= set(places)
    assert not set(ask.times) & set(ask.lines)
    for place in range(0, 1024, 16):
        assert ask.step_s(place) == pytest.approx(seconds(place), rel=1e-11)
    assert len([place for place in ask.times if place % 16 == 0]) <= most


def test_figures_along_lines_by_hand() -> None:
    """Two places between 0 and 6, and one that is not."""
    row = np.array([1.0, 3.0, 9.0])
    none = np.zeros((2, 3))
    known = ClassTimes(row, ["a", "b", "c"], np.array([row, 2 * row]), none, none, none, {"stall": row}, {}, none)
    found = known.along([0, 3, 6], {2: (0, 6), 5: (3, 6)})
    assert found.latency_s.tolist() == found.lost_s["stall"].tolist() == pytest.approx([1, 1 + 8 / 3, 3, 7, 9])
    assert found.bound_by == ["a", "a", "b", "b", "c"]
    assert known.along([0, 3, 6], {}) is known


def test_figures_between_two_places_by_hand() -> None:
    """Places 0, 2 and 5 of six: lines between them, bound by what binds the last of them before."""
    row = np.array([1.0, 3.0, 9.0])
    none = np.zeros((2, 3))
    known = ClassTimes(row, ["a", "b", "c"], np.array([row, 2 * row]), none, none, none, {"stall": row}, {}, none)
    found = known.spread([0, 2, 5], 6)
    assert found.latency_s.tolist() == found.lost_s["stall"].tolist() == [1, 2, 3, 5, 7, 9]
    assert found.shares.tolist() == [[1, 2, 3, 5, 7, 9], [2, 4, 6, 10, 14, 18]]
    assert found.bound_by == ["a", "a", "b", "b", "b", "c"]
    assert known.spread([0, 1, 2], 3) is known


# Chunks of the prompt --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chunk", [7, 20, 41, 42, 43, 500])
def test_a_chunked_prompt_is_the_sum_of_its_chunks(chunk: int, engine: str) -> None:
    found = predict_generation("stories15m", "edge-npu", tokens=1, prompt=42, chunk=chunk, engine=engine, sampling=DRAWN)
    starts = list(range(0, 42, chunk))
    assert [(each.q_len, each.kv_len) for each in found.passes] == [(min(chunk, 42 - at), min(42, at + chunk)) for at in starts]
    if chunk >= 42:
        assert found.ttft_s == predict("stories15m", "edge-npu", prompt=42, engine=engine, sampling=DRAWN).total_s
        return
    for each, at in zip(found.passes, starts, strict=True):
        last = each.kv_len == 42
        step = extended("stories15m", "edge-npu", engine, each.q_len, at, "last" if last else "none", DRAWN if last else None)
        assert each.latency_s == step.total_s
    assert found.ttft_s == pytest.approx(sum(each.latency_s for each in found.passes), rel=1e-12)


def test_only_the_last_token_of_the_prompt_goes_through_the_head() -> None:
    model = load_model("stories15m")
    found = {chunk: predict_generation(model, "edge-npu", tokens=1, prompt=64, chunk=chunk) for chunk in (None, 16)}
    macs = {chunk: {op.name: op.useful_macs for op in each.ops} for chunk, each in found.items()}
    assert macs[16] == macs[None]  # scores too: a chunk sees what is before it, and no more
    assert macs[16]["lm_head"] == model.hidden_size * model.vocab_size
    heads = 2 * model.num_attention_heads * model.head_dim
    assert macs[16]["layers.0.self_attn.scores"] * 2 == heads * 64 * 65 // 2


def test_smaller_chunks_read_the_weights_more_often() -> None:
    times = [predict_generation("llama-3.2-1b", "edge-npu", tokens=1, prompt=512, chunk=chunk).ttft_s for chunk in (512, 8, 2)]
    assert times[1] > 2 * times[0]
    assert times[2] > 3 * times[1]
    needs = [predict_generation("llama-3.2-1b", "edge-npu", tokens=1, prompt=512, chunk=chunk).memory for chunk in (512, 64)]
    assert needs[0].kv_cache_bytes == needs[1].kv_cache_bytes
    assert needs[0].activations_bytes > 4 * needs[1].activations_bytes


# Speculation -----------------------------------------------------------------------------------------------------------------------------


def test_tokens_per_round_by_hand_and_by_trial() -> None:
    """Leviathan et al., fig. 2: alpha 0.8 and gamma 4 give 3.36."""
    assert expected_tokens(0.8, 4) == pytest.approx((1 - 0.8**5) / (1 - 0.8)) == pytest.approx(3.3616)
    assert expected_tokens(0.0, 4) == 1
    assert expected_tokens(1.0, 4) == 5
    rng = np.random.default_rng(0)
    taken = np.cumprod(rng.random((200_000, 4)) < 0.7, axis=1).sum(1) + 1
    assert expected_tokens(0.7, 4) == pytest.approx(taken.mean(), rel=5e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_round_is_k_draft_steps_and_one_check(engine: str) -> None:
    speculation = Speculation("stories15m", 3, 0.6)
    found = predict_generation("stories15m", "edge-npu", tokens=5, prompt=30, engine=engine, speculation=speculation, sampling=DRAWN)

    def draft_s(context: int) -> float:
        return predict("stories15m", "edge-npu", phase="decode", context=context, engine=engine, sampling=DRAWN).total_s

    for i in range(1, 5):
        start = 30 + i - 1
        check_s = extended("stories15m", "edge-npu", engine, 4, start, "all", DRAWN).total_s
        round_s = check_s + sum(draft_s(start + j) for j in range(3))
        assert found.token_latency_s[i] == pytest.approx(round_s / expected_tokens(0.6, 3), rel=1e-12)
        assert found.plain_latency_s[i] == draft_s(start)
    assert found.ttft_s == pytest.approx(2 * predict("stories15m", "edge-npu", prompt=30, engine=engine, sampling=DRAWN).total_s)
    assert sum(op.latency_s for op in found.ops) == pytest.approx(found.total_s, rel=1e-12)


def test_a_free_draft_that_is_always_right_gives_k_plus_one_tokens_for_a_check() -> None:
    """And one that is always wrong costs its steps."""
    plain = predict_generation("llama-3.2-3b", "edge-npu", tokens=50)
    drafts = (Speculation("llama-3.2-1b", 4, acceptance) for acceptance in (1, 0))
    right, wrong = (predict_generation("llama-3.2-3b", "edge-npu", tokens=50, speculation=draft) for draft in drafts)
    assert right.plain_latency_s.tolist()[1:] == plain.token_latency_s.tolist()[1:]
    draft = predict_generation("llama-3.2-1b", "edge-npu", tokens=54)
    # Memory binds: a check of five tokens costs about a step, so five tokens cost a step and four of the draft.
    step, proposal = plain.token_latency_s[1:].mean(), draft.token_latency_s[1:].mean()
    assert right.token_latency_s[1:].mean() == pytest.approx((step + 4 * proposal) / 5, rel=0.02)
    assert wrong.speedup < 1 < right.speedup
    assert wrong.speedup == pytest.approx(step / (step + 4 * proposal), rel=0.02)


def test_memory_is_that_of_both_models() -> None:
    found = predict_generation("llama-3.2-3b", "edge-npu", tokens=10, speculation=Speculation("llama-3.2-1b", 4, 0.8)).memory
    alone = [predict(model, "edge-npu").memory for model in ("llama-3.2-3b", "llama-3.2-1b")]
    assert found.weights_bytes == sum(each.weights_bytes for each in alone)
    per_token = sum(each.kv_cache_bytes for each in alone) // 512
    # 512 + 10 tokens, of which the last is never in a cache; the check of the last round sees four more.
    assert found.kv_cache_bytes == 512 * per_token + (9 + 4) * alone[0].kv_cache_bytes // 512 + (9 + 3) * alone[1].kv_cache_bytes // 512


def test_a_draft_has_weights_of_its_own() -> None:
    """Its bytes are those of its format, the model's stay, and the cache of both is the model's."""
    asked: dict[str, Any] = {"tokens": 10, "prompt": 20, "weights": "bf16", "activations": "bf16"}
    like, own = (
        predict_generation("stories15m", "edge-npu", speculation=Speculation("stories15m", 2, 0.5, weights), **asked)
        for weights in (None, "int4:g32")
    )
    alone = predict("stories15m", "edge-npu", phase="decode", context=20, weights="int4:g32", activations="bf16").memory.weights_bytes
    assert like.memory.weights_bytes - own.memory.weights_bytes == like.memory.weights_bytes // 2 - alone
    assert own.memory.kv_cache_bytes == like.memory.kv_cache_bytes
    assert own.plain_latency_s.tolist() == like.plain_latency_s.tolist()
    with pytest.raises(BadInput, match="--draft-weights: unknown number format 'int5'"):
        predict_generation("stories15m", "edge-npu", speculation=Speculation("stories15m", weights="int5"), **asked)


@pytest.mark.parametrize("engine", ["roofline", "tiled"])
def test_a_split_generation_is_its_split_steps(engine: str) -> None:
    asked: dict[str, Any] = {"engine": engine, "split": 2}
    chip = replace(load_chip("edge-npu"), cores=2)
    found = predict_generation("stories15m", chip, tokens=3, prompt=9, **asked).token_latency_s
    steps = [predict("stories15m", chip, prompt=9, **asked)]
    steps += [predict("stories15m", chip, phase="decode", context=context, **asked) for context in (9, 10)]
    assert found.tolist() == [step.total_s for step in steps]
    whole = predict_generation("stories15m", chip, tokens=3, prompt=9, engine=engine)
    assert len(predict_generation("stories15m", chip, tokens=3, prompt=9, **asked).ops) > len(whole.ops)


def test_components_of_the_draft_are_named() -> None:
    found = predict_generation("stories15m", "edge-npu", tokens=3, prompt=9, speculation=Speculation("stories15m", 2, 0.5))
    names = [component.name for component in found.components]
    own = [name for name in names if not name.startswith(DRAFT)]
    assert [name.removeprefix(DRAFT) for name in names] == own * 2
    assert len({op.name for op in found.ops}) == len(found.ops)
    assert [op.group for op in found.ops] == sorted(op.group for op in found.ops)


# Bad input -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"tokens": 0}, "--generate: must be at least 1, found 0"),
        ({"chunk": 0}, "--chunk: must be at least 1, found 0"),
        ({"tokens": 256}, "--generate: stories15m cannot hold 257 positions; at most 255 after this prompt"),
        ({"prompt": 300}, "--generate: stories15m cannot hold 309 positions; shorten the prompt"),
        ({"prompt": 0}, "--prompt: must be at least 1"),
        ({"batch": 0}, "--batch: must be at least 1"),
        ({"engine": "tile"}, "unknown engine 'tile'"),
        ({"speculation": Speculation("llama-3.2-1b")}, "--draft: llama-3.2-1b has a vocabulary of 128256, stories15m one of 32000"),
        ({"speculation": Speculation("stories15m", 250)}, "cannot hold 261 positions"),
    ],
)
def test_what_cannot_be(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as raised:
        predict_generation("stories15m", "edge-npu", **{"tokens": 10, "prompt": 2, **asked})
    assert message in str(raised.value)


def test_the_whole_context_may_be_used() -> None:
    """The last token is never fed: a prompt of 2 and 255 tokens are 256 positions."""
    assert len(predict_generation("stories15m", "edge-npu", tokens=255, prompt=2).token_latency_s) == 255
    assert predict_generation("stories15m", "edge-npu", tokens=1, prompt=256).tokens == 1


@pytest.mark.parametrize(("tokens", "acceptance", "paths"), [(0, 0.5, ["--draft-tokens"]), (0, 1.5, ["--draft-tokens", "--acceptance"])])
def test_speculation_that_cannot_be(tokens: int, acceptance: float, paths: list[str]) -> None:
    with pytest.raises(BadInput) as raised:
        Speculation("stories15m", tokens, acceptance)
    assert [problem.path for problem in raised.value.problems] == paths


# The command -----------------------------------------------------------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rooftile(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    from sim.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["rooftile", "predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


GENERATE = ("stories15m", "--chip", "edge-npu", "--prompt", 16, "--generate", 20)


def test_json_and_csv_say_the_same(rooftile: Run) -> None:
    code, out, _ = rooftile(*GENERATE, "--chunk", 5, "--draft", "stories15m", "--format", "json")
    assert code == 0
    (found,) = json.loads(out)
    assert found["phase"] == "generate"
    generated = found["generate"]
    assert generated["tokens"] == len(generated["token_latency_s"]) == found["q_len"] == 20
    assert found["tokens_per_s"] == generated["tokens_per_s"] == pytest.approx(20 / generated["total_s"])
    assert sum(generated["token_latency_s"]) == pytest.approx(generated["total_s"]) == pytest.approx(found["latency_s"])
    assert [each["kv_len"] for each in generated["chunks"]] == [5, 10, 15, 16]
    assert generated["speculation"]["draft"] == "stories15m"
    assert generated["speculation"]["tokens_per_round"] == pytest.approx(3.3616)
    _, out, _ = rooftile(*GENERATE, "--chunk", 5, "--draft", "stories15m", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [float(row["latency_s"]) for row in rows] == generated["token_latency_s"]
    assert [int(row["context"]) for row in rows] == [0, *range(16, 35)]
    assert float(rows[-1]["end_s"]) == pytest.approx(generated["total_s"])


def test_the_table_gives_the_curve(rooftile: Run) -> None:
    code, out, err = rooftile(*GENERATE, "--temperature", 1, "--top-p", 0.9)
    assert (code, err) == (0, "")
    assert out.startswith("stories15m on edge-npu: 20 tokens after a prompt of 16, batch 1, int8, tiled engine\nTTFT ")
    assert "TPOT first " in out
    assert "\n sampling " in out
    assert re.search(r"^ 20 +34 ", out, re.MULTILINE)
    one = rooftile("stories15m", "--chip", "edge-npu", "--prompt", 16, "--chunk", 10)[1]
    assert "1 token after a prompt of 16" in one
    assert "TPOT" not in one


@pytest.mark.parametrize(
    ("flags", "warning"),
    [
        (("--chunk", 16), "--chunk 16 changes nothing: it takes the prompt of 16 tokens at once"),
        (("--engine", "cycle"), "the steps of a generation are timed without prefetch, as with --no-prefetch"),
        (("--engine", "cycle", "--no-prefetch"), ""),
    ],
)
def test_what_changes_nothing_is_told(rooftile: Run, flags: tuple[object, ...], warning: str) -> None:
    code, _, err = rooftile("stories15m", "--chip", "edge-npu", "--prompt", 16, "--generate", 2, *flags)
    assert (code, err) == (0, f"rooftile: warning: {warning}\n" if warning else "")


def test_what_does_not_fit_is_warned_about(rooftile: Run) -> None:
    code, out, err = rooftile("llama-3.1-70b", "--chip", "edge-npu", "--generate", 3, "--format", "json")
    assert code == 0
    assert err.startswith("rooftile: warning: llama-3.1-70b with 514 tokens of context does not fit edge-npu: ")
    assert json.loads(out)[0]["memory"]["fits"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*GENERATE, "--phase", "decode"), "--phase: has no part in this: a generation is the prompt and all that follows"),
        ((*GENERATE, "--context", 5, "--sensitivity"), "--sensitivity: has no part in this"),
        ((*GENERATE, "--logits", "all"), "--logits: has no part in this"),
        ((*GENERATE, "--draft-tokens", 3), "--draft-tokens: has no part in this: no draft model is given"),
        ((*GENERATE[:3], "--draft", "stories15m"), "--draft: a draft model proposes tokens after the first; give --generate N"),
        ((*GENERATE, "--draft", "stories15m", "--acceptance", 2), "--acceptance: 2.0 is no probability; give 0 to 1"),
        (
            (*GENERATE, "--draft", "stories15m", "--draft-tokens", 10**6),
            "--draft-tokens: stories15m cannot hold 1000035 positions; at most 221 with this prompt and generation",
        ),
        ((*GENERATE, "--top-p", 0.9), "--temperature: --top-k and --top-p choose what is drawn from; give --temperature above 0"),
        ((*GENERATE, "--temperature", 0, "--top-k", 3), "--temperature: --top-k and --top-p choose what is drawn from"),
        ((*GENERATE, "--draft-weights", "int4"), "--draft-weights: has no part in this: no draft model is given"),
        ((*GENERATE, "--no-prefetch"), "--no-prefetch: engine tiled never prefetches"),
        ((*GENERATE, "--temperature", 1, "--top-k", 32001), "--top-k: the vocabulary has only 32000 tokens to draw from, not 32001"),
        ((*GENERATE[:3], "--phase", "decode", "--logits", "all"), "--logits: has no part in this: a decode step has one token, the last"),
        ((*GENERATE, "--temperature", -1), "--temperature: -1.0 is no temperature"),
    ],
)
def test_flags_are_never_ignored(rooftile: Run, arguments: tuple[object, ...], message: str) -> None:
    code, out, err = rooftile(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_what_the_draft_takes_of_the_first_token_is_told() -> None:
    """It reads the same prompt, here in chunks as the model does."""
    asked: dict[str, Any] = {"prompt": 40, "tokens": 3, "chunk": 16, "engine": "tiled"}
    found = predict_generation("llama-3.2-3b", "edge-npu", speculation=Speculation("llama-3.2-1b", 2, 0.5), **asked)
    alone = [predict_generation(model, "edge-npu", **asked).ttft_s for model in ("llama-3.2-1b", "llama-3.2-3b")]
    assert found.draft_ttft_s == pytest.approx(alone[0])
    assert found.ttft_s == pytest.approx(sum(alone))
    assert f"TTFT with {1e3 * found.draft_ttft_s:.4g} ms in which the draft reads the prompt" in str(generation_tables(found)[0])
