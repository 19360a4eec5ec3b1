"""Truth defended: the page shows what was predicted, computes what Python computes, links its views and needs no network."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functional.errors import BadInput
from hwmodels import load_chip, with_values
from sim import dashboard, load_model, predict, sweep
from sim.explore.sweep_show import pareto_front
from sim.intervals import Intervals, Schedule
from sim.present.dashboard import plotly as plotly_module
from sim.present.dashboard.intervals import timeline_data
from sim.present.dashboard.layout import layer_drawing
from sim.present.dashboard.recipe import _polynomial, positions, recipe
from sim.present.folded import op_rows
from tests.browser import WHY_NOT, browser_path, complaints, misplaced, opened, requests
from tests.chips import round_model
from tests.test_cli import Run, rooftile  # noqa: F401
from workloads.demand import Load, demand
from workloads.scenario import Formats, Scenario
from workloads.split import split
from workloads.trace import trace

MODEL, CHIPS = "stories15m", ("edge-npu", "cloud-npu")
VIEWS = ("roofline", "breakdown", "timeline", "curves", "sensitivity", "memory", "front")

needs_browser = pytest.mark.skipif(browser_path() is None, reason=WHY_NOT)


def data_of(page: str) -> dict[str, Any]:
    """What is embedded in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert isinstance(data, dict)
    return data


# What needs no browser


def test_positions_hold_what_was_asked_and_end_at_the_last() -> None:
    assert positions(8, 2, 5) == [1, 2, 3, 4, 5, 6, 8]
    assert positions(9, 4, 9) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(("window", "parts"), [(None, 1), (7, 1), (None, 2)])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_recipe_is_exact_wherever_the_sliders_stand(phase: str, window: int | None, parts: int) -> None:
    """Polynomials where they hold, tables elsewhere (a sliding window): every number of the loads, at every position."""
    config, formats = round_model(layers=6, window=window), Formats.of("int8", kv="int4")
    batches, lengths = np.array([1, 2, 3, 8]), np.array([1, 2, 5, 6, 7, 8, 9, 40, 400])
    make = Scenario.prefill if phase == "prefill" else Scenario.decode
    found = recipe(config, make(formats, batches[:, None], lengths[None, :]), True, parts)
    for b, batch in enumerate(batches.tolist()):
        for n, length in enumerate(lengths.tolist()):
            values = [evaluated(q, batch, length, b, n) for q in found.data["quantities"]]
            graph = split(trace(config, make(formats, batch, length)), parts)
            seen = set()
            asked = demand(graph)
            for group, index in zip(asked.groups, asked.class_of, strict=True):
                for op, load in zip(group.ops, asked.classes[index].op_loads, strict=True):
                    name = graph.ops[op].name
                    seen.add(name)
                    class_index, place = found.places[name]
                    assert as_numbers(found.data["loads"][found.data["classes"][class_index][place]], values) == plain(load), name
            assert seen == set(found.places)


