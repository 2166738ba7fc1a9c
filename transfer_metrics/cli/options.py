"""Options that several verbs share: each is said once, with what it takes."""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer_metrics.cli.console import tell
from transfer_metrics.cli.parser import number
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.syntax import seconds_of, split_list

if TYPE_CHECKING:
    from transfer_metrics.sources.tasks.task import Task


positive = number(int, lambda n: n > 0, "whole number from 1 on")
count = number(int, lambda n: n >= 0, "whole number from 0 on")
share = number(float, lambda x: 0 < x <= 1, "share in (0, 1], such as 0.3")
_confidence = number(
    float, lambda x: 0 < x < 1, "number between 0 and 1; certain are only all models, so try 0.99"
)


def _time(text: str) -> str:
    try:
        seconds_of(text)
    except InvalidInputError as error:  # argparse would hide what it says
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def seconds_left(args: argparse.Namespace) -> float | None:
    """What is left of ``--time`` since the command began; a moment where it is over."""
    if args.time is None:
        return None
    return max(seconds_of(args.time) - (time.monotonic() - args.began), 0.01)


def _device(text: str) -> str:
    import torch

    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be used here ({reason}); give cpu, cuda or cuda:1"
        ) from None
    return text


def _layer_names(text: str) -> str | list[str]:
    """One choice of layers, or a list of names."""
    parts = split_list(text)
    if not parts:
        raise argparse.ArgumentTypeError(f"{text!r} names no layer")
    return parts[0] if len(parts) == 1 else parts


_OPTIONS: dict[str, dict[str, Any]] = {
    "models": {"required": True, "help": "names, patterns, @FILE; with commas"},
    "model": {"help": "a model; needs --task"},
    "store": {"help": "features written by `extract`"},
    "task": {"help": "task: a folder such as photos/, a file, sklearn:digits …"},
    "metrics": {"help": "metrics, comma-separated; the first one ranks"},
    "layers": {
        "type": _layer_names, "default": "blocks",
        "help": "blocks, activations, *, last, or names and patterns, comma-separated (default "
        "blocks)",
    },
    "intervals": {
        "nargs": "?", "const": "jackknife", "choices": ("jackknife", "all", "bootstrap"),
        "help": "95 %% intervals of the metric that ranks, by a jackknife over blocks of examples; "
        "all: of every metric; bootstrap: of every metric, by half-samples where there is no "
        "jackknife",
    },
    "confidence": {
        "type": _confidence, "default": 0.9, "metavar": "P",
        "help": "with which the shortlist holds the best model (default 0.9)",
    },
    "evidence": {
        "metavar": "FILES",
        "help": "how far to trust scores, by evidence of your own: what `benchmark run` wrote, and "
        "with a comma between the scores that `benchmark build` wrote",
    },
    "prior": {
        "metavar": "FILE",
        "help": "CSV of what the models reached on earlier tasks (models in rows, tasks in "
        "columns), to rank by together with the scores",
    },
    "kind": {
        "choices": ("classification", "regression", "multilabel"),
        "help": "what the labels are, where they do not tell (docs/labels.md)",
    },
    "examples": {
        "type": positive, "metavar": "N",
        "help": "use so many training examples, drawn at random, as many of every class as there "
        "are",
    },
    "seed": {"type": count, "metavar": "S", "help": "of the choice of examples (default 0)"},
    "time": {
        "type": _time, "metavar": "TIME",
        "help": "the most it should take, such as 90s, 30m, 2h; what is left out is said",
    },
    "workers": {"type": positive, "metavar": "N", "help": "processes of that"},
    "dry-run": {
        "action": "store_true", "help": "say what it would take; compute and write nothing",
    },
    "batch-size": {
        "type": positive, "metavar": "N",
        "help": "examples at once (default 64, on a CPU fewer of large inputs)",
    },
    "num-workers": {"type": count, "default": 0, "metavar": "N", "help": "loader processes"},
    "device": {"type": _device, "help": "cpu, cuda, cuda:1 … (default: the model's own)"},
    "config": {
        "metavar": "FILE",
        "help": "YAML file of options, such as a run.yaml that a run wrote",
    },
    "cache": {
        "choices": ("only-missing", "always", "never", "only-cache"), "default": "only-missing",
        "help": "what to take from earlier runs (default only-missing)",
    },
    "plot-format": {
        "choices": ("png", "svg", "pdf"), "default": "png", "help": "default png",
    },
}  # fmt: skip


def add_options(parser: Any, *names: str, **own: Any) -> None:
    """Add options by their names, in this order; ``own`` is what is not as for other verbs."""
    for name in names:
        parser.add_argument(f"--{name}", **{**_OPTIONS[name], **own})


def add_extraction(parser: argparse.ArgumentParser) -> None:
    """Options of the forward pass, and of a file to take options from."""
    add_options(parser, "config")
    group = parser.add_argument_group("forward pass")
    group.add_argument("--pool", default="avg", help="pooling (default avg; see `list poolings`)")
    group.add_argument("--split", default="train", help="split of the task (default train)")
    add_options(group, "batch-size", "num-workers")
    group.add_argument("--amp", action="store_true", help="mixed precision")
    group.add_argument(
        "--as-is",
        action="store_true",
        help="run networks as they are, without what makes convolutions faster",
    )
    group.add_argument(
        "--allow-random",
        action="store_true",
        help="take one draw of the features of networks that draw random numbers",
    )
    group.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    add_options(group, "device")


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Some options as keyword arguments of the same names."""
    return {name: getattr(args, name) for name in names}


def extraction(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``extract`` that ``add_extraction`` stands for."""
    names = ("pool", "split", "batch_size", "num_workers", "device", "amp", "as_is", "dtype")
    return {**given(args, *names, "allow_random"), "progress": not args.quiet}


