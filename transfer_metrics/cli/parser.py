"""The command line's parser: errors of one sentence, options from a file, completion in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from transfer_metrics.errors import InvalidInputError, UnknownNameError, meant, reason
from transfer_metrics.untrusted import read_text, visible

# What concerns the terminal and not the result, and what argparse keeps for itself.
_NOT_KEPT = ("config", "run", "verb", "help", "quiet", "json", "csv", "dry_run", "debug", "began")
# Of a file, and of the values of one option.
_MOST_BYTES, _MOST_PARTS = 1 << 20, 10_000
_MOST_THREADS = 1024


class Parser(argparse.ArgumentParser):
    """A parser that raises what is wrong with its arguments, where argparse prints and exits.

    >>> Parser(prog="count").parse_args(["--all"])
    Traceback (most recent call last):
    transfer_metrics.errors.InvalidInputError: `count` has no option --all; known: --help
    """

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """See ``argparse.ArgumentParser``; what is not known is told with what the verb has."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            _refuse(parser_of(self, found), rest)
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """See ``argparse.ArgumentParser``; what may be meant is asked."""
        known = [] if action.choices is None else [str(one) for one in action.choices]
        if known and str(value) not in known and (hint := meant(str(value), known)):
            raise argparse.ArgumentError(action, f"invalid choice: {visible(str(value))!r}; {hint}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        """See ``argparse.ArgumentParser``."""
        raise InvalidInputError(f"{message}; see `{self.prog} --help`")


def parser_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.ArgumentParser:
    """The parser of the verb that was given, and of the verb of that if it has such."""
    verb = _verbs(parser).get(getattr(args, "verb", ""), parser)
    return _verbs(verb).get(getattr(args, "which", ""), verb)


def _refuse(parser: argparse.ArgumentParser, rest: Sequence[str]) -> NoReturn:
    """Raise for the first of the arguments that a verb does not know."""
    actions = [a for a in parser._actions if a.help != argparse.SUPPRESS]
    plain = [str(a.metavar or a.dest) for a in actions if not a.option_strings]
    name = rest[0].partition("=")[0]
    if not name.startswith("-"):
        raise InvalidInputError(
            f"{visible(rest[0])!r} is one argument too many for `{parser.prog}`; see "
            f"`{parser.prog} --help`"
        )
    known = [s for a in actions for s in a.option_strings if s.startswith("--")]
    hint = meant(name, known) or f"known: {', '.join(sorted(known))}"
    own = f"; {' and '.join(plain)} stand without an option" if plain else ""
    raise InvalidInputError(f"`{parser.prog}` has no option {visible(name)}; {hint}{own}")


def number(
    kind: Callable[[str], Any], accepted: Callable[[Any], bool], wanted: str
) -> Callable[[str], Any]:
    """What reads a number of an option, and refuses what is no such ``wanted`` one.

    >>> number(int, lambda n: n > 1, "whole number from 2 on")("3")
    3
    """

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accepted(value):
            raise argparse.ArgumentTypeError(f"{text!r} is no {wanted}")
        return value

    return read


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add ``--quiet``, ``--debug`` and ``--threads``, before or after the verb."""
    told = f"whole number from 1 to {_MOST_THREADS}"
    # A default here would undo what was said before the verb.
    flag: dict[str, Any] = {"action": "store_true", "default": argparse.SUPPRESS}
    parser.add_argument("--quiet", **flag, help="only errors and warnings on stderr")
    parser.add_argument("--debug", **flag, help="show the traceback of an error")
    parser.add_argument(
        "--threads",
        type=number(int, lambda n: 1 <= n <= _MOST_THREADS, told),
        default=argparse.SUPPRESS,
        metavar="N",
        help="threads of this process (default: as many as pay, one for small products)",
    )


def add_verb(verbs: Any, name: str, help: str, examples: str, run: Any) -> Parser:
    """A verb with its one-line help and worked examples."""
    parser: Parser = verbs.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add_common(parser)
    return parser


def with_config(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The arguments as given, verb first, with those of a ``--config`` file before the options."""
    finder = Parser(prog=parser.prog, add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    path = finder.parse_known_args(list(argv))[0].config
    verbs = _verbs(parser)
    place = next((i for i, part in enumerate(argv) if part in verbs), None)
    if place is None:
        return list(argv)
    verb, rest = verbs[argv[place]], argv[place + 1 :]
    _refuse_repeated(rest, verb)
    tokens = [] if path is None else _tokens(_read_config(path), verb, path)
    return [*argv[: place + 1], *tokens, *rest]


def _refuse_repeated(argv: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Refuse an option that is given twice, of which argparse would take the last in silence."""
    inner = next((_verbs(parser)[part] for part in argv if part in _verbs(parser)), parser)
    known = inner._option_string_actions
    given: set[argparse.Action] = set()
    for part in argv[: argv.index("--")] if "--" in argv else argv:
        name = part.partition("=")[0]
        meant_by = [name] if name in known else [s for s in known if s.startswith(name)]
        if not name.startswith("--") or len(meant_by) != 1:
            continue
        action = known[meant_by[0]]
        if action in given and isinstance(action, argparse._StoreAction):
            several = "comma" in (action.help or "")
            raise InvalidInputError(
                f"{meant_by[0]} is given twice, and only one can count; give it once"
                f"{', and several values with commas between' if several else ''}"
            )
        given.add(action)


def _read_config(path: str) -> dict[str, Any]:
    import yaml

    try:
        text = read_text(path, _MOST_BYTES)
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"cannot read {path} ({reason(error)}); give a YAML file of options, such as a run.yaml"
        ) from error
    try:
        options = yaml.safe_load(text)
        _refuse_twice(yaml.compose(text, yaml.SafeLoader), path)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError) as error:
        told = " ".join(str(error).split())[:500] or type(error).__name__
        raise InvalidInputError(
            f"{path} is no YAML: {told}; write lines such as `models: zoo:*`"
        ) from error
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise InvalidInputError(f"{path} must map options to values, such as `models: zoo:*`")
    for name, value in options.items():
        # Lists in lists, which aliases make of any size, mean nothing here.
        parts = value if isinstance(value, list) else [value]
        if len(parts) > _MOST_PARTS or any(isinstance(p, (list, dict, set, tuple)) for p in parts):
            raise InvalidInputError(
                f"{visible(name)} in {path} must be a value or a list of values"
            )
    return options