def test_what_is_a_polynomial_in_the_length_is_written_as_one() -> None:
    lengths = np.array([1, 2, 5, 8, 40, 131_071])
    for values, expected in (
        (np.full(6, 7), (7.0, 0.0, 0.0)),
        (3 * lengths + 2, (2.0, 3.0, 0.0)),
        (lengths * (lengths + 1) // 2, (0.0, 0.5, 0.5)),
        (8192 * lengths**2, (0.0, 0.0, 8192.0)),
        (lengths // 2, None),
        (lengths**2 // 3, None),
    ):
        assert _polynomial(values, lengths) == expected


def as_numbers(load: dict[str, Any], values: list[float]) -> list[Any]:
    """A load of a recipe as numbers."""
    by_name = [{name: values[q] for name, q in load[kind]} for kind in ("macs", "sums", "counts")]
    moved = {(kind, bool(write)): values[q] for kind, write, q in load["moved"]}
    always = {bool(write): values[q] for write, q in load["always"]}
    return [*by_name, moved, always, [(values[size], bool(write), values[q]) for size, write, q in load["crossings"]]]


def plain(load: Load) -> list[Any]:
    """The same of a traced load."""
    return [load.macs, load.sums, load.counts, load.moved, load.always_dram, [tuple(each) for each in load.crossings]]


def evaluated(q: list[Any], batch: int, length: int, b: int, n: int) -> float:
    """A quantity of a recipe, as the page works it out."""
    if q[0] == "table":
        return float(q[1 + b][n])
    if q[0] == "linear":
        return float(q[1][n] + batch * q[2][n])
    zero, one, two, slope_zero, slope_one, slope_two = q
    return float((two * length + one) * length + zero + batch * ((slope_two * length + slope_one) * length + slope_zero))


def test_every_op_is_a_member_of_one_row() -> None:
    timeline = predict(MODEL, "edge-npu", prompt=16)
    rows = op_rows(timeline)
    assert sorted(i for row in rows for i in row.ops) == list(range(len(timeline.graph.ops)))
    assert sum(row.latency_s for row in rows) == pytest.approx(timeline.total_s, rel=1e-12)


def test_no_boxes_of_a_layer_overlap_and_every_edge_leads_down() -> None:
    drawing = layer_drawing(trace(load_model(MODEL), Scenario.prefill(Formats.of("bf16"), 1, 16)), "layers.1")
    boxes = sorted((node["at"][1], node["at"][0]) for node in drawing["nodes"])
    for (y, x), (next_y, next_x) in itertools.pairwise(boxes):
        assert next_y > y or next_x - x >= drawing["box"]
    assert len(drawing["edges"]) > len(drawing["nodes"])
    for edge in drawing["edges"]:
        assert edge["shape"].startswith("[")
        heights = [y for _, y in edge["path"]]
        assert heights == sorted(set(heights))


def test_names_of_users_stay_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    chip = tmp_path / "chip.yaml"
    chip.write_text(f'base: edge-npu\nname: "{evil} {{{{plotly}}}}"\n')
    config = json.loads((Path(__file__).parent.parent / "workloads/library/models/stories15m.json").read_text())
    folder = tmp_path / "<script>alert(2)<"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    page = dashboard(str(folder / "config.json"), chip, prompt=8)
    assert evil not in page
    assert "<script>alert" not in page
    embedded = page.partition('id="data">')[2].partition("</script>")[0]
    assert not set("<>&") & set(embedded)
    assert "<script>alert(" in json.dumps(data_of(page))
    assert page.count("plotly.js v") == 1


def test_the_page_is_small_and_repeats(tmp_path: Path) -> None:
    page = dashboard("llama-3.2-1b", "edge-npu")
    assert len(page.encode()) < 6e6
    assert dashboard("llama-3.2-1b", "edge-npu") == page


def test_bad_input_is_told(tmp_path: Path) -> None:
    table = tmp_path / "other.parquet"
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), table)
    with pytest.raises(BadInput, match="is no result of a sweep"):
        dashboard(MODEL, "edge-npu", prompt=8, sweep=table)
    with pytest.raises(BadInput, match="no such file"):
        dashboard(MODEL, "edge-npu", prompt=8, sweep=tmp_path / "none.parquet")
    with pytest.raises(BadInput, match="did you mean 'edge-npu'"):
        dashboard(MODEL, "edge-npo")
    with pytest.raises(BadInput, match="unknown model"):
        dashboard("lama", "edge-npu")


@pytest.mark.parametrize("command", ["dashboard", "trace"])
def test_the_command_writes_a_whole_file_or_none(rooftile: Run, command: str, tmp_path: Path) -> None:  # noqa: F811
    asked = [command, MODEL, "--chip", "edge-npu", "--prompt", "16", "--engine", "roofline", "--out"]
    said = rooftile(*asked, tmp_path / "made")
    assert (said.code, said.err) == (0, "")
    assert "made" in said.out
    assert (tmp_path / "made").stat().st_size > 10_000
    said = rooftile(*asked, tmp_path / "missing" / "made")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "cannot write" in said.err
    said = rooftile(command, "lama", *asked[2:], tmp_path / "none")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_chip_or_a_model_given_twice_is_told(rooftile: Run, tmp_path: Path) -> None:  # noqa: F811
    said = rooftile("dashboard", MODEL, "--chip", "edge-npu", "--chip", "edge-npu", "--out", tmp_path / "page.html")
    assert said.code == 2
    assert "--chip: 'edge-npu' is given twice" in said.err
    with pytest.raises(BadInput, match="MODEL: 'stories15m' is given twice"):
        dashboard([MODEL, MODEL], "edge-npu", prompt=8)
    same = tmp_path / "same.yaml"
    same.write_text("base: edge-npu\nname: edge-npu\nclock: 2 GHz\n")
    with pytest.raises(BadInput, match="chips that differ different names"):
        dashboard(MODEL, ["edge-npu", same], prompt=8)
    said = rooftile("dashboard", MODEL, "--chip", "edge-npu", "--phase", "prefill", "--context", "9", "--out", tmp_path / "page.html")
    assert said.code == 2
    assert "--context" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["same.yaml"]


@pytest.mark.parametrize(("chip", "engine"), [("a100-sxm4-80gb", "cycle"), ("edge-npu", "cycle"), ("edge-npu", "tiled")])
def test_tiles_are_shown_where_the_engine_plays_some(chip: str, engine: str) -> None:
    data = data_of(dashboard(MODEL, chip, prompt=8, engine=engine))
    for phase in data["cases"][0]["phases"]:
        assert bool(phase["timeline"]["tiles"]) == (engine == "cycle")
        assert phase["timeline"]["groups"]["start_s"]["deflate"]


def test_an_engine_without_intervals_has_no_page() -> None:
    timeline = predict(MODEL, "edge-npu", prompt=8)
    silent = replace(timeline, schedules=[Schedule(lambda whole=each.whole: some(whole(), 0)) for each in timeline.schedules])
    with pytest.raises(BadInput, match="leaves no timeline"):
        timeline_data(silent, "layers.1")


def some(found: Intervals, most: int) -> Intervals:
    """The first intervals only."""
    columns = {name: getattr(found, name)[:most] for name in (each.name for each in fields(found)) if name != "resources"}
    return Intervals(resources=found.resources, **columns)


def test_energy_and_one_phase_are_those_of_the_prediction() -> None:
    data = data_of(dashboard(MODEL, "edge-npu", phase="decode", context=40, engine="tiled"))
    (phase,) = data["cases"][0]["phases"]
    expected = predict(MODEL, "edge-npu", phase="decode", context=40, engine="tiled")
    assert (phase["phase"], phase["total_s"], phase["energy_j"]) == ("decode", expected.total_s, expected.energy_j)
    assert sum(phase["rows"]["energy_j"]) == pytest.approx(expected.energy_j, rel=1e-9)
    assert sum(run["energy_j"] for run in phase["runs"]) == pytest.approx(expected.energy_j, rel=1e-9)
    assert sum(phase["energy_by_j"].values()) == pytest.approx(expected.energy_j, rel=1e-9)


def test_without_plotly_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plotly_module, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"rooftile\[plots\]"):
        dashboard(MODEL, "edge-npu", prompt=8)


