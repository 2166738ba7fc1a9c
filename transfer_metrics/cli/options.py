"""Options that several verbs share: of the forward pass, of layers, of how a task is read."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer_metrics.cli.console import tell
from transfer_metrics.cli.parser import add_config
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.syntax import seconds_of, split_list

if TYPE_CHECKING:
    from transfer_metrics.sources.tasks.task import Task

_KINDS = ("classification", "regression", "multilabel")


def add_extraction(parser: argparse.ArgumentParser) -> None:
    """Options of the forward pass, and of a file to take options from."""
    add_config(parser)
    group = parser.add_argument_group("forward pass")
    group.add_argument("--pool", default="avg", help="pooling (default avg; see `list poolings`)")
    group.add_argument("--split", default="train", help="split of the task (default train)")
    group.add_argument("--batch-size", type=positive, default=64, metavar="N")
    group.add_argument("--num-workers", type=count, default=0, metavar="N", help="loader processes")
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
    add_device(group)


def add_device(parser: Any) -> None:
    """Add ``--device``."""
    help = "cpu, cuda, cuda:1 … (default: the model's own)"
    parser.add_argument("--device", type=_device, help=help)


def extraction(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``extract`` that ``add_extraction`` stands for."""
    return {
        "pool": args.pool,
        "split": args.split,
        "batch_size": args.batch_size,
        "num_workers": args.num_workers,
        "device": args.device,
        "amp": args.amp,
        "as_is": args.as_is,
        "dtype": args.dtype,
        "allow_random": args.allow_random,
        "progress": not args.quiet,
    }


def add_layers(parser: argparse.ArgumentParser, default: str, choices: str) -> None:
    """Choice of layers: one name, or several with commas between."""
    parser.add_argument(
        "--layers",
        default=default,
        type=layer_names,
        help=f"{choices}, or names and patterns, comma-separated (default {default})",
    )


def add_intervals(parser: argparse.ArgumentParser, of: str = "the metric that ranks") -> None:
    """Add ``--intervals``, which are ``of`` one metric or of all unless more are asked for."""
    parser.add_argument(
        "--intervals",
        nargs="?",
        const="jackknife",
        choices=("jackknife", "all", "bootstrap"),
        help=f"95 %% intervals of {of}, by a jackknife over blocks of examples; all: of every "
        f"metric; bootstrap: of every metric, by half-samples where there is no jackknife",
    )


def add_time(parser: argparse.ArgumentParser) -> None:
    """Add ``--time``."""
    parser.add_argument(
        "--time",
        type=_time,
        metavar="TIME",
        help="the most it should take, such as 90s, 30m, 2h; what is left out is said",
    )


def add_confidence(parser: argparse.ArgumentParser) -> None:
    """Add ``--confidence``."""
    parser.add_argument(
        "--confidence",
        type=_confidence,
        default=0.9,
        metavar="P",
        help="with which the shortlist holds the best model (default 0.9)",
    )


