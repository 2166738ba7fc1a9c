"""Plots for papers: what is drawn is what the numbers say, whatever the names are."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from tests.report_examples import HOSTILE, comparison, scores
from transfer_metrics.errors import InvalidInputError, UnknownNameError
from transfer_metrics.evidence.evidence_report import _trade_off
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.plot_style import COLOURS, name_points, save_figure, short_labels
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.results.table_plots import _MAP, _heat_map, _task_scores

matplotlib.use("Agg")


def axes():
    return Figure().subplots()


def raced() -> ScoreTable:
    """Two models that finished, and one with a higher score that a race dropped."""
    base = {"layer": "fc", "metric": "logme", "task": "t"}
    return ScoreTable(
        [
            {**base, "model": "a", "value": 0.5, "n": 100, "stderr": 0.1},
            {**base, "model": "b", "value": 0.4, "n": 100, "stderr": 0.1},
            {**base, "model": "c", "value": 0.9, "n": 20, "stderr": 0.1, "round": 1},
        ]
    )


# --- ranking and layers --------------------------------------------------------------------------


def test_dropped_models_are_hollow_and_said_to_be_dropped():
    ax = raced().plot.ranking(ax=axes())
    full, hollow = (container.lines[0] for container in ax.containers)
    assert full.get_xdata().tolist() == [0.5, 0.4]
    assert hollow.get_xdata().tolist() == [0.9]
    assert hollow.get_ydata().tolist() == [2]
    assert (full.get_markerfacecolor(), hollow.get_markerfacecolor()) == (COLOURS[0], "white")
    assert "dropped" in ax.get_legend().get_texts()[0].get_text()
    assert scores().plot.ranking(ax=axes()).get_legend() is None


def test_bars_of_a_ranking_are_the_intervals_of_the_table():
    table = scores()
    ranking = table.ranking("logme")
    [bars] = axes_bars(table.plot.ranking("logme", ax=axes()))
    np.testing.assert_allclose(bars, ranking[["low", "high"]].to_numpy())


def test_lines_that_guide_the_eye_begin_at_the_axis():
    table = scores()
    ax = table.plot.ranking("logme", ax=axes())
    [lines] = [one for one in ax.collections if one.get_zorder() == 1]
    values = table.ranking("logme")["score"]
    for segment, value in zip(lines.get_segments(), values, strict=True):
        assert segment[:, 0].tolist() == [ax.get_xlim()[0], value]


def axes_bars(ax):
    """Ends of the error bars, (rows, 2) per container."""
    found = []
    for container in ax.containers:
        segments = container.lines[2][0].get_segments()
        found.append(np.array([[segment[0][0], segment[-1][0]] for segment in segments]))
    return found


def test_points_against_accuracies_are_of_the_scores_that_tau_is_of():
    """Of the last layers where these stand for the models, and of what heads were judged by."""
    row = {"task": "t", "metric": "knn"}
    layers = {"a": (0.9, 0.1), "b": (0.5, 0.2), "c": (0.4, 0.3)}
    rows = [
        {**row, "model": m, "layer": f"l{i}", "layer_index": i, "value": v}
        for m, values in layers.items()
        for i, v in enumerate(values)
    ]
    reached = {"a": 0.1, "b": 0.2, "c": 0.4}
    ax = ScoreTable(rows, "last").plot.agreement(reached, ax=axes())
    assert sorted(map(tuple, ax.collections[0].get_offsets())) == [
        (0.1, 0.1),
        (0.2, 0.2),
        (0.3, 0.4),
    ]
    assert "tau 1.00" in ax.get_title(loc="left")
    assert ax.get_ylabel() == "accuracy"
    fit = {"task": "t", "head": "p", "metric": "r2", "split": "test"}
    fits = Comparison([{**fit, "model": m, "value": v} for m, v in reached.items()])
    assert ScoreTable(rows).plot.agreement(fits, ax=axes()).get_ylabel() == "R²"
    with pytest.raises(InvalidInputError, match="a score and a depth"):
        ScoreTable(rows).plot.layers()


def test_coloured_curves_have_bands_of_their_intervals():
    table = scores(("a", "b", "c"), metrics=("logme",))
    ax = table.plot.layers(ax=axes(), highlight=2)
    assert len(ax.lines) == 3
    assert len(ax.collections) == 2
    records = [r for r in table.records if r["model"] == "a"]
    top = max(r["value"] + 2.093 * r["stderr"] for r in records)  # Student's t, 19 degrees
    highest = max(band.get_paths()[0].vertices[:, 1].max() for band in ax.collections)
    assert highest == pytest.approx(top, rel=1e-3)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_every_plot_draws_any_name_into_every_format(tmp_path, ending):
    names = [*(n.replace("\ud800", "") for n in HOSTILE), "_hidden", "x" * 5000]
    table = scores(names, task="$\\frac{$") + scores(names, task="other $")
    heads = comparison(names, heads=("$a$", "_b"), shifts=("_shift", "$\\x$"))
    found = pd.DataFrame({"metric": names, "seconds": 1.0, "agreement": 0.5, "low": 0, "high": 1})
    accuracies = {name: 0.1 * i for i, name in enumerate(names)}
    drawings = {
        "ranking": lambda ax: table.plot.ranking(ax=ax),
        "layers": lambda ax: table.plot.layers(ax=ax),
        "tasks": lambda ax: table.plot.tasks(ax=ax),
        "agreement": lambda ax: scores(names).plot.agreement(accuracies, ax=ax),
        "comparison": lambda ax: heads.plot.comparison(ax=ax),
        "cost": lambda ax: _trade_off(found, ax),
    }
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    for name, draw in drawings.items():
        path = tmp_path / f"{name}.{ending}"
        save_figure(draw, path)
        assert path.read_bytes().startswith(start)


def test_names_are_drawn_as_they_are_and_none_is_left_out():
    heads = comparison(("m",), heads=("a$b$", "c"), shifts=("_shift",))
    ax = heads.plot.comparison(ax=axes())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["in distribution", "_shift"]
    ax = scores(("_x", "y")).plot.layers(ax=axes())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["_x", "y"]


@pytest.mark.parametrize("count", [2, 23])
def test_no_name_of_a_point_covers_another_or_leaves_the_figure(count):
    names = [f"hf:some-organisation/a-model-with-quite-a-name-{i:02d}" for i in range(count)]
    rng = np.random.default_rng(count)
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    ax = figure.subplots()
    ax.plot(*rng.uniform(size=(2, count)), "o")
    points = np.column_stack(ax.lines[0].get_data())
    name_points(ax, points, short_labels(names))
    renderer = FigureCanvasAgg(figure).get_renderer()
    # Of the text alone, without the line that may lead to it.
    boxes = []
    for text in ax.texts:
        text.update_positions(renderer)
        boxes.append(Text.get_window_extent(text, renderer))
    for i, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        # Descenders may touch the line below.
        assert not any(box.shrunk(0.9, 0.7).overlaps(b.shrunk(0.9, 0.7)) for b in boxes[:i])


def test_long_names_lose_what_they_share_but_not_what_tells_them_apart():
    names = [f"timm:efficientnet_with_a_long_name_{i:02d}.in21k_ft_in1k" for i in range(30)]
    labels = short_labels(names)
    assert len(set(labels)) == 30
    assert all(not label.startswith("timm:") and len(label) < len(names[0]) for label in labels)
    assert short_labels(["zoo:cnn-mnist", "zoo:cnn-usps"]) == ["zoo:cnn-mnist", "zoo:cnn-usps"]
    assert short_labels(["a" * 99] * 2) == short_labels(["a" * 99]) * 2


LONG = [
    "hf:/home/someone/checkpoints/facebook/convnextv2-base-22k-384",
    "hf:/home/someone/checkpoints/microsoft/swinv2-large-patch4-window12-192-22k",
    "timm:vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "hf:google/vit-base-patch16-224-in21k",
]
PLACE = "imagefolder:/data/projects/crops/leaf-diseases-2024?label="
WIDE = "emms(labels='clip+bert+glove', regression='ridge', maximum_iterations=100)"


def drawn_texts(ax):
    """What is written outside of the data, with its box, and the box of the legend."""
    texts = [ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label]
    for axis, ends, place in ((ax.xaxis, ax.get_xlim(), 0), (ax.yaxis, ax.get_ylim(), 1)):
        low, high = sorted(ends)
        ticks = axis.get_ticklabels()
        texts += [t for t in ticks if low <= t.get_position()[place] <= high]
    legend = ax.get_legend()
    found = {t.get_text(): t.get_window_extent() for t in texts if t.get_text() and t.get_visible()}
    return found, legend and legend.get_window_extent()


@pytest.mark.parametrize("kind", ["ranking", "layers", "tasks", "comparison"])
@pytest.mark.parametrize(
    ("many", "tasks"),
    [(4, 1), *(pytest.param(m, t, marks=pytest.mark.slow) for m in (1, 4, 100) for t in (1, 3))],
)
def test_nothing_that_is_written_is_clipped_or_covered(tmp_path, kind, many, tasks):
    names = [f"{LONG[i % 4]}-{i}" if i > 3 else LONG[i] for i in range(many)]
    places = [PLACE + name for name in ("disease", "severity", "brand")[:tasks]]
    if kind == "comparison":
        heads = ("linear_probe", "finetune(learning_rate=0.01, epochs=30, weight_decay=0.0001)")
        shifts = ("sketches", "blurred-by-motion", "night-time photographs", PLACE + "ood")
        table = comparison(names[:4], task=places[0], heads=heads, shifts=shifts, seeds=1)
        for place in places[1:]:
            table += comparison(names[:4], task=place, heads=heads, shifts=shifts, seeds=1)
    else:
        table = scores(names, task=places[0], metrics=(WIDE,), layers=2)
        for place in places[1:]:
            table += scores(names, task=place, metrics=(WIDE,), layers=2)
    figures = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, path, **_: figures.append(self))
        patch.setattr("transfer_metrics.results.plot_style.replacing", nullcontext)
        table.plot.save(kind, tmp_path / "plot.png")
    [figure] = figures
    figure.draw_without_rendering()
    ax = figure.axes[0]
    assert figure.get_size_inches()[1] < 15
    assert ax.bbox.width > 0.3 * figure.bbox.width
    texts, legend = drawn_texts(ax)
    boxes = [*texts.values(), *([legend] if legend else [])]
    for text, box in zip([*texts, "legend"], boxes, strict=False):
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= figure.bbox.x1 + 1, text
        assert box.y1 <= figure.bbox.y1 + 1, text
    if legend:
        assert not any(box.overlaps(legend) for box in texts.values())
    rows = [t.get_window_extent() for t in ax.get_yticklabels()] if kind != "layers" else []
    assert not any(a.shrunk(1, 0.7).overlaps(b.shrunk(1, 0.7)) for a, b in pairwise(rows))


def test_of_many_candidates_the_best_are_drawn_and_the_rest_is_counted():
    names = [f"net{i:03d}" for i in range(60)]
    tables = [
        scores(names, task=task, metrics=("logme",), layers=1, intervals=False, seed=i)
        for i, task in enumerate("abc")
    ]
    ax = tables[0].plot.ranking("logme", ax=axes())
    best = list(tables[0].ranking("logme")["model"][:40])
    assert [t.get_text().split()[0] for t in ax.get_yticklabels()] == best
    assert ax.get_title(loc="left").endswith("the best 40 of 60")
    every = tables[0] + tables[1] + tables[2]
    ax = every.plot.ranking("logme", ax=axes())
    labels = [t.get_text().split()[0] for t in ax.get_yticklabels()]
    ranking = every.ranking("logme")
    wanted = []
    for task, own in ranking.groupby("task", sort=False):
        wanted += [task, *own["model"][:13]]
    assert labels == wanted
    assert "the best 39 of 180" in " ".join(ax.get_title(loc="left").split())
    places = [y for container in ax.containers for y in container.lines[0].get_ydata()]
    assert [labels[y] for y in places] == [name for name in wanted if name not in "abc"]
    ax = every.plot.layers("logme", ax=axes())
    assert ax.get_legend().get_title().get_text() == "best 5, 60 of 175 in grey"
    assert len(ax.lines) == 65
    ax = every.plot.tasks("logme", ax=axes())
    assert len(ax.get_yticklabels()) == 40
    assert "the best 40 of 60 models" in ax.get_title(loc="left")


def test_heads_stand_under_their_models_and_each_row_is_its_own():
    table = comparison(("a", "b"), heads=("h", "g"), seeds=1) + comparison(
        ("a",), heads=("g",), task="t", seeds=1
    )
    ax = table.plot.comparison(ax=axes())
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels == ["a on digits", "h", "g", "b on digits", "h", "g", "a on t", "g"]
    points = ax.containers[0].lines[0]
    found = dict(zip(points.get_ydata(), points.get_xdata(), strict=True))
    summary = 100 * table.summary()["test"]
    rows = [("a", "h", "digits"), ("a", "g", "digits"), ("b", "h", "digits"), ("b", "g", "digits")]
    wanted = dict(zip((1, 2, 4, 5, 7), [*rows, ("a", "g", "t")], strict=True))
    assert found == pytest.approx({place: summary[row] for place, row in wanted.items()})


def test_of_many_points_those_are_named_that_find_a_place():
    names = [f"net{i:03d}" for i in range(60)]
    accuracies = {name: i % 17 / 20 + i / 1000 for i, name in enumerate(names)}
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    ax = scores(names, layers=1, intervals=False).plot.agreement(accuracies, ax=figure.subplots())
    assert 1 <= len(ax.texts) <= 24
    assert names[0] in [t.get_text() for t in ax.texts], "the best score"


def test_legends_stand_beside_the_data():
    few = scores(("a", "b")).plot.layers(ax=Figure(layout="constrained").subplots())
    for ax in (few, raced().plot.ranking(ax=Figure(layout="constrained").subplots())):
        ax.figure.draw_without_rendering()
        legend = ax.get_legend().get_window_extent()
        assert legend.x0 >= ax.bbox.x1 or legend.y0 >= ax.bbox.y1


def test_the_same_numbers_give_the_same_file_with_fonts_inside(tmp_path):
    for ending in ("svg", "pdf", "png"):
        paths = [tmp_path / f"{i}.{ending}" for i in range(2)]
        for path in paths:
            save_figure(lambda ax: scores().plot.ranking(ax=ax), path)
        assert paths[0].read_bytes() == paths[1].read_bytes()
    content = (tmp_path / "0.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content


# --- models x tasks ------------------------------------------------------------------------------


def cells(ax):
    """Text and shade of each cell of a heat map."""
    image = ax.images[0].get_array()
    return {
        (round(t.get_position()[1]), round(t.get_position()[0])): (
            t.get_text(),
            float(image[round(t.get_position()[1]), round(t.get_position()[0])]),
        )
        for t in ax.texts
    }


def test_heat_map_orders_models_and_shades_by_rank_within_each_task():
    values = pd.DataFrame(
        {"pets": [0.1, 0.3, 0.2], "cars": [100.0, 300.0, np.nan], "solo": [np.nan, 5.0, np.nan]},
        ["low", "top", "mid"],
    )
    ax = _heat_map(values, True, "knn", axes())
    assert [t.get_text() for t in ax.get_yticklabels()] == ["top", "mid", "low"]
    assert cells(ax) == {
        (0, 0): ("0.3", 1.0), (0, 1): ("300", 1.0), (0, 2): ("5", 0.5),
        (1, 0): ("0.2", 0.5),
        (2, 0): ("0.1", 0.0), (2, 1): ("100", 0.0),
    }  # fmt: skip
    losses = _heat_map(values, False, "", axes())
    assert next(t.get_text() for t in losses.get_yticklabels()) == "low"
    with pytest.raises(InvalidInputError, match="NaN"):
        _heat_map(values * np.nan, True, "", axes())


def test_heat_map_tells_order_by_lightness_alone():
    colours = matplotlib.colormaps[_MAP](np.linspace(0, 1, 50))[:, :3]
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    lightness = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) < 0).all()


def test_task_scores_are_those_of_the_best_layer_of_each_task():
    table = scores(("a", "b"), task="x") + scores(("b", "c"), task="y", seed=1)
    found = _task_scores(table, "knn")
    best = table.to_frame().query("metric == 'knn'").groupby(["model", "task"])["value"].max()
    assert found.stack().dropna().to_dict() == best.to_dict()
    with pytest.raises(UnknownNameError, match="knn"):
        table.plot.tasks("knm", ax=axes())
    # Other examples of one task do not compare, so they stand apart.
    apart = _task_scores(scores(("a",), n=100) + scores(("a",), n=200), "logme")
    assert list(apart.columns) == ["digits, n = 100", "digits, n = 200"]


def test_plot_of_tasks_turns_losses_round():
    table = ScoreTable(
        {"model": m, "task": t, "layer": "l", "metric": "loss", "value": v,
         "higher_is_better": False}
        for m, v in (("a", 3.0), ("b", 1.0)) for t in ("x", "y")
    )  # fmt: skip
    ax = table.plot.tasks(ax=axes())
    assert [t.get_text() for t in ax.get_yticklabels()] == ["b", "a"]


# --- cost against agreement ----------------------------------------------------------------------


def metrics(rows):
    return pd.DataFrame(rows, columns=["metric", "seconds", "agreement", "low", "high"])


def test_trade_off_joins_the_metrics_that_no_cheaper_one_matches():
    rng = np.random.default_rng(0)
    rows = [
        (f"m{i}", 10 ** rng.uniform(-3, 2), rng.uniform(-0.2, 0.9), np.nan, np.nan)
        for i in range(30)
    ]
    ax = _trade_off(metrics(rows), axes())
    drawn = set(zip(*(np.asarray(d).tolist() for d in ax.lines[-1].get_data()), strict=True))
    worth = {
        (s, a)
        for _, s, a, _, _ in rows
        if not any((t < s and b >= a) or (t == s and b > a) for _, t, b, _, _ in rows)
    }
    assert drawn == worth
    assert ax.get_xscale() == "log"
    assert sorted(t.get_text() for t in ax.texts) == sorted(r[0] for r in rows)


def test_trade_off_draws_intervals_and_leaves_out_what_has_no_place():
    rows = [("a", 0.1, 0.5, 0.3, 0.6), ("b", 0.0, 0.9, 0.8, 1.0), ("c", 1.0, np.nan, 0.0, 1.0)]
    ax = _trade_off(metrics(rows), axes())
    assert [t.get_text() for t in ax.texts] == ["a"]
    assert [0.3, 0.6] in [np.asarray(line.get_ydata()).tolist() for line in ax.lines]
    with pytest.raises(InvalidInputError, match="no metric"):
        _trade_off(metrics(rows[1:]), axes())


@pytest.mark.parametrize("kind", ["layers", "ranking"])
def test_scores_of_many_sizes_stand_apart(kind):
    """A millionth and a thousandth are as far from each other as a thousandth and one."""
    base = {"metric": "gbc", "higher_is_better": True, "relative": True}
    sizes = {"a": 1e-6, "b": 1e-3, "c": 1.0}
    rows = [{"model": m, "value": -v, "depth": 1.0, "layer": "fc"} for m, v in sizes.items()]
    for relative in (True, False):
        table = ScoreTable([{**base, **row, "relative": relative} for row in rows])
        ax = getattr(table.plot, kind)("gbc")
        points = [[-v, -v] for v in sizes.values()]
        x = ax.transData.transform(points)[:, 1 if kind == "layers" else 0]
        near, far = abs(x[0] - x[1]), abs(x[1] - x[2])
        assert near / far == pytest.approx(1.0 if relative else 1e-3, rel=0.05)
    zero = ScoreTable([{**base, **rows[0]}, {**base, **rows[1], "value": 0.0}])
    getattr(zero.plot, kind)("gbc").figure.canvas.draw()