def test_of_plotly_only_the_kinds_of_trace_are_started_that_the_page_draws() -> None:
    """The installed file has the shape that is looked for; a file of another shape stays as it is."""
    script = plotly_module.plotly_js(("bar", "icicle"))
    library = script[script.index("var Plotly=") :]
    (started,) = re.findall(r"\.register\(\[([^\]]*)\]\);[\w$]+\.exports=", library)
    bar, icicle = (call.removesuffix("()") for call in started.split(","))
    for accessor, kind in ((bar, "bar"), (icicle, "icicle")):
        inner = re.search(rf"var {re.escape(accessor)}=[\w$]+\(\([\w$,]*\)=>{{\"use strict\";[\w$]+\.exports=([\w$]+)\(\)}}\)", library)
        assert inner is not None
        assert f'moduleType:"trace",name:"{kind}"' in library[library.index(f"var {inner[1]}=") :][:2000]
    assert script.isascii()
    assert "factory" not in script[:1000]
    assert "MIT license" in script[:200]
    other = "/* licence */ window.Plotly = (function () { register([bar(), pie()]); })();"
    assert plotly_module.unwrapped(other) == plotly_module.with_kinds(other, ("bar",)) == other
    assert plotly_module.with_kinds(script, ("bar", "unheard of")) == script


def test_characters_in_a_script_stay_what_they_are() -> None:
    assert plotly_module.in_page("/\u5341/ '\xb5' </script>") == "/\\u5341/ '\\xb5' <\\/script>"
    assert plotly_module.in_page("'\U0001f600'") == "'\U0001f600'"


# In a browser


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two chips with a sweep."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "sweep.yaml").write_text(
        "base: edge-npu\n"
        "axes:\n"
        "  memory.dram.bandwidth: {from: 25 GB/s, to: 400 GB/s, steps: 40, scale: log}\n"
        "  clock: {from: 0.5 GHz, to: 2 GHz, steps: 50, scale: linear}\n"
        "  matrix.rows: [16, 32, 48]\n"
        "workloads: [{model: stories15m, phase: prefill, prompt: 64}]\n"
        "engine: roofline\n"
        "objectives: [latency_s, memory.dram.bandwidth]\n"
    )
    sweep(folder / "sweep.yaml", folder / "sweep.parquet")
    page = folder / "page.html"
    page.write_text(dashboard(MODEL, CHIPS, prompt=64, context=100, batch=2, engine="tiled", sweep=folder / "sweep.parquet"))
    return page


