"""Truth defended: the profile is of the text that computes: every part is counted as often as it runs, and the parts make up the whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from functional.errors import BadInput
from functional.generate import generate
from functional.weights import random_weights
from sim import Sampling, load_model, predict
from sim.profiling import PARTS, Profile, Profiled, Row, profile
from tests.small_checkpoints import SMALL, write_checkpoint

SMALL_MODEL = replace(SMALL, vocab_size=120)
LAYERS = SMALL.num_hidden_layers


def ticking() -> Callable[[], float]:
    """A clock that goes on by one whenever it is read."""
    ticks = count()
    return lambda: float(next(ticks))


def rows_of(found: Profiled) -> dict[str, Row]:
    return {row.name: row for row in found.rows}


@pytest.fixture(scope="module")
def ticked() -> dict[str, Row]:
    return rows_of(profile(SMALL_MODEL, batch=3, prompt=4, tokens=5, clock=ticking()))


def test_calls_are_steps_times_layers(ticked: dict[str, Row]) -> None:
    once = ("iteration", "model", "embedding", "rope frequencies", "norm", "head", "sampling", "top-p", "elsewhere")
    each_layer = ("layers", "attention", "mask", "feed-forward", "norms, residuals")
    assert {name: row.calls for name, row in ticked.items()} == dict.fromkeys(once, 5) | dict.fromkeys(each_layer, 5 * LAYERS)


def test_the_parts_make_up_the_whole(ticked: dict[str, Row]) -> None:
    """Children of a line that has a remainder sum to it exactly; of the others, to less."""
    for name in ("iteration", "model", "layers"):
        children = [part.name for part in PARTS if part.under == name]
        assert sum(ticked[child].total_s for child in children) == ticked[name].total_s, name
    assert 0 < ticked["mask"].total_s < ticked["attention"].total_s
    assert 0 < ticked["top-p"].total_s < ticked["sampling"].total_s
    assert all(row.share == row.total_s / ticked["iteration"].total_s for row in ticked.values())


def test_a_clock_that_ticks_when_read_counts_the_ops(ticked: dict[str, Row]) -> None:
    """An op takes one tick; a scope those of its ops, two each, and one. Attention has 13 ops; the scores read the clock twice more."""
    assert ticked["embedding"].total_s == ticked["norm"].total_s == ticked["head"].total_s == 5
    assert ticked["mask"].total_s == 5 * LAYERS
    assert ticked["feed-forward"].total_s == 5 * LAYERS * (5 * 2 + 1)
    assert ticked["attention"].total_s == 5 * LAYERS * (13 * 2 + 2 + 1)
    assert ticked["top-p"].total_s == 5 * (6 * 2 + 1)
    assert ticked["sampling"].total_s == 5 * (3 * 2 + 6 * 2 + 2 + 1)


def test_prefill_is_apart() -> None:
    """Of a longer prompt the steps do not change."""
    short, long = (profile(SMALL_MODEL, batch=1, prompt=prompt, tokens=2, clock=ticking()) for prompt in (1, 30))
    assert [row.total_s for row in short.rows] == [row.total_s for row in long.rows]
    assert short.prefill_s == long.prefill_s > 0


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, top_k=5), Sampling(0.8, top_p=0.7)])
def test_what_is_watched_computes_the_same(sampling: Sampling) -> None:
    weights, ids = random_weights(SMALL_MODEL), [[5, 7, 9, 11]] * 2
    plain = list(generate(SMALL_MODEL, weights, ids, 8, sampling))
    assert list(generate(SMALL_MODEL, weights, ids, 8, sampling, interpreter=Profile())) == plain
    assert list(generate(SMALL_MODEL, weights, ids, 8, sampling, chunk=3, interpreter=Profile())) == plain


def test_a_window_and_a_greedy_choice() -> None:
    """No sort, so no line for it."""
    found = rows_of(profile(replace(SMALL_MODEL, sliding_window=3), batch=2, prompt=6, tokens=3, sampling=Sampling()))
    assert "top-p" not in found
    assert found["sampling"].calls == 3
    assert sum(found[name].total_s for name in ("model", "sampling", "elsewhere")) == pytest.approx(found["iteration"].total_s)


def test_predicted_beside_measured() -> None:
    """The sums of single predictions, line by line."""
    chosen = Sampling(1.0, top_p=0.9)
    found = profile("stories15m", batch=2, prompt=3, tokens=2, chip="edge-npu", weights="bf16", sampling=chosen, clock=ticking())
    rows = rows_of(found)
    formats: dict[str, Any] = {"weights": "bf16", "activations": "bf16", "kv": "bf16"}
    steps = [predict("stories15m", "edge-npu", phase="decode", batch=2, context=at, sampling=chosen, **formats) for at in (3, 4)]

    def seconds(*starts: str) -> float:
        ops = [op for step in steps for op, _ in step.rows()]
        latencies = [latency for step in steps for latency in step.latency_s.tolist()]
        return sum(latency for op, latency in zip(ops, latencies, strict=True) if any(start in f".{op.name}." for start in starts))

    assert rows["iteration"].predicted_s == pytest.approx(sum(step.total_s for step in steps), rel=1e-12)
    for name, parts in {
        "embedding": (".embed_tokens.",),
        "rope frequencies": (".rotary_emb.",),
        "layers": (".layers.",),
        "attention": (".self_attn.",),
        "feed-forward": (".mlp.",),
        "norms, residuals": (".input_layernorm.", ".post_attention_layernorm.", "_residual."),
        "norm": (".norm.",),
        "head": (".lm_head.",),
        "sampling": (".sampling.",),
        "top-p": (".top_p.",),
    }.items():
        assert rows[name].predicted_s == pytest.approx(seconds(*parts), rel=1e-9), name
    assert rows["mask"].predicted_s is rows["elsewhere"].predicted_s is None
    assert found.number_format == "bf16"


def test_the_published_shape() -> None:
    """stories15m, a batch of 32: 6 layers; every line that the published table has."""
    found = profile("stories15m", batch=32, tokens=2)
    rows = rows_of(found)
    assert rows["layers"].calls == 2 * load_model("stories15m").num_hidden_layers == 12
    assert {"iteration", "model", "embedding", "rope frequencies", "mask", "layers", "attention", "feed-forward"} < set(rows)
    assert {"norm", "head", "sampling", "top-p"} < set(rows)
    assert rows["head"].total_s > rows["norm"].total_s
    assert 0 <= rows["elsewhere"].total_s < 0.5 * rows["iteration"].total_s


# The command -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def rooftile(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    from sim.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["rooftile", "profile", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_a_checkpoint_in_its_own_format_and_in_another(tmp_path: Path, rooftile: Any) -> None:
    write_checkpoint(tmp_path, "hugging face")
    code, out, err = rooftile(tmp_path, "--batch", 2, "--tokens", 3, "--chip", "edge-npu", "--weights", "bf16", "--format", "json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["format"], found["batch"], found["steps"], found["chip"]) == ("bf16", 2, 3, "edge-npu")
    assert found["threads"] == torch.get_num_threads()
    assert all(row["average_s"] * row["calls"] == pytest.approx(row["total_s"]) for row in found["rows"])
    code, out, _ = rooftile(tmp_path, "--batch", 2, "--tokens", 3)
    assert code == 0
    assert "3 decode steps after a prompt of 1, batch 2, fp32" in out
    assert "edge-npu" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stories15m", "--tokens", 255), "--tokens: a prompt of 1 tokens and 255 decode steps are more than stories15m's context holds; "),
        (("stories15m", "--tokens", 255), "ask for at most 254 steps"),
        (("stories15m", "--prompt", 255, "--tokens", 1), "shorten --prompt to at most 254 tokens"),
        (("stories15m", "--tokens", 0), "--tokens: must be at least 1, found 0"),
        (("stories15m", "--prompt", 0), "--prompt: must be at least 1, found 0"),
        (("stories15m", "--batch", 0), "--batch: must be at least 1, found 0"),
        (("stories15m", "--weights", "int4"), "--weights: nothing is measured in 'int4'; "),
        (("stories15m", "--chip", "edge"), "edge"),
        (("stories15m", "--engine", "tile", "--chip", "edge-npu"), "unknown engine 'tile'"),
        (("stories15m", "--engine", "tiled"), "--engine: "),
        (("stories15", "--tokens", 2), "stories15"),
        (("llama-3.1-70b",), "out of memory foreseen: "),
        (("stories15m", "--temperature", 0, "--top-p", 0.9), "--temperature: --top-k and --top-p choose what is drawn from"),
        (("stories15m", "--engine", ""), "--engine: is empty; give a value, or leave it out"),
        (("",), "MODEL_OR_DIR: is empty"),
        (("stories15m", "--top-p", 2), "--top-p: 2.0 is no probability above 0"),
    ],
)
def test_what_cannot_be_measured(rooftile: Any, arguments: tuple[object, ...], message: str) -> None:
    code, out, err = rooftile(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_bad_input_is_told_before_weights_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.profiling.random_weights", lambda *given, **named: pytest.fail("weights were made"))
    for wrong in ({"tokens": 0}, {"batch": 0}, {"chip": "no-chip"}, {"chip": "edge-npu", "engine": "tile"}, {"weights": "int3"}):
        with pytest.raises(BadInput):
            profile("stories15m", **wrong)  # type: ignore[arg-type]