def add_chances(parser: argparse.ArgumentParser) -> None:
    """Add ``--confidence``, ``--evidence`` and ``--prior``."""
    add_confidence(parser)
    parser.add_argument(
        "--evidence",
        metavar="FILES",
        help="how far to trust scores, by evidence of your own: what `benchmark run` wrote, and "
        "with a comma between the scores that `benchmark build` wrote",
    )
    parser.add_argument(
        "--prior",
        metavar="FILE",
        help="CSV of what the models reached on earlier tasks (models in rows, tasks in columns), "
        "to rank by together with the scores",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Choice of what is printed."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help="print the long table as JSON")
    group.add_argument("--csv", action="store_true", help="print the long table as CSV")


def add_cache(parser: argparse.ArgumentParser, when: str = "") -> None:
    """Add ``--cache``."""
    parser.add_argument(
        "--cache",
        choices=("only-missing", "always", "never", "only-cache"),
        default="only-missing",
        help=f"{when}what to take from earlier runs (default only-missing)",
    )


def add_plot_format(parser: argparse.ArgumentParser) -> None:
    """Add ``--plot-format``."""
    parser.add_argument(
        "--plot-format", choices=("png", "svg", "pdf"), default="png", help="default png"
    )


def add_kind(parser: argparse.ArgumentParser, kinds: tuple[str, ...] = _KINDS) -> None:
    """Add ``--kind``."""
    parser.add_argument(
        "--kind", choices=kinds, help="what the labels are, where they do not tell (docs/labels.md)"
    )


def with_kind(task: str, kind: str | None) -> str:
    """The task with what ``add_kind`` stands for, as its name.

    >>> with_kind("csv:a.csv", "regression"), with_kind("csv:a.csv", None)
    ('csv:a.csv?kind=regression', 'csv:a.csv')
    """
    from transfer_metrics.sources.specs import with_options

    return task if kind is None else with_options(task, kind=kind)


def add_examples(parser: argparse.ArgumentParser, *, seed: bool = True) -> None:
    """Add ``--kind`` and ``--examples``, and ``--seed`` where the verb has none of its own."""
    add_kind(parser)
    parser.add_argument(
        "--examples",
        type=positive,
        metavar="N",
        help="use so many training examples, drawn at random, as many of every class as there are",
    )
    if seed:
        parser.add_argument(
            "--seed", type=_seed, metavar="S", help="of the choice of examples (default 0)"
        )


def loaded(args: argparse.Namespace) -> Task:
    """The task with what ``add_examples`` stands for, after one line on how it was understood."""
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
    return told(load_task(task), args)


def check_names(args: argparse.Namespace) -> None:
    """Refuse, before any data are read, names that no model, metric, pooling or engine has."""
    from transfer_metrics.features.pooling import resolve_pool
    from transfer_metrics.ranking.engines import ENGINES
    from transfer_metrics.ranking.metric_choice import check_metrics
    from transfer_metrics.sources.models.load_model import check_model

    given = {name: value for name, value in vars(args).items() if value is not None}
    check_model(given.get("model"))
    for name in ("metrics", "by"):
        check_metrics(given.get(name, ()))
    resolve_pool(given.get("pool", "avg"))
    ENGINES[given.get("engine", "serial").partition(":")[0]]


def task_options(args: argparse.Namespace) -> list[str]:
    """What ``add_examples`` and ``--task`` were given, for the next command."""
    given = {"task": args.task, "kind": args.kind, "examples": args.examples}
    return [str(part) for name, v in given.items() if v is not None for part in (f"--{name}", v)]


def told(task: Task, args: argparse.Namespace) -> Task:
    """A task, after one line on stderr that says how it was understood."""
    tell(args, task.summary)
    return task


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


def check_place(path: str | os.PathLike[str], folder: bool = False) -> None:
    """Refuse before the work, not after it, a file or folder that cannot be written."""
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


def write_page(args: argparse.Namespace, page: str) -> None:
    """Write ``--out``, whole or not at all, and say so."""
    from transfer_metrics.files import replacing

    with replacing(args.out) as temporary:
        temporary.write_text(page, "utf-8")
    tell(args, f"wrote {args.out}")


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


def layer_names(text: str) -> str | list[str]:
    """One choice of layers, or a list of names."""
    parts = split_list(text)
    if not parts:
        raise argparse.ArgumentTypeError(f"{text!r} names no layer")
    return parts[0] if len(parts) == 1 else parts


def positive(text: str) -> int:
    """A whole number above zero."""
    value = count(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be at least 1")
    return value


def count(text: str) -> int:
    """A whole number from zero, such as a seed."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} must not be negative")
    return value


def _time(text: str) -> str:
    try:
        seconds_of(text)
    except InvalidInputError as error:  # argparse would hide what it says
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def share(text: str) -> float:
    """A share of a whole: above zero, one at most."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share in (0, 1], such as 0.3")
    return value


def _confidence(text: str) -> float:
    value = share(text)
    if value == 1:
        raise argparse.ArgumentTypeError("only all models hold the best with certainty; try 0.99")
    return value