@pytest.fixture(scope="module")
def browser(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if browser_path() is None:
        pytest.skip(WHY_NOT)
    with opened(written, tmp_path_factory.mktemp("browser")) as driver:
        yield driver


def traces(driver: Any, view: str) -> list[dict[str, Any]]:
    """What a figure shows."""
    script = "return document.getElementById(arguments[0]).data.map((t) => ({...t, x: t.x && [...t.x], y: t.y && [...t.y]}))"
    found = driver.execute_script(script, view)
    assert isinstance(found, list)
    return found


def move(driver: Any, **sliders: int) -> dict[str, float]:
    """Move sliders to positions, and read the totals by phase."""
    script = """
      for (const [name, position] of Object.entries(arguments[0])) {
        const slider = document.getElementById(`slider-${name}`);
        slider.value = position;
        slider.dispatchEvent(new Event("input"));
      }
      return [...document.querySelectorAll('#totals tr[data-phase]')].map((r) => [r.dataset.phase, Number(r.dataset.seconds)]);
    """
    return dict(driver.execute_script(script, sliders))


@needs_browser
def test_no_errors_and_no_request_leaves_the_page(browser: Any, written: Path) -> None:
    assert complaints(browser) == []
    asked = [address for address in requests(browser) if not address.startswith(("data:", "blob:"))]
    assert asked == [written.as_uri()]


@needs_browser
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_has_its_marks(browser: Any, view: str) -> None:
    found = browser.execute_script("return document.getElementById(arguments[0]).querySelectorAll('path, rect').length", view)
    assert found > 10
    assert len(traces(browser, view)) >= 2


@needs_browser
def test_every_op_is_a_point_a_sector_a_box_and_a_row(browser: Any) -> None:
    names = {row.name for phase in ("prefill", "decode") for row in op_rows(predict(MODEL, "edge-npu", phase=phase, prompt=64))}
    points = [name for trace in traces(browser, "roofline") for name in trace.get("customdata") or []]
    assert set(points) == names
    assert len(points) == 2 * 2 * len(names)  # two phases, two chips
    sectors = {name for trace in traces(browser, "breakdown") for name in trace.get("customdata") or []}
    assert names <= sectors
    table = browser.execute_script("return [...document.querySelectorAll('#ops tbody tr')].map((row) => row.dataset.op)")
    assert set(table) == names
    boxes = browser.execute_script("return [...document.querySelectorAll('#graph [data-op]')].map((box) => box.dataset.op)")
    assert sorted(boxes) == sorted(name for name in names if name.startswith("layers."))
    shapes = browser.execute_script("return [...document.querySelectorAll('#graph .shape')].map((text) => text.textContent)")
    assert "[2, 64, 288]" in shapes


@needs_browser
def test_no_point_lies_above_its_roof(browser: Any) -> None:
    """Also not where ops of a group run at the same time, and each is charged a part of the group's latency only."""
    chips = [load_chip(name) for name in CHIPS]
    seen = 0
    for drawn in traces(browser, "roofline"):
        for x, y, text in zip(drawn["x"], drawn["y"], drawn["text"], strict=True) if drawn.get("customdata") else ():
            (chip,) = [each for each in chips if each.name in text]
            roof = 2 * max(float(chip.peak_macs_per_s(each)) for each in chip.formats)
            if "no byte of DRAM" not in text:
                roof = min(roof, x * float(chip.read_bytes_per_s(chip.dram)))
            if "no FLOP" not in text:
                seen += 1
                assert y <= roof * (1 + 1e-9), text
    assert seen > 50


@needs_browser
def test_what_if_equals_python(browser: Any) -> None:
    """At several positions of every slider; the largest relative difference is asserted to be below 1e-9."""
    chip = load_chip("edge-npu")
    recipes = data_of(Path(browser.current_url.removeprefix("file://")).read_text())["recipes"]
    base = {"bandwidth": 12, "matrix": 12, "clock": 12}
    base["batch"] = recipes[0]["batches"].index(2)
    base["prompt"], base["context"] = recipes[0]["lengths"].index(64), recipes[1]["lengths"].index(100)
    last_batch, last_prompt, last_context = len(recipes[0]["batches"]) - 1, len(recipes[0]["lengths"]) - 1, len(recipes[1]["lengths"]) - 1
    cases: list[dict[str, int]] = [
        {},
        {"bandwidth": 24},
        {"clock": 0},
        {"matrix": 3, "clock": 20},
        {"bandwidth": 0, "matrix": 24, "batch": last_batch, "prompt": last_prompt, "context": last_context},
        {"batch": 0, "prompt": 0, "context": 0, "clock": 17},
        {"batch": 5, "prompt": 11, "context": 7},
    ]
    for case in cases:
        at = base | case
        totals = move(browser, **at)
        factor = {name: 2 ** ((at[name] - 12) / 4) for name in ("bandwidth", "matrix", "clock")}
        values = {"clock": chip.clock_hz * factor["clock"], "memory.dram.bandwidth": chip.dram.bandwidth.read * factor["bandwidth"]}
        values |= {f"matrix.rates.{name}": rate * factor["matrix"] for name, rate in chip.matrix.rates.items()}
        varied, batch = with_values(chip, values), recipes[0]["batches"][at["batch"]]
        for phase, lengths, name in (("prefill", recipes[0]["lengths"], "prompt"), ("decode", recipes[1]["lengths"], "context")):
            asked: dict[str, Any] = {"phase": phase, "batch": batch, name: lengths[at[name]]}
            expected = predict(MODEL, varied, engine="roofline", **asked).total_s
            assert totals[phase] == pytest.approx(expected, rel=1e-9), (case, phase)
    move(browser, **base)


@needs_browser
def test_what_if_charges_sums_where_the_array_writes_them(tmp_path: Path) -> None:
    """On a chip whose accumulator is slow to write, and nothing else; the page has its places also where it is narrow."""
    file = tmp_path / "slow-sums.yaml"
    file.write_text("base: gemmini-default\nmemory: {accumulator: {bandwidth: {read: 128 B/cycle, write: 2 B/cycle}}}\n")
    chip, page = load_chip(file), tmp_path / "page.html"
    page.write_text(dashboard(MODEL, file, prompt=64, engine="roofline"))
    assert "accumulator" in predict(MODEL, chip, phase="prefill", prompt=64, engine="roofline").bound_shares
    with opened(page, tmp_path, size=(800, 900)) as driver:
        for clock in (12, 20):
            varied = with_values(chip, {"clock": chip.clock_hz * 2 ** ((clock - 12) / 4)})
            for phase, seconds in move(driver, clock=clock).items():
                asked: dict[str, Any] = {"phase": phase, "prompt": 64}
                assert seconds == pytest.approx(predict(MODEL, varied, engine="roofline", **asked).total_s, rel=1e-9), (clock, phase)
        # The table of ops is wider than such a page: it scrolls.
        assert (complaints(driver), [each for each in misplaced(driver) if each[0] != "scroll"]) == ([], [])
        names = driver.execute_script("return [...document.querySelectorAll('#breakdown text')].map((text) => text.textContent)")
        assert [name[:6] for name in names if name.startswith(("prefill", "decode"))] == ["prefil", "decode"]


@needs_browser
def test_a_slider_moves_every_point(browser: Any) -> None:
    def points() -> dict[Any, float]:
        return {(i, k): y for i, t in enumerate(traces(browser, "roofline")) if t.get("customdata") for k, y in enumerate(t["y"])}

    browser.execute_script("document.getElementById('reset').click()")
    move(browser, clock=13)
    wait_a_frame(browser)
    before = points()
    move(browser, clock=17)
    wait_a_frame(browser)
    after = points()
    assert before.keys() == after.keys()
    assert sum(after[key] > before[key] for key in before) > len(before) / 3
    assert float(browser.execute_script("return document.body.dataset.step_ms")) > 0
    browser.execute_script("document.getElementById('reset').click()")
    wait_a_frame(browser)


def wait_a_frame(driver: Any) -> None:
    driver.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50)))")