def ranking(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of a ranking by ``--metrics``, ``--layers`` and ``--intervals``."""
    from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS

    return {
        "metrics": args.metrics or DEFAULT_METRICS,
        "layers": args.layers,
        "intervals": args.intervals or False,
        **extraction(args),
    }


def add_output(parser: argparse.ArgumentParser) -> None:
    """Choice of what is printed."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help="print the long table as JSON")
    group.add_argument("--csv", action="store_true", help="print the long table as CSV")


def with_kind(task: str, kind: str | None) -> str:
    """The task with ``--kind``, as its name."""
    from transfer_metrics.sources.specs import with_options

    return task if kind is None else with_options(task, kind=kind)


def loaded(args: argparse.Namespace) -> Task:
    """The task with ``--kind`` and ``--examples``, after one line on how it was understood."""
    from transfer_metrics.sources.specs import with_options
    from transfer_metrics.sources.tasks.load_task import load_task

    check_names(args)
    task = with_kind(args.task, args.kind)
    if args.examples is not None:
        split = getattr(args, "split", "train")
        if split != "train":
            raise InvalidInputError(
                f"--examples draws from the split train, but --split {split} is used; leave one out"
            )
        task = with_options(task, examples=args.examples, seed=args.seed or 0)
    found = load_task(task)
    tell(args, found.summary)
    return found


def check_names(args: argparse.Namespace) -> None:
    """Refuse, before any data are read, names that no model, metric, pooling or engine has."""
    from transfer_metrics.features.pooling import resolve_pool
    from transfer_metrics.ranking.engines import ENGINES
    from transfer_metrics.ranking.metric_choice import check_metrics
    from transfer_metrics.sources.models.load_model import check_model

    known = {name: value for name, value in vars(args).items() if value is not None}
    check_model(known.get("model"))
    for name in ("metrics", "by"):
        check_metrics(known.get(name, ()))
    resolve_pool(known.get("pool", "avg"))
    if known.get("engine", "auto") != "auto":
        ENGINES[known["engine"].partition(":")[0]]


def task_options(args: argparse.Namespace) -> list[str]:
    """``--task``, ``--kind`` and ``--examples`` as they were given, for the next command."""
    asked = given(args, "task", "kind", "examples").items()
    return [str(part) for name, v in asked if v is not None for part in (f"--{name}", v)]


def refuse_examples(args: argparse.Namespace) -> None:
    """Refuse ``--examples`` and ``--kind`` where features are there already."""
    if args.examples is not None:
        raise InvalidInputError(
            "--store has its examples already; leave --examples out, or extract fewer"
        )
    if args.kind is not None:
        raise InvalidInputError(
            "--store knows what its labels are; leave --kind out, or extract with it"
        )


def check_place(
    path: str | os.PathLike[str],
    folder: bool = False,
    task: str | None = None,
    own: Iterable[str] | Iterable[bytes] = (),
) -> None:
    """Refuse before the work, not after it, a file or folder that cannot be written.

    Nor is one among the examples of the task, a folder of other things than those that are its
    ``own``, where these are told, a file in which none of its ``own`` bytes are, or else an image
    or a sound that exists.
    """
    from transfer_metrics.files import check_file, check_folder
    from transfer_metrics.sources.specs import refuse_among_examples
    from transfer_metrics.sources.tasks.paths import FILE_SUFFIXES

    if str(path) == "-":
        raise InvalidInputError(
            f"cannot write -: a {'folder' if folder else 'file'} is written, and --json or --csv "
            f"print to stdout; name a place, ./- for one of that name"
        )
    place = Path(path)
    if place.exists() and place.is_dir() != folder:
        what, other = ("a file", "folder") if folder else ("a folder", "file")
        raise InvalidInputError(f"cannot write {path}: it is {what}; name a {other} instead")
    above = next(one for one in (place, *place.absolute().parents) if one.exists())
    if above != place and not above.is_dir():
        raise InvalidInputError(f"cannot write {path}: {above} is a file; choose another folder")
    if not os.access(above, os.W_OK):
        raise InvalidInputError(
            f"cannot write {path}: there is no permission to write {above}; choose another folder"
        )
    refuse_among_examples(path, task)
    is_example = place.suffix.lower() in itertools.chain(*FILE_SUFFIXES.values())
    if place.is_file() and is_example and not own:
        raise InvalidInputError(f"cannot write {path}: it is an example of yours; name a new file")
    if own:
        (check_folder if folder else check_file)(path, own)  # type: ignore[arg-type]


def write_page(args: argparse.Namespace, page: str) -> None:
    """Write ``--out``, whole or not at all, and say so."""
    from transfer_metrics.files import written

    written(args.out, page)
    tell(args, f"wrote {args.out}")
