"""What a manifest of a feature store must look like, whoever wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MOST_FEATURES = 1 << 31
"""Features of one layer."""

_TEXTS = (
    "model", "model_fingerprint", "task", "kind", "split", "task_fingerprint", "pool", "dtype",
)  # fmt: skip
_MAYBE_TEXTS = ("revision", "head", "amp", "preprocess", "behaviour")


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest with fields of other types, or numbers that do not fit each other.

    Raises:
        KeyError, TypeError, ValueError: says what is wrong.

    >>> check_manifest({"n": -1, "shard_size": 5})
    Traceback (most recent call last):
    ValueError: n is -1
    """
    for name in ("n", "shard_size"):
        _require(_whole(manifest[name], 1), f"{name} is {manifest[name]!r:.60}")
    for name in (*_TEXTS, *_MAYBE_TEXTS, "settings"):
        value = manifest.get(name) if name == "settings" else manifest[name]
        good = isinstance(value, str) or (value is None and name not in _TEXTS)
        _require(good, f"{name} is {value!r:.60}")
    kinds = ("classification", "regression", "multilabel")
    _require(manifest["kind"] in kinds, f"kind {manifest['kind']!r:.60}")
    classes, logits, shards = manifest["classes"], manifest["logits"], manifest["shards"]
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    _require(named, "the names of the classes are no list of names")
    for name in ("notes", "changing"):
        texts = manifest.get(name) or []
        good = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        _require(good, f"the {name} are no list of texts")
    check_layers(manifest["layers"])
    good = logits is None or (isinstance(logits, dict) and _whole(logits.get("dim"), 1))
    _require(good, "the logits have no size")
    _require(isinstance(shards, dict), "the shards are no mapping")
    for index, record in shards.items():
        _require(index.isascii() and index.isdigit() and len(index) < 10, f"shard {index!r:.60}")
        _require(_whole(record["bytes"], 1), f"the size of shard {index}")
        _require(isinstance(record["sha256"], str), f"the hash of shard {index}")
        seconds = record["seconds"]
        _require(isinstance(seconds, (int, float)) and 0 <= seconds < 1e12, f"time of {index}")


def check_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a list of layers with fields of other types, or a name that comes twice.

    Raises:
        KeyError, TypeError, ValueError: says what is wrong.
    """
    _require(isinstance(layers, list), "the layers are no list")
    for layer in layers:
        name = layer["name"]
        _require(
            all(isinstance(layer[k], str) for k in ("name", "kind", "layout")), f"{name!r:.60}"
        )
        whole = [layer[k] for k in ("index", "dim", "bytes", "params")]
        _require(all(_whole(k, 0) for k in (*whole, *layer["shape"])), f"sizes of {name!r:.60}")
        _require(0 < layer["dim"] < _MOST_FEATURES, f"{layer['dim']} features of {name!r:.60}")
        depth = layer["depth"]
        _require(isinstance(depth, (int, float)) and 0 <= depth <= 1, f"depth of {name!r:.60}")
    names = {layer["name"] for layer in layers}
    _require(len(names) == len(layers), "a layer comes twice")


def shapes_of(manifest: Mapping[str, Any], index: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the features of one shard by the name of the layer, (rows, D)."""
    size = manifest["shard_size"]
    rows = min(size, manifest["n"] - index * size)
    return {layer["name"]: (rows, layer["dim"]) for layer in manifest["layers"]}


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 62


def _require(good: bool, what: str) -> None:
    if not good:
        raise ValueError(what)
