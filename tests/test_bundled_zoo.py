"""The bundled models and tasks, and the scripts that make them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from transfer_metrics.errors import CorruptStoreError, UnknownNameError
from transfer_metrics.sources import zoo
from transfer_metrics.sources.models import networks
from transfer_metrics.sources.preprocess import ImagePreprocess

DATA = Path(__file__).resolve().parents[1] / "data"
FAMILIES = ("cnn", "resnet", "mobilenet", "vit", "mixer")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DATA / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private copy of the bundled files that a test may damage."""
    for part in ("zoo", "tasks"):
        shutil.copytree(DATA / part, tmp_path / part)
    monkeypatch.setattr(zoo, "data_folder", lambda: tmp_path)
    return tmp_path


class TestModels:
    @pytest.mark.parametrize("name", zoo.names())
    def test_loads_and_maps_images_to_source_logits(self, name: str) -> None:
        model, record = zoo.build(name), zoo.record(name)
        assert not model.training
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert sum(p.numel() for p in model.parameters()) == record["params"]
        x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            logits = model(x)
            one = model(x[1:2])
        assert logits.shape == (3, record["num_classes"])
        assert logits.isfinite().all()
        torch.testing.assert_close(one, logits[1:2], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("name", zoo.names())
    def test_record_is_complete_and_agrees_with_the_file(self, name: str) -> None:
        record = zoo.record(name)
        data = (DATA / "zoo" / record["file"]).read_bytes()
        assert record["file"] == f"{name}.safetensors"
        assert record["bytes"] == len(data)
        assert record["sha256"] == hashlib.sha256(data).hexdigest()
        assert record["input_size"] == [3, 32, 32]
        assert record["interpolation"] == "bilinear"
        assert record["crop_pct"] == 1.0
        assert record["classifier"] == "head"
        assert len(record["mean"]) == len(record["std"]) == 3
        architecture, source = name.split("-")
        assert architecture in record["architecture"]["factory"]
        assert record["source"] == source
        assert {"seed", "epochs", "seconds", "torch"} <= set(record["recipe"])
        if source == "random":
            assert record["test_accuracy"] is None
            assert record["recipe"]["epochs"] == 0
        else:
            assert len(record["source_classes"]) == record["num_classes"]
            assert {"batch", "lr", "weight_decay", "augment", "split"} <= set(record["recipe"])
            assert 50 < record["test_accuracy"] <= 100

    def test_preprocessing_and_head_travel_with_the_module(self) -> None:
        name = zoo.names()[0]
        model, record = zoo.build(name), zoo.record(name)
        assert model.pretrained_cfg["mean"] == tuple(record["mean"])
        head = model.get_submodule(model.pretrained_cfg["classifier"])
        assert isinstance(head, torch.nn.Linear)
        assert head.out_features == record["num_classes"]

    def test_the_zoo_is_as_varied_as_promised(self) -> None:
        records = [zoo.record(name) for name in zoo.names()]
        random = [r for r in records if r["source"] == "random"]
        assert len(random) == 1
        assert len(records) - 1 >= 12
        assert {r["architecture"]["factory"].split(":")[1] for r in records} == set(FAMILIES)
        assert len({r["source"] for r in records} - {"random"}) >= 4

    def test_the_zoo_stays_below_eight_megabytes(self) -> None:
        files = list((DATA / "zoo").iterdir())
        assert {f.name for f in files} == {
            "manifest.json",
            *(zoo.record(name)["file"] for name in zoo.names()),
        }
        assert sum(f.stat().st_size for f in files) <= 8_000_000

    def test_weights_are_stored_in_half_precision(self) -> None:
        import safetensors.numpy

        for name in zoo.names():
            state = safetensors.numpy.load_file(DATA / "zoo" / f"{name}.safetensors")
            floating = {v.dtype for v in state.values() if v.dtype.kind == "f"}
            assert floating == {np.dtype("float16")}

    def test_records_are_copies(self) -> None:
        name = zoo.names()[0]
        zoo.record(name)["recipe"]["epochs"] = -1
        assert zoo.record(name)["recipe"]["epochs"] >= 0

    def test_listing_needs_no_torch(self) -> None:
        code = (
            "import sys; from transfer_metrics.sources import zoo; "
            "zoo.record(zoo.names()[0]); zoo.task_path('glyphs'); print('torch' in sys.modules)"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.stdout.strip() == "False", run.stderr


class TestWrongOrDamaged:
    def test_unknown_model_gets_a_suggestion(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'resnet-random'"):
            zoo.build("resnet-randon")

    def test_unknown_task_gets_a_suggestion(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'glyphs'"):
            zoo.task_path("glyph")

    def test_one_changed_bit_is_refused(self, copied: Path) -> None:
        path = copied / "zoo" / "resnet-random.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(CorruptStoreError, match=r"resnet-random\.safetensors: altered"):
            zoo.build("resnet-random")

    def test_a_truncated_task_is_refused(self, copied: Path) -> None:
        path = copied / "tasks" / "glyphs.npz"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(CorruptStoreError, match=r"glyphs\.npz: altered or truncated"):
            zoo.task_path("glyphs")

    def test_a_missing_file_is_refused(self, copied: Path) -> None:
        (copied / "zoo" / "resnet-random.safetensors").unlink()
        with pytest.raises(CorruptStoreError, match="cannot be read; reinstall"):
            zoo.build("resnet-random")

    @pytest.mark.parametrize("text", ["", "{}", "[1]", '{"models": [1]}', '{"models": [{}]}'])
    def test_a_broken_manifest_is_refused(self, copied: Path, text: str) -> None:
        (copied / "zoo" / "manifest.json").write_text(text)
        with pytest.raises(CorruptStoreError, match="list of bundled models cannot be read"):
            zoo.names()

    def test_weights_of_another_architecture_are_refused(self, copied: Path) -> None:
        path = copied / "zoo" / "manifest.json"
        manifest = json.loads(path.read_text())
        for record in manifest["models"]:
            if record["name"] == "resnet-random":
                record["architecture"]["factory"] = "transfer_metrics.sources.models.networks:vit"
        path.write_text(json.dumps(manifest))
        with pytest.raises(CorruptStoreError, match="do not fit the architecture"):
            zoo.build("resnet-random")


class TestNetworks:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_outline_is_the_same_in_every_family(self, family: str) -> None:
        model = getattr(networks, family)(num_classes=7)
        children = dict(model.named_children())
        assert list(children)[:2] == ["stem", "blocks"]
        assert list(children)[-1] == "head"
        assert model.head.out_features == 7
        assert 50_000 < sum(p.numel() for p in model.parameters()) < 600_000

    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_parameter_gets_a_gradient(self, family: str) -> None:
        torch.manual_seed(0)
        model = getattr(networks, family)()
        model(torch.randn(4, 3, 32, 32)).square().sum().backward()
        still = [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0]
        assert still == []

    def test_attention_is_softmax_of_scaled_products(self) -> None:
        torch.manual_seed(0)
        attention = networks.Attention(6, heads=2).double()
        x = torch.randn(1, 5, 6, dtype=torch.float64)
        q, k, v = (attention.qkv.weight @ x[0].T + attention.qkv.bias[:, None]).T.split(6, dim=1)
        parts = [
            torch.softmax(q[:, s] @ k[:, s].T / 3**0.5, dim=1) @ v[:, s]
            for s in (slice(0, 3), slice(3, 6))
        ]
        torch.testing.assert_close(attention(x)[0], attention.proj(torch.cat(parts, dim=1)))


@pytest.mark.shared
class TestAccuracy:
    @pytest.mark.parametrize("name", ["resnet-cifar10", "vit-gtsrb", "mixer-usps"])
    def test_recorded_accuracy_is_reproduced(self, name: str, shared: Path) -> None:
        maker = script("make_zoo")
        record, model = zoo.record(name), zoo.build(name)
        file = np.load(shared / "zoo" / "pretraining" / f"{record['source']}.npz")
        _, test = maker.split(file["y"])
        assert len(test) == record["recipe"]["test_images"]
        pictures = encoded(file, test) if "jpeg" in file else file["x"][test]
        cfg = model.pretrained_cfg
        preprocess = ImagePreprocess(
            32, cfg["mean"], cfg["std"], cfg["interpolation"], cfg["crop_pct"]
        )
        with torch.inference_mode():
            x = torch.stack([preprocess(picture) for picture in pictures])
            found = torch.cat([model(part).argmax(1) for part in x.split(256)])
        accuracy = 100 * float((found.numpy() == file["y"][test]).mean())
        assert accuracy == pytest.approx(record["test_accuracy"], abs=0.1)

    def test_held_out_images_are_not_trained_on(self, shared: Path) -> None:
        labels = np.load(shared / "zoo" / "pretraining" / "gtsrb.npz")["y"]
        train, test = script("make_zoo").split(labels)
        assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(labels)))
        assert set(labels[test]) == set(labels[train]) == set(range(43))
        assert len(test) == pytest.approx(len(labels) / 10, rel=0.02)


def encoded(file: np.lib.npyio.NpzFile, rows: np.ndarray) -> list[np.ndarray]:
    import io

    from PIL import Image

    data, ends = file["jpeg"], file["offsets"]
    return [np.asarray(Image.open(io.BytesIO(data[ends[i] : ends[i + 1]].tobytes()))) for i in rows]


class TestGlyphs:
    def test_shapes_types_and_balance(self) -> None:
        with np.load(zoo.task_path("glyphs"), allow_pickle=False) as file:
            assert sorted(file.files) == sorted(
                ["classes", "x_train", "y_train", "x_test", "y_test", "x_ood", "y_ood"]
            )
            assert list(file["classes"]) == list("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
            for split, per_class in (("train", 36), ("test", 24), ("ood", 27)):
                x, y = file[f"x_{split}"], file[f"y_{split}"]
                assert x.shape == (36 * per_class, 32, 32)
                assert x.dtype == np.uint8
                assert y.dtype == np.int64
                assert np.array_equal(np.bincount(y), np.full(36, per_class))
                assert x.reshape(len(x), -1).std(1).min() > 10  # nothing is blank

    def test_no_image_is_in_two_splits(self) -> None:
        with np.load(zoo.task_path("glyphs"), allow_pickle=False) as file:
            images = [x.tobytes() for s in ("train", "test", "ood") for x in file[f"x_{s}"]]
        assert len(set(images)) == len(images)

    def test_out_of_distribution_families_are_not_trained_on(self) -> None:
        manifest = json.loads((DATA / "tasks" / "manifest.json").read_text())
        splits = manifest["tasks"][0]["splits"]
        families = {split: set(entry["families"]) for split, entry in splits.items()}
        assert families["train"] == families["test"]
        assert not families["train"] & families["ood"]
        fonts = {s: set(chain(*e["families"].values())) for s, e in splits.items()}
        assert not fonts["train"] & fonts["ood"]

    def test_fonts_belong_to_the_named_family_and_have_every_character(self) -> None:
        from fontTools.ttLib import TTFont

        maker = script("make_glyphs")
        digits = "zero one two three four five six seven eight nine"
        plain = {str(value): name for value, name in enumerate(digits.split(" "))}
        for family, fonts in maker.FAMILIES.items():
            for name in fonts:
                font = TTFont(maker.font_path(name))
                own = str(font["name"].getDebugName(1))
                if family == "Computer Modern":
                    assert own in ("cmr10", "cmb10", "cmti10", "cmss10", "cmtt10")
                else:
                    assert own == family.replace("STIX General", "STIXGeneral")
                found = font.getBestCmap()
                assert [found[ord(c)] for c in maker.CLASSES] == [
                    plain.get(c, c) for c in maker.CLASSES
                ]

    def test_rendering_again_gives_the_same_images(self) -> None:
        import matplotlib
        import PIL

        maker = script("make_glyphs")
        x, y = maker.render("test")
        entry = json.loads((DATA / "tasks" / "manifest.json").read_text())["tasks"][0]
        now = {"matplotlib": matplotlib.__version__, "pillow": PIL.__version__}
        if not now.items() <= entry["made_with"].items():
            pytest.skip("another FreeType may draw other pixels")
        with np.load(zoo.task_path("glyphs"), allow_pickle=False) as file:
            assert np.array_equal(x, file["x_test"])
            assert np.array_equal(y, file["y_test"])

    def test_equal_arrays_pack_to_equal_bytes_that_numpy_reads(self, tmp_path: Path) -> None:
        maker = script("make_glyphs")
        values = {"x": np.arange(6, dtype=np.uint8).reshape(2, 3), "classes": np.array(["a", "b"])}
        data = maker.pack(values)
        assert maker.pack({key: value.copy() for key, value in values.items()}) == data
        path = tmp_path / "packed.npz"
        path.write_bytes(data)
        with np.load(path, allow_pickle=False) as file:
            assert all(np.array_equal(file[key], value) for key, value in values.items())


class TestReadme:
    def test_table_agrees_with_the_manifest(self) -> None:
        lines = (DATA / "README.md").read_text("utf-8").splitlines()
        cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if "|" in line]
        rows = {row[0].strip("`"): row[1:] for row in cells if len(row) == 7}
        assert set(zoo.names()) <= set(rows)
        assert set(rows) - set(zoo.names()) == {"model", "---"}
        for name in zoo.names():
            record = zoo.record(name)
            accuracy = record["test_accuracy"]
            assert rows[name] == [
                record["architecture"]["factory"].split(":")[1],
                f"{record['params']:,}".replace(",", " "),
                record["source"] if accuracy is not None else "none",
                str(record["recipe"]["epochs"]),
                f"{accuracy:.2f}" if accuracy is not None else "–",
                f"`{record['sha256'][:12]}`",
            ]

    def test_every_bundled_file_is_described(self) -> None:
        text = (DATA / "README.md").read_text("utf-8")
        for path in DATA.rglob("*"):
            if path.is_file() and path.suffix in (".py", ".npz", ".json"):
                assert path.name in text


class TestTraining:
    """The script end to end on a few made-up images."""

    CHOSEN = ("--only", "resnet-usps", "--only", "vit-gtsrb", "--only", "resnet-random")

    @pytest.fixture(scope="class")
    def made(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        import io

        from PIL import Image

        folder = tmp_path_factory.mktemp("training")
        random = np.random.default_rng(0)
        y = np.arange(40) % 2
        grey = (random.integers(0, 100, (40, 16, 16, 1)) + 150 * y[:, None, None, None]).astype(
            "u1"
        )
        np.savez(folder / "usps.npz", x=grey, y=y, classes=np.array(["dark", "light"]))
        parts = []
        for picture in random.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "JPEG")
            parts.append(np.frombuffer(buffer.getvalue(), np.uint8))
        np.savez(
            folder / "gtsrb.npz",
            jpeg=np.concatenate(parts),
            offsets=np.cumsum([0, *map(len, parts)]),
            y=y,
            classes=np.array(["a", "b"]),
        )
        return folder

    def train(self, made: Path, out: Path, *more: str) -> str:
        command = [sys.executable, str(DATA / "make_zoo.py"), "--source", str(made)]
        command += ["--out", str(out), "--epochs", "1", "--jobs", "1", *self.CHOSEN, *more]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        return run.stdout

    @pytest.fixture(scope="class")
    def trained(self, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        out = tmp_path_factory.mktemp("trained") / "zoo"
        assert "resnet-usps: epoch 1/1" in self.train(made, out)
        return out

    @pytest.mark.integration
    def test_trains_what_was_asked_for(
        self, trained: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert sorted(path.name for path in trained.iterdir()) == [
            "manifest.json",
            "resnet-random.safetensors",
            "resnet-usps.safetensors",
            "vit-gtsrb.safetensors",
        ]
        monkeypatch.setattr(zoo, "data_folder", lambda: trained.parent)
        assert zoo.names() == ["resnet-random", "resnet-usps", "vit-gtsrb"]
        assert zoo.record("vit-gtsrb")["source_classes"] == ["a", "b"]
        assert zoo.build("resnet-usps").head.out_features == 2

    @pytest.mark.integration
    def test_finished_networks_are_not_trained_again(
        self, made: Path, trained: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {path: path.stat().st_mtime_ns for path in trained.iterdir()}
        options = ["--source", str(made), "--out", str(trained), *self.CHOSEN]
        assert script("make_zoo").main(options) == 0
        assert "loss" not in capsys.readouterr().out
        assert before == {path: path.stat().st_mtime_ns for path in trained.iterdir()}

    @pytest.mark.slow
    def test_training_again_gives_the_same_bytes(
        self, made: Path, trained: Path, tmp_path: Path
    ) -> None:
        self.train(made, tmp_path)
        for path in trained.glob("*.safetensors"):
            assert path.read_bytes() == (tmp_path / path.name).read_bytes()

    def test_a_separable_source_is_learned(self, made: Path) -> None:
        maker = script("make_zoo")
        threads = torch.get_num_threads()
        try:
            record, data = maker.make("resnet-usps", made, epochs=6, seed=0)
        finally:
            torch.set_num_threads(threads)
        assert record["test_accuracy"] == 100.0
        assert record["sha256"] == hashlib.sha256(data).hexdigest()

    def test_augmentation_shifts_whole_images(self) -> None:
        maker = script("make_zoo")
        x = torch.zeros(64, 3, 32, 32)
        x[:, :, 16, 16] = 100.0
        varied = maker.vary(x, maker.Augment(shift=2), torch.Generator().manual_seed(0))
        assert varied.shape == x.shape
        assert torch.equal(varied.sum((1, 2, 3)), x.sum((1, 2, 3)))
        places = {tuple(p.nonzero()[0].tolist()) for p in varied[:, 0]}
        assert all(abs(row - 16) <= 2 and abs(column - 16) <= 2 for row, column in places)
        assert len(places) > 10

    def test_augmentation_mirrors_half_of_the_images(self) -> None:
        maker = script("make_zoo")
        x = torch.arange(32.0).expand(400, 3, 32, 32)
        settings = maker.Augment(shift=0, flip=True)
        varied = maker.vary(x, settings, torch.Generator().manual_seed(0))
        mirrored = varied[:, 0, 0, 0] == 31
        assert 150 < int(mirrored.sum()) < 250
        assert torch.equal(varied[mirrored], x[mirrored].flip(3))
        assert torch.equal(varied[~mirrored], x[~mirrored])
