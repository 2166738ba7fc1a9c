"""``transfer-metrics select``."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from transfer_metrics.cli.console import print_table, say_failures, suggest, tell
from transfer_metrics.cli.options import (
    add_extraction,
    add_options,
    add_output,
    check_names,
    check_place,
    extraction,
    loaded,
    positive,
    refuse_examples,
    share,
)
from transfer_metrics.cli.parser import add_verb

if TYPE_CHECKING:
    from transfer_metrics.features.store import FeatureStore
    from transfer_metrics.selection.base import Selection

_EXAMPLES = """\
  transfer-metrics select --model zoo:resnet-cifar10 --task sklearn:digits --by logme
  transfer-metrics select --store features/ --by linear_probe --mode forward --max-dim 512
  transfer-metrics select --store features/ --features group_lasso --keep 0.1 --out chosen.json
"""
_CRITERIA = ("group_lasso", "fisher", "transrate", "cv")


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    help = "choose layers, or feature maps of layers, of one model"
    parser = add_verb(verbs, "select", help, _EXAMPLES, _run)
    add_options(parser.add_mutually_exclusive_group(required=True), "model", "store")
    add_options(parser, "task")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--by", metavar="METRIC", help="choose whole layers by a metric")
    what.add_argument("--features", choices=_CRITERIA, help="choose feature maps of all layers")
    parser.add_argument(
        "--mode",
        choices=("best", "forward", "drop_last"),
        help="with --by: the best layers, a set grown layer by layer, or how many of the last "
        "blocks to drop (default best)",
    )
    parser.add_argument("--k", type=positive, metavar="N", help="with --by: the most layers")
    parser.add_argument("--max-dim", type=positive, metavar="N", help="with --by: most columns")
    parser.add_argument(
        "--keep", type=share, metavar="F", help="with --features: share of the columns to keep"
    )
    parser.add_argument("--out", metavar="FILE", help="write layers and columns as JSON")
    told = "blocks, *, last, or names and patterns, comma-separated (default blocks)"
    add_options(parser, "layers", help=told)
    add_options(parser, "kind", "examples", "seed")
    add_extraction(parser)
    add_output(parser)


def _run(args: argparse.Namespace) -> int:
    """Choose, print what was chosen, and write it where asked."""
    _check(args)
    if args.out:
        check_place(args.out, task=args.task, own=(b"transfer_metrics selection ",))
    store = _store(args)
    selection, records = (_layers if args.by else _features)(args, store)
    if args.out:
        selection.save(args.out)
    print_table(records, args, _text(selection, records))
    status = say_failures(records, "{layer}")
    if args.out:
        tell(args, f"wrote {args.out}")
        suggest(args, "train", "--features", args.out, "--out", "head")
    else:
        tell(args, "next: the same with --out chosen.json, for `train --features chosen.json`")
    return status


def _check(args: argparse.Namespace) -> None:
    from transfer_metrics.errors import InvalidInputError

    if bool(args.model) != bool(args.task):
        raise InvalidInputError(
            "--model needs --task" if args.model else "--store has its task; leave --task out"
        )
    if args.features and (args.mode or args.k or args.max_dim):
        raise InvalidInputError("--mode, --k and --max-dim choose whole layers; use them with --by")
    if args.keep is not None and (args.by or args.features == "cv"):
        raise InvalidInputError(
            "--keep goes with --features group_lasso, fisher or transrate; "
            "--by has --k and --max-dim, and cv decides itself"
        )


def _store(args: argparse.Namespace) -> FeatureStore:
    from transfer_metrics.features.extract import extract
    from transfer_metrics.features.store import FeatureStore
    from transfer_metrics.sources.models.load_model import load_model

    if args.store:
        refuse_examples(args)
        check_names(args)
        return FeatureStore.open(args.store)
    task = loaded(args)
    return extract(load_model(args.model), task, layers=args.layers, **extraction(args))


def _selection(store: FeatureStore, *chosen: Any) -> Selection:
    """What was chosen of a store: columns, whether at unit length, by what, and its score."""
    from transfer_metrics.selection.base import Selection
    from transfer_metrics.sources.specs import named_spec

    columns, unit, by, score = chosen
    known = {"model": store.model, "task": store.task, "pool": store.manifest["pool"]}
    known["spec"] = named_spec(store.model, store.manifest.get("spec"))
    return Selection.of(store, columns, unit, by, score=score, **known)


def _layers(
    args: argparse.Namespace, store: FeatureStore
) -> tuple[Selection, list[dict[str, Any]]]:
    """Choose whole layers; one record per layer or set that was tried."""
    from transfer_metrics.selection.layer_selector import LayerSelector

    mode = args.mode or "best"
    selector = LayerSelector(
        args.by, mode=mode, k=args.k, max_dim=args.max_dim, progress=not args.quiet
    ).fit(store)
    selection = _selection(
        store, selector.columns_, mode == "forward", selector.metric_, selector.score_
    )
    chosen = ["+".join(selector.layers_)] if mode == "forward" else selector.layers_
    fields = ("model", "task", "layer", "dim", "metric", "options", "value", "seconds", "error")
    records = [
        {**{field: record[field] for field in fields}, "chosen": record["layer"] in chosen}
        for record in (r.as_dict() for r in selector.scores_ if r.label == selector.metric_)
    ]
    return selection, records


def _features(
    args: argparse.Namespace, store: FeatureStore
) -> tuple[Selection, list[dict[str, Any]]]:
    """Choose feature maps; one record per layer."""
    selector: Any
    if args.features == "group_lasso":
        from transfer_metrics.selection.group_lasso import GroupLassoSelector

        selector, kept = GroupLassoSelector(progress=not args.quiet), {"keep": args.keep}
    else:
        from transfer_metrics.selection.feature_maps import FeatureMapSelector

        selector, kept = FeatureMapSelector(args.features), {"shares": (args.keep,)}
    if args.keep is not None:
        selector.set_params(**kept)
    objective = getattr(selector.fit(store), "objective_", math.nan)
    score = None if math.isnan(objective) else objective
    # Group lasso takes columns as they are; the other criteria judge them at unit length.
    is_unit = args.features != "group_lasso"
    selection = _selection(store, selector.columns_, is_unit, args.features, score)
    records = []
    for layer in store.layers:
        record = {"model": store.model, "task": store.task, "layer": layer.name, "dim": layer.dim}
        count = selection.counts.get(layer.name, 0)
        records.append({**record, "columns": count, "share": count / layer.dim})
    return selection, records


def _text(selection: Selection, records: list[dict[str, Any]]) -> str:
    import pandas as pd

    frame = pd.DataFrame(records)
    shown = [c for c in ("layer", "dim", "columns", "share", "value", "chosen") if c in frame]
    frame = frame[shown].rename(columns={"value": selection.chosen_by})
    if "chosen" in frame:
        frame["chosen"] = frame["chosen"].map({True: "*", False: ""})
    kept = ", ".join(f"{name} ({count})" for name, count in selection.counts.items())
    score = "" if selection.score is None else f", score {selection.score:.4g}"
    head = f"{kept}: {sum(selection.counts.values())} columns by {selection.chosen_by}{score}"
    return f"{head}\n\n{frame.to_string(index=False, float_format='{:.4g}'.format)}"
