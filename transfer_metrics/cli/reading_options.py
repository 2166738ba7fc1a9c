"""How a task is read, as verbs that take one offer it: what its labels are, a balanced sample."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from transfer_metrics.cli.options import positive, tell

if TYPE_CHECKING:
    from transfer_metrics.sources.tasks.task import Task

KINDS = ("classification", "regression")


def add_kind(parser: argparse.ArgumentParser, kinds: tuple[str, ...] = KINDS) -> None:
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


def sampled(args: argparse.Namespace) -> str:
    """The task with the options that ``add_examples`` stands for, as its name.

    Raises:
        InvalidInputError: another split than ``train`` is to be used.
    """
    from transfer_metrics.errors import InvalidInputError
    from transfer_metrics.sources.specs import with_options

    task = with_kind(args.task, args.kind)
    if args.examples is None:
        return task
    split = getattr(args, "split", "train")
    if split != "train":
        raise InvalidInputError(
            f"--examples draws from the split train, but --split {split} is used; leave one out"
        )
    return with_options(task, examples=args.examples, seed=args.seed or 0)


def loaded(args: argparse.Namespace) -> Task:
    """The task with its options, after one line on stderr that says how it was understood.

    Raises:
        InvalidInputError: as for ``sampled``, or it cannot be used.
    """
    from transfer_metrics.sources.tasks.load_task import load_task

    return told(load_task(sampled(args)), args)


def told(task: Task, args: argparse.Namespace) -> Task:
    """A task, after one line on stderr that says how it was understood."""
    tell(args, task.summary)
    return task


def refuse_examples(args: argparse.Namespace) -> None:
    """Refuse ``--examples`` and ``--kind`` where features are there already.

    Raises:
        InvalidInputError: it is given.
    """
    from transfer_metrics.errors import InvalidInputError

    if args.examples is not None:
        raise InvalidInputError(
            "--store has its examples already; leave --examples out, or extract fewer"
        )
    if args.kind is not None:
        raise InvalidInputError(
            "--store knows what its labels are; leave --kind out, or extract with it"
        )


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)