@needs_browser
@pytest.mark.parametrize("place", ["table", "graph", "select", "roofline", "timeline"])
def test_an_op_chosen_in_one_view_is_shown_in_the_others(browser: Any, place: str) -> None:
    name = "layers.*.mlp.down_proj"
    browser.execute_script("const s = document.getElementById('op'); s.value = ''; s.dispatchEvent(new Event('change'))")
    choose = {
        "table": "document.querySelector(`#ops tr[data-op='${arguments[0]}']`).click()",
        "graph": "document.querySelector(`#graph [data-op='${arguments[0]}']`).dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))",
        "select": "const s = document.getElementById('op'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))",
        "roofline": "document.getElementById('roofline').emit('plotly_click', {points: [{customdata: arguments[0]}]})",
        "timeline": "document.getElementById('timeline').emit('plotly_click', {points: [{customdata: arguments[0]}]})",
    }
    browser.execute_script(choose[place], name)
    wait_a_frame(browser)
    for view in ("roofline", "timeline"):
        strong = {}
        for drawn in traces(browser, view):
            if drawn.get("customdata") and isinstance(drawn["marker"].get("opacity"), list):
                for op, opacity in zip(drawn["customdata"], drawn["marker"]["opacity"], strict=True):
                    strong.setdefault(op == name, []).append(opacity)
        assert max(strong[False]) < max(strong[True]), view
    widths = traces(browser, "breakdown")[0]
    chosen = widths["customdata"].index(name)
    assert widths["marker"]["line"]["width"][chosen] == max(widths["marker"]["line"]["width"])
    assert browser.execute_script("return [...document.querySelectorAll('#graph .chosen')].map((box) => box.dataset.op)") == [name]
    assert browser.execute_script("return document.querySelector('#ops tr[aria-selected=true]').dataset.op") == name
    assert name in browser.execute_script("return document.getElementById('details').textContent")


