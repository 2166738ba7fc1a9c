"""The grammar that specifications of models and metrics share; imports nothing heavy."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, Literal  # noqa: F401  the latter for a doctest

from transfer_metrics.errors import InvalidInputError

_OPENING, _CLOSING, _QUOTES = "([{", ")]}", "'\""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def call_options(arguments: str, what: str) -> dict[str, Any]:
    """Options written as in a call: ``"(eps=1e-3, preset=centred)"``.

    Values are Python literals; a bare word is a string, so that shells need no inner quotes.
    ``what`` they belong to is named where they cannot be read.

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


def _all(kind: type) -> Callable[[Any], bool]:
    def are(value: Any) -> bool:
        several = isinstance(value, Iterable) and not isinstance(value, str)
        return several and all(isinstance(one, kind) for one in value)

    return are


_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "int": (lambda v: isinstance(v, Integral) and not isinstance(v, bool), "a whole number"),
    "float": (lambda v: isinstance(v, Real) and not isinstance(v, bool), "a number"),
    "bool": (lambda v: str(v) in ("True", "False"), "True or False"),
    "str": (lambda v: isinstance(v, str), "a text"),
    "Sequence[float]": (_all(Real), "a list of numbers"),
    "Sequence[str]": (_all(str), "a list of texts"),
    "None": (lambda v: v is None, "None"),
}


def check_kinds(function: Callable[..., Any], given: Mapping[str, Any], what: str) -> None:
    """Refuse options that the signature does not have, if it says one of ``_KINDS`` or texts.

    >>> def fit(steps: int = 500, by: Literal["size", "age"] | None = None): ...
    >>> check_kinds(fit, {"steps": "many"}, "head 'mine'")
    Traceback (most recent call last):
    transfer_metrics.errors.InvalidInputError: head 'mine': steps='many'; give a whole number, \
such as steps=500
    >>> check_kinds(fit, {"by": "sise"}, "head 'mine'")
    Traceback (most recent call last):
    transfer_metrics.errors.InvalidInputError: head 'mine': by='sise'; give 'size' or 'age' or \
None, such as by=None
    """
    for name, option in inspect.signature(function).parameters.items():
        kind = option.annotation
        kinds = (kind if isinstance(kind, str) else inspect.formatannotation(kind)).split(" | ")
        known = [_kind_of(kind) for kind in kinds]
        if name not in given or None in known:
            continue
        if not any(kind and kind[0](given[name]) for kind in known):
            wanted = " or ".join(kind[1] for kind in known if kind)
            raise InvalidInputError(
                f"{what}: {name}={given[name]!r:.60}; give {wanted}, such as "
                f"{name}={option.default!r:.60}"
            )


def _kind_of(annotation: str) -> tuple[Callable[[Any], bool], str] | None:
    """What tells values of a kind, and what it is called; also one of the texts of a Literal."""
    _, is_literal, texts = annotation.partition("Literal[")
    if not is_literal:
        return _KINDS.get(annotation)
    choices = ast.literal_eval(f"[{texts}")
    return lambda v: isinstance(v, str) and v in choices, " or ".join(map(repr, choices))


def cut(text: str, mark: str) -> tuple[str, str, str]:
    """``str.partition`` that looks neither inside brackets nor inside quotes.

    A quote that is not closed, or that follows a letter as in a name, is a letter like any other,
    and so is a bracket that is not closed.

    >>> cut("knn(k=1)=x", "=")
    ('knn(k=1)', '=', 'x')
    >>> cut("timm:resnet18='a,b.pth',it's,c", ",")
    ("timm:resnet18='a,b.pth'", ',', "it's,c")
    """
    depth, quote = 0, ""
    last = {letter: text.rfind(letter) for letter in _QUOTES + _CLOSING}
    for position, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES:
            follows_letter = position > 0 and text[position - 1].isalnum()
            quote = letter if last[letter] > position and not follows_letter else ""
        elif letter == mark and depth == 0:
            return text[:position], mark, text[position + 1 :]
        elif letter in _OPENING:
            depth += last[_CLOSING[_OPENING.index(letter)]] > position
        elif letter in _CLOSING:
            depth = max(depth - 1, 0)
    return text, "", ""


def cut_all(text: str, mark: str) -> list[str]:
    """``str.split`` that looks neither inside brackets nor inside quotes.

    >>> cut_all("a(b, c), d", ",")
    ['a(b, c)', ' d']
    """
    parts, found = [], mark
    while found:
        part, found, text = cut(text, mark)
        parts.append(part)
    return parts


def seconds_of(text: float | str) -> float:
    """A time in seconds, from a number of them or text such as ``"30m"``.

    >>> seconds_of("30m"), seconds_of("1.5h"), seconds_of(20)
    (1800.0, 5400.0, 20.0)
    """
    number = str(text).strip()
    unit = _UNITS.get(number[-1:].lower())
    try:
        value = float(number if unit is None else number[:-1]) * (unit or 1.0)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InvalidInputError(f"time {text!r} cannot be read; write 90s, 30m or 2h")
    return value


def split_list(text: str) -> list[str]:
    """Split at commas outside brackets and quotes.

    >>> split_list("zoo:*, timm:resnet18(pretrained=False, seed=1), 'hf:a,b'")
    ['zoo:*', 'timm:resnet18(pretrained=False, seed=1)', 'hf:a,b']
    """
    return [part for part in map(unquoted, cut_all(text, ",")) if part]


def unquoted(text: str) -> str:
    """The text without space around it, and without the quotes where it stands in quotes whole.

    >>> unquoted(" 'a, b.pth' "), unquoted("'a' or 'b'")
    ('a, b.pth', "'a' or 'b'")
    """
    text = text.strip()
    if len(text) > 1 and text[0] in _QUOTES and text.find(text[0], 1) == len(text) - 1:
        return text[1:-1]
    return text


def _literal(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
