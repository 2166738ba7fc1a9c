"""Decoded images that several networks share."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import transfer_metrics as tm
from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.features import pixels as pixels_file
from transfer_metrics.features.pixels import Pixels, trim
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.preprocess import ImagePreprocess
from transfer_metrics.sources.tasks.task import Split, Task

BLOCK, COUNT = 32, 44


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(pixels_file, "_BLOCK", BLOCK)


class Photos(list):
    """Images of all sizes, made anew each time they are asked for."""

    read = 0

    def __init__(self, n=COUNT):
        super().__init__(range(n))

    def __getitem__(self, index):
        if isinstance(index, slice):
            raise TypeError
        type(self).read += 1
        rng = np.random.default_rng(index)
        height, width = rng.integers(9, 40, 2)
        shape = (height, width) if index % 3 == 0 else (height, width, 3)
        return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))

    def __iter__(self):
        return (self[index] for index in range(len(self)))


def model(size=16, seed=0, channels=3, **options):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    how = ImagePreprocess(size, (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.25)[:channels], **options)
    return Model(f"net-{size}-{seed}", net.eval(), how, "image", None, how.shape)


@pytest.fixture
def task():
    Photos.read = 0
    return Task(
        "photos", "classification", "image",
        {"train": Split(Photos(), np.arange(COUNT) % 3)}, classes=("a", "b", "c"),
    )  # fmt: skip


def features(net, task, folder, **options):
    store = tm.extract(net, task, "*", pixels=folder, progress=False, **options)
    return {name: store[name] for name in store.names}


def same(first, second):
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "how", [{}, {"channels": 1}, {"interpolation": "bicubic", "crop_pct": 0.875}, {"size": 7}]
)
def test_features_are_the_same_bits_from_pixels_that_were_kept(task, tmp_path, how):
    plain = features(model(**how), task, None)
    same(plain, features(model(**how), task, tmp_path))
    before = Photos.read
    same(plain, features(model(**how), task, tmp_path))
    assert Photos.read - before <= 24, "only the examples of the proof are read again"
    # Some processors round otherwise in batches of another size.
    small = {"shard_size": 17, "batch_size": 5}
    same(
        features(model(**how), task, None, **small), features(model(**how), task, tmp_path, **small)
    )


def test_an_input_is_what_pillow_and_plain_arithmetic_make_of_an_image():
    how = ImagePreprocess(8, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    image = Photos()[1]
    width, height = image.size
    scale = 8 / min(width, height)
    target = tuple(8 if side == min(image.size) else int(side * scale) for side in image.size)
    resized = image.resize(target, Image.Resampling.BILINEAR)
    left, top = (round((side - 8) / 2) for side in target)
    cut = np.asarray(resized.crop((left, top, left + 8, top + 8)), np.float32) / np.float32(255)
    expected = (cut - np.float32(how.mean)) / np.float32(how.std)
    np.testing.assert_array_equal(how(image).numpy(), expected.transpose(2, 0, 1))


def test_models_of_one_size_decode_each_image_once(task, tmp_path):
    nets = [model(seed=seed) for seed in range(4)] + [model(12)]
    Photos.read = 0
    tm.rank_models(nets, task, "knn", cache_dir=tmp_path, progress=False)
    proof = 24 * len(nets)
    hashed = COUNT
    assert Photos.read <= 2 * COUNT + proof + hashed
    files, size = tm.ranking.cache.ResultCache(tmp_path).size()["pixels"]
    assert (files, size) == (4, COUNT * 3 * (16**2 + 12**2) + 4 * 128)


@pytest.mark.parametrize("stream", [None, False])
@pytest.mark.parametrize(
    "engine", ["serial", pytest.param("processes", marks=pytest.mark.integration)]
)
def test_a_ranking_has_the_scores_that_it_has_without(task, tmp_path, engine, stream, monkeypatch):
    if engine == "processes" and stream is False:
        pytest.skip("the same path as in one process")
    nets = [model(seed=seed) for seed in range(2)]
    options = {"metrics": ["knn", "logme"], "progress": False, "stream": stream}
    found = tm.rank_models(
        nets, task, engine=engine, workers=2, cache_dir=tmp_path / "a", shard_size=64, **options
    )
    monkeypatch.setattr(pixels_file, "_MOST_BYTES", 0)
    plain = tm.rank_models(nets, task, cache_dir=tmp_path / "b", shard_size=64, **options)
    assert not list((tmp_path / "b" / "pixels").glob("*"))
    assert [r["value"] for r in found.records] == [r["value"] for r in plain.records]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "pickle"])
def test_damaged_pixels_are_made_anew(task, tmp_path, damage):
    plain = features(model(), task, tmp_path)
    [path] = tmp_path.glob("*/00000-*.npy")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    array = np.array([{}], object)
    match damage:
        case "flip":
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[:-9])
        case "empty":
            path.write_bytes(b"")
        case "pickle":
            np.save(path, array, allow_pickle=True)
    same(plain, features(model(), task, tmp_path))
    before = Photos.read
    same(plain, features(model(), task, tmp_path))
    assert Photos.read - before <= 24


def test_images_and_arrays_that_are_ready_may_be_mixed_with_pixels_kept(tmp_path):
    ready = [torch.full((3, 16, 16), float(i)).numpy() for i in range(8)]
    arrays = Task("ready", "classification", "image", {"train": Split(ready, np.arange(8) % 2)},
                  classes=("a", "b"))  # fmt: skip
    same(features(model(), arrays, None), features(model(), arrays, tmp_path))
    assert not list(tmp_path.glob("*/*.npy"))


def test_a_full_disk_costs_the_pixels_only(task, tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    plain = features(model(), task, None)
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.warns(TransferMetricsWarning, match="decoded images are not kept") as told:
        same(plain, features(model(), task, tmp_path))
    assert len(told) == 1
    assert not list(tmp_path.rglob("*.npy*"))


def test_what_was_used_longest_ago_goes_first(task, tmp_path):
    for when, size in enumerate((16, 8, 12), 1):
        features(model(size), task, tmp_path)
        [newest] = [p for p in tmp_path.iterdir() if p.stat().st_mtime > 1e9]
        os.utime(newest, (when * 1e3, when * 1e3))
    kept = {path: sum(f.stat().st_size for f in path.iterdir()) for path in tmp_path.iterdir()}
    oldest = min(kept, key=lambda path: path.stat().st_mtime)
    trim(tmp_path, sum(kept.values()) - 1)
    assert set(tmp_path.iterdir()) == set(kept) - {oldest}
    trim(tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(task, tmp_path):
    features(model(), task, tmp_path)
    [folder] = tmp_path.iterdir()
    whole = sorted(folder.iterdir())
    left, written = folder / "00000-a.npy.x.tmp", folder / "00001-b.npy.y.tmp"
    for path, age in ((left, 3600), (written, 1)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    trim(tmp_path)
    assert sorted(folder.iterdir()) == sorted([*whole, written])


def test_what_would_take_more_than_all_may_is_not_kept(task, tmp_path, monkeypatch):
    assert Pixels.of(tmp_path, model(), task["train"]) is not None
    monkeypatch.setattr(pixels_file, "_MOST_BYTES", COUNT * 3 * 16 * 16 - 1)
    assert Pixels.of(tmp_path, model(), task["train"]) is None
    assert Pixels.of(tmp_path, model(12), task["train"]) is not None