@needs_browser
def test_a_component_is_enlarged_and_comes_back(browser: Any) -> None:
    """By a click on it, and another; what is too small to read then has no text, and nothing is drawn wrongly."""
    from selenium.webdriver.common.action_chains import ActionChains

    place = """
      const sectors = [...document.querySelectorAll("#breakdown path.surface")];
      return sectors.find((each) => each.__data__.data.data.id === "decode/2");
    """
    readable = """
      const texts = [...document.querySelectorAll("#breakdown text.slicetext")];
      const sizes = texts.map((text) => [text.textContent, text.getBoundingClientRect().height]);
      return sizes.filter(([text, height]) => text.trim() && height > 0.5);
    """
    shown = []
    for _ in range(2):
        ActionChains(browser).move_to_element_with_offset(browser.execute_script(place), -30, 20).click().perform()
        wait_a_frame(browser)
        texts = browser.execute_script(readable)
        assert all(height > 9 for _, height in texts)
        shown.append([text.partition("  ")[0] for text, _ in texts])
    inside, whole = shown
    assert (inside.count("layers.0 ... 5"), whole.count("layers.0 ... 5")) == (2, 2)
    assert inside.count("q_proj") > whole.count("q_proj")
    assert not any(text.startswith("decode") for text in inside)
    assert any(text.startswith("decode") for text in whole)
    assert complaints(browser) == []


@needs_browser
def test_the_keyboard_reaches_controls_and_walks_the_ops(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    script = """
      window.reached = [];
      document.addEventListener("focusin", ({ target }) => window.reached.push(target.id || target.dataset.op || target.textContent));
      document.body.tabIndex = -1;
      document.body.focus();
    """
    browser.execute_script(script)
    browser.switch_to.active_element.send_keys(Keys.TAB * 80)
    reached = set(browser.execute_script("return window.reached"))
    assert {"model", "chip", "phase", "op", "theme", "slider-bandwidth", "slider-context", "PNG", "SVG", "lm_head"} <= reached
    rows = browser.execute_script("return [...document.querySelectorAll('#ops tbody tr')].map((row) => row.dataset.op)")
    browser.execute_script("document.querySelector('#ops tbody tr').focus()")
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert browser.execute_script("return document.querySelector('#ops tr[aria-selected=true]').dataset.op") == rows[2]


@needs_browser
def test_the_front_is_the_pareto_front(browser: Any, written: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(written.parent / "sweep.parquet")
    costs = np.stack([table["latency_s"].to_numpy(), table["memory.dram.bandwidth"].to_numpy()], axis=1)
    expected = [tuple(costs[i]) for i in pareto_front(costs)]
    (front,) = [trace for trace in traces(browser, "front") if trace["name"] == "Pareto front"]
    assert list(zip(front["x"], front["y"], strict=True)) == expected
    hover = "document.getElementById('front').emit('plotly_hover', {points: [{customdata: arguments[0]}]})"
    browser.execute_script(hover, front["customdata"][0])
    shown = browser.execute_script("return document.getElementById('sweep-point').textContent")
    assert "matrix.rows" in shown
    assert "tokens_per_s" in shown


@needs_browser
def test_components_and_dear_ops_carry_their_names(browser: Any) -> None:
    """The sectors of the layers and of ops that take a tenth of the step or more, in both phases."""
    script = """
      const texts = [...document.querySelectorAll("#breakdown text.slicetext")];
      return texts.filter((text) => text.getBoundingClientRect().width > 1).map((text) => text.textContent);
    """
    shown = [text.partition("  ")[0] for text in browser.execute_script(script)]
    assert shown.count("layers.0 ... 5") == 2
    for phase in data_of(Path(browser.current_url.removeprefix("file://")).read_text())["cases"][0]["phases"]:
        for name, latency_s in zip(phase["rows"]["name"], phase["rows"]["latency_s"], strict=True):
            assert latency_s < 0.1 * phase["total_s"] or name.rpartition(".")[2] in shown, name


@needs_browser
def test_views_without_plotly_are_there_before_it(browser: Any) -> None:
    stamps = browser.execute_script("const d = document.body.dataset; return [d.usable, d.interactive, d.ready]")
    usable, interactive, ready = (float(stamp) for stamp in stamps)
    assert usable < interactive < ready


@needs_browser
@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080)])
def test_no_text_covers_another_or_is_cut(browser: Any, size: tuple[int, int]) -> None:
    screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        for chip in range(len(CHIPS)):
            script = "const s = document.getElementById('chip'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))"
            browser.execute_script(script, chip)
            settle(browser)
            assert misplaced(browser) == []
    finally:
        browser.execute_script("const s = document.getElementById('chip'); s.value = 0; s.dispatchEvent(new Event('change'))")
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen | {"width": 1280, "height": 720})
        settle(browser)