def _refuse_twice(node: Any, path: str) -> None:
    """Refuse a file that has an option twice, of which YAML would take the last in silence."""
    names = (
        [str(key.value).replace("-", "_") for key, _ in node.value]
        if node and node.id == "mapping"
        else []
    )
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise InvalidInputError(
            f"{path} has {visible(twice)} twice; keep one, several values as a list"
        )


def write_config(args: argparse.Namespace, path: Path) -> None:
    """Write the options of a run, so that ``--config`` repeats it. Nothing half-written is left."""
    import yaml

    import transfer_metrics
    from transfer_metrics.files import written

    options = {
        name.replace("_", "-"): value
        for name, value in vars(args).items()
        if name not in _NOT_KEPT and value is not None and value is not False
    }
    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    about = f"# transfer-metrics {args.verb} --config {path.name}\n"
    written(path, f"{about}# version {transfer_metrics.__version__}\n{text}")


def _tokens(options: Mapping[str, Any], parser: argparse.ArgumentParser, path: str) -> list[str]:
    actions = {
        string.lstrip("-"): action
        for action in parser._actions
        for string in action.option_strings
        if string.startswith("--") and action.dest not in ("config", "help", "debug")
    }
    tokens = []
    for given, value in options.items():
        name = given.replace("_", "-")
        if name not in actions:
            raise UnknownNameError.of(f"option in {path}", given, actions)
        flag = actions[name].nargs == 0
        if flag and not isinstance(value, bool):
            raise InvalidInputError(f"{given} in {path} is on or off: true or false, not {value!r}")
        if value is None or value is False:
            continue
        if flag:
            tokens.append(f"--{name}")
        else:
            items = value if isinstance(value, list) else [value]
            tokens.append(f"--{name}={','.join(map(str, items))}")
    return tokens


def _verbs(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}
