"""The page docs/laws-models.md: what changes nothing about the features and scores of models.

``pytest tests/test_metamorphic.py --slow --write-docs`` writes it.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.law_rows import CASES, ENGINE
from tests.laws_of_models import DIGITS, LAWS, ROUNDING, SCORES
from tests.model_families import Case


def page(rows: Callable[[Case], str]) -> str:
    """The whole page.

    Args:
        rows: the line of a case.
    """
    titles = ["hub", "model", *LAWS, ENGINE]
    header = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return TEXT.format(
        table="\n".join([*header, *map(rows, CASES)]),
        rounding=f"{ROUNDING:g}",
        digits=f"{DIGITS:g}",
        scores=f"{SCORES:g}",
    )


TEXT = """\
# What must not change features and scores

Written by the tests: `pytest tests/test_metamorphic.py --slow --write-docs`.

Every model of [models that were tried](models.md), and some plain modules that read arrays of
numbers, were read again in ways that must not matter. Each cell says that all features and scores
stay the same, or how the toolkit refuses and on which kind of task; there is nothing else.

| law | what is compared with batches of seven |
|---|---|
| batch of 1, batch of 64 | other sizes of batches |
| order | the examples in another order |
| 2 loaders | two processes that load and prepare examples (`num_workers=2`) |
| float64 | the network in float64, its classifier found anew |
| wrapped | the network inside a module that only calls it, its classifier found anew |
| reloaded | its weights saved, by `save_pretrained` or as a file, and loaded into a fresh network |
| bare forward | the plain network with hooks written in the test, one example at a time, unpadded |
| 2 workers | `rank_models` by two worker processes, in shards of five examples, and by one |

The bare forward shares no code with the toolkit but the preparation of one example; source logits
are compared with what the network returns.

**Tasks.** Images of five sizes in three classes, and arrays with targets of a regression; texts
from a dot to more than small models read, pairs of texts with targets, and words of sentences of
which some have to be cut; sounds of four lengths in classes, and of three with targets; arrays in
classes and with targets. With two workers the first of them.

**Same** means: the same layers in the same order, of the same kinds, axes and widths; the same
classifier; no feature of any layer, and no source logit, that differs by more than {rounding}
standard deviations of its layer plus {digits} of its largest value, which is what rounding in
float32 comes to in deep networks; and `knn`, `logme`, `transrate`, `h_score`, `ridge_probe`, `leep`
and `nce` of the last layer to {scores} (of numbers above one, relative). Networks of random weights
have noise added where they begin as ones and zeros, so that no part of them does nothing.

{table}
"""