def settle(driver: Any) -> None:
    """Wait until the figures have been still for a while."""
    script = """
      const done = arguments[0];
      let last = performance.now();
      const watch = new MutationObserver(() => { last = performance.now(); });
      watch.observe(document.body, { childList: true, subtree: true, attributes: true });
      const end = setInterval(() => { if (performance.now() - last > 700) { clearInterval(end); watch.disconnect(); done(); } }, 100);
    """
    driver.execute_async_script(script)


def drag(driver: Any, axis: str, begin: float, end: float) -> None:
    """A pointer's drag along an axis of the parallel coordinates, from one share of its height to another, from the bottom."""
    script = """
      const axis = document.querySelector(`#parallel [data-axis="${arguments[0]}"]`), line = axis.querySelector("path");
      axis.scrollIntoView({ block: "center" });
      const box = line.getBoundingClientRect();
      return [box.left + box.width / 2, box.top, box.bottom];
    """
    x, top, bottom = driver.execute_script(script, axis)
    for kind, at in (("mousePressed", begin), ("mouseMoved", (begin + end) / 2), ("mouseMoved", end), ("mouseReleased", end)):
        held = 0 if kind == "mouseReleased" else 1
        event = {"type": kind, "x": x, "y": bottom + (top - bottom) * at, "button": "left", "buttons": held, "clickCount": 1}
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
    settle(driver)


