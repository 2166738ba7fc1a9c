"""The grammar that specifications of models and metrics share; imports nothing heavy."""

from __future__ import annotations

import ast
from typing import Any

from transfer_metrics.errors import InvalidInputError

_OPENING, _CLOSING = "([{", ")]}"


def call_options(arguments: str, what: str) -> dict[str, Any]:
    """Options written as in a call: ``"(eps=1e-3, preset=centred)"``.

    Values are Python literals; a bare word is a string, so that shells need no inner quotes.

    Args:
        arguments: the text from the opening parenthesis to the closing one.
        what: what they belong to, for the message.

    Raises:
        InvalidInputError: they cannot be read.

    >>> call_options("(eps=1e-3, preset=centred)", "metric 'transrate'")
    {'eps': 0.001, 'preset': 'centred'}
    """
    try:
        call = ast.parse(f"f{arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("positional values are not possible")
        return {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise InvalidInputError(
            f"{what}: cannot read the options {arguments[:200]!r} ({error}); write "
            f"(name=value, …) with numbers, words, True, False, None or tuples, and quotes "
            f"around anything else"
        ) from error


def cut(text: str, mark: str) -> tuple[str, str, str]:
    """``str.partition`` that does not look inside brackets.

    >>> cut("knn(k=1)=x", "=")
    ('knn(k=1)', '=', 'x')
    """
    depth = 0
    for position, letter in enumerate(text):
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == mark and depth == 0:
            return text[:position], mark, text[position + 1 :]
    return text, "", ""


def split_list(text: str) -> list[str]:
    """Split at commas outside brackets.

    >>> split_list("zoo:*, timm:resnet18(pretrained=False, seed=1)")
    ['zoo:*', 'timm:resnet18(pretrained=False, seed=1)']
    """
    parts = []
    rest, comma = text, ","
    while comma:
        part, comma, rest = cut(rest, ",")
        parts.append(part.strip())
    return [part for part in parts if part]


def _literal(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