@needs_browser
def test_ranges_on_the_axes_hold_in_both_figures(browser: Any, written: Path) -> None:
    import pyarrow.parquet as pq
    from selenium.webdriver.common.keys import Keys

    table = pq.read_table(written.parent / "sweep.parquet")
    rows, clock = table["matrix.rows"].to_numpy(), table["clock"].to_numpy()
    costs = np.stack([table["latency_s"].to_numpy(), table["memory.dram.bandwidth"].to_numpy()], axis=1)

    def check(kept: Any) -> None:
        note = browser.execute_script("return document.getElementById('parallel-note').textContent")
        assert note.startswith(f"{kept.sum():,} of {len(kept):,} chips")
        (front,) = [trace for trace in traces(browser, "front") if trace["name"] == "Pareto front"]
        expected = [tuple(costs[kept][i]) for i in pareto_front(costs[kept])]
        assert list(zip(front["x"], front["y"], strict=True)) == expected
        (cloud,) = [trace for trace in traces(browser, "front") if trace["name"] == "meets the constraints"]
        assert sorted(cloud["customdata"]) == np.flatnonzero(kept).tolist()
        assert browser.execute_script("return document.querySelectorAll('#parallel path[data-row]').length") == len(expected)

    drag(browser, "matrix.rows", -0.01, 0.7)  # 16 to 48, linear: 16 and 32
    check(rows < 40)
    axis = browser.execute_script("const a = document.querySelector('#parallel [data-axis=clock]'); a.focus(); return a")
    axis.send_keys(Keys.ARROW_UP)
    settle(browser)
    check((rows < 40) & (clock >= 0.5e9 + 0.05 * 1.5e9))
    assert browser.execute_script("return document.activeElement.dataset.axis") == "clock"
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    settle(browser)
    check(rows < 40)
    drag(browser, "matrix.rows", 0.5, 0.5)
    assert browser.execute_script("return document.getElementById('parallel-note').textContent") == ""
    hover = browser.execute_script(
        "const path = document.querySelector('#parallel path[data-row]'), at = path.getPointAtLength(30), m = path.getScreenCTM();"
        "document.getElementById('sweep-point').replaceChildren();"
        "return [at.x * m.a + m.e, at.y * m.d + m.f]"
    )
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": hover[0], "y": hover[1]})
    assert "matrix.rows" in browser.execute_script("return document.getElementById('sweep-point').textContent")
    assert complaints(browser) == []


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_page_of_one_phase_has_all_views(tmp_path: Path, phase: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(dashboard(MODEL, "cloud-npu", prompt=64, phase=phase, engine="tiled"))
    with opened(page, tmp_path) as driver:
        assert complaints(driver) == []
        assert misplaced(driver) == []
        assert [name for name in VIEWS if name != "front" and not traces(driver, name)] == []
        assert list(move(driver, clock=12)) == [phase]
        sliders = driver.execute_script("return [...document.querySelectorAll('.slider input')].map((input) => input.id)")
        assert sliders[-1] == {"prefill": "slider-prompt", "decode": "slider-context"}[phase]
        assert len(sliders) == 5


@needs_browser
def test_figures_are_saved_as_png_and_svg(browser: Any) -> None:
    """Each view's buttons hand out a file; what is handed out is caught here instead of being written."""
    script = """
      const done = arguments[0], found = [], click = HTMLAnchorElement.prototype.click;
      HTMLAnchorElement.prototype.click = function () { found.push([this.download, this.href.slice(0, 40), this.href.length]); };
      (async () => {
        for (const button of document.querySelectorAll('.save button')) {
          const before = found.length;
          button.click();
          for (let i = 0; i < 400 && found.length === before; i++) await new Promise((go) => setTimeout(go, 25));
        }
        HTMLAnchorElement.prototype.click = click;
        done(found);
      })();
    """
    saved = browser.execute_async_script(script)
    names = [name for name, *_ in saved]
    views = ("roofline", "breakdown", "timeline", "curves", "sensitivity", "memory", "parallel", "front", "op-graph")
    assert names == [f"{view}.{kind}" for view in views for kind in ("png", "svg")] + ["ops-prefill.md", "ops-prefill.csv"]
    for name, begin, length in saved:
        assert begin.startswith({"png": "data:image/png", "svg": "data:image/svg+xml"}.get(name[-3:], "data:text/plain")), name
        assert length > 1000
    assert complaints(browser) == []


@needs_browser
@pytest.mark.slow
def test_without_webgl_the_sweep_is_svg_and_says_so(written: Path, tmp_path: Path) -> None:
    with opened(written, tmp_path, webgl=False, dark=True) as driver:
        assert complaints(driver) == []
        assert "no WebGL" in driver.execute_script("return document.getElementById('sweep-note').textContent")
        assert {trace["type"] for trace in traces(driver, "front")} == {"scatter"}
        assert driver.execute_script("return document.documentElement.dataset.theme") == "dark"
        assert driver.execute_script("return document.querySelectorAll('#parallel path[data-row]').length") > 3


@needs_browser
@pytest.mark.slow
def test_the_cycle_engine_zooms_from_the_step_to_a_tile(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(dashboard(MODEL, "edge-npu", prompt=16, engine="cycle"))
    with opened(page, tmp_path) as driver:
        assert complaints(driver) == []
        window = "const d = document.getElementById('timeline').dataset; return [Number(d.from), Number(d.to)]"
        whole = driver.execute_script(window)
        assert whole == [0, pytest.approx(predict(MODEL, "edge-npu", prompt=16, engine="cycle").total_s)]
        names = driver.execute_script("return [...document.querySelectorAll('#zooms button')].map((b) => b.textContent)")
        assert names == ["whole step", "layers.1", "lm_head", "one tile"]
        spans = []
        for i in (1, 3):
            driver.execute_script("document.querySelectorAll('#zooms button')[arguments[0]].click()", i)
            wait_a_frame(driver)
            start, end = driver.execute_script(window)
            spans.append(end - start)
            assert any("tile" in text for trace in traces(driver, "timeline") for text in trace["text"])
            ticks = driver.execute_script("return document.getElementById('timeline').layout.xaxis.ticktext")
            assert len(set(ticks)) == len(ticks) >= 3
        assert whole[1] > 5 * spans[0] > 25 * spans[1]


@needs_browser
@pytest.mark.slow
def test_a_hostile_name_runs_nothing(tmp_path: Path) -> None:
    chip = tmp_path / "chip.yaml"
    chip.write_text("base: edge-npu\nname: '</script><script>window.hacked=1</script><img src=x onerror=\"window.hacked=1\"><b>bold</b>'\n")
    page = tmp_path / "page.html"
    page.write_text(dashboard(MODEL, chip, prompt=16))
    with opened(page, tmp_path) as driver:
        assert driver.execute_script("return window.hacked || null") is None
        assert "<b>bold</b>" in driver.execute_script("return document.querySelector('h1').textContent")
        assert driver.execute_script("return document.querySelectorAll('h1 b, img').length") == 0
        assert complaints(driver) == []
