"""Audio models and sounds, against the transformers library called directly."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from torch import nn

import transfer_metrics as tm
from tests import audio_models, written
from tests.audio_models import LABELS, RATE, tones
from transfer_metrics.__main__ import main
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.features.batches import batches_of
from transfer_metrics.features.hooks import _frame_masks
from transfer_metrics.features.layers import hidden_layers
from transfer_metrics.features.proof import _EQUAL
from transfer_metrics.sources.example import Sound, as_sound, decode_sound
from transfer_metrics.sources.tasks.task import Split

transformers = pytest.importorskip("transformers")
# Of torch, for what WavLM's network does, and of tiny spectrograms.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    pytest.mark.filterwarnings("ignore:At least one mel filter"),
]
REDUCE = {
    "mean": lambda x: x.mean(0),
    "max": lambda x: x.amax(0),
    "cls": lambda x: x[0],
    "last": lambda x: x[-1],
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory):
    """Folder of a family's checkpoint, written when it is first asked for."""
    root = tmp_path_factory.mktemp("audio-models")
    return written.once(root, audio_models.save)


def quiet(model: Any, task: Any, **options: Any):
    return tm.extract(model, task, progress=False, **options)


def hidden_states(folder: Path, sounds: list[np.ndarray]) -> list[list[torch.Tensor]]:
    """All hidden states of each sound alone, (T, D), so that nothing is padded to another."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    network = transformers.AutoModel.from_pretrained(folder).eval()
    if network.config.is_encoder_decoder:
        network = network.get_encoder()
    found = []
    for sound in sounds:
        batch = extractor(sound, sampling_rate=RATE, return_tensors="pt")
        batch.pop("attention_mask", None)
        with torch.no_grad():
            states = network(**batch, output_hidden_states=True).hidden_states
        found.append([state[0] for state in states])
    return found


# ---------------------------------------------------------------- features

FAMILIES = ["wav2vec2", "wav2vec2_large", "hubert", "wavlm", "unispeech_sat", "data2vec_audio",
            "wav2vec2_bert", "ast", "whisper"]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_those_of_transformers(name, checkpoints):
    folder, sounds = checkpoints(name), tones()[:6]
    model = tm.load_model(f"hf:{folder}")
    assert model.modality == "audio"
    states = hidden_states(folder, sounds)
    if name == "whisper":  # a frame of its encoder is 320 samples; those behind the sound are empty
        states = [
            [state[: math.ceil(len(sound) / 320)] for state in of]
            for of, sound in zip(states, sounds, strict=True)
        ]
    for pool, by_hand in REDUCE.items():
        store = quiet(model, (sounds, LABELS[:6]), pool=pool, batch_size=4)
        hidden = [layer for layer in hidden_layers(store.layers) if "layers." in layer.name]
        assert len(hidden) >= 2
        for layer in hidden:
            depth = int(layer.name.rpartition(".")[2]) + 1
            if depth == 3:  # what is last may have been normalised in transformers' list
                continue
            wanted = torch.stack([by_hand(of[depth]) for of in states])
            np.testing.assert_allclose(store[layer.name], wanted.numpy(), atol=5e-6)


@pytest.mark.integration
def test_the_fingerprint_is_the_same_in_every_process(checkpoints):
    # Sets show their members in an order of their own in each process.
    model = tm.load_model(f"hf:{checkpoints('wav2vec2')}")
    code = f"import transfer_metrics as tm; print(tm.load_model({model.name!r}).fingerprint)"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[-1] == model.fingerprint


@pytest.mark.parametrize("layers", ["*", "blocks"])
@pytest.mark.parametrize("pool", ["avg", "max", "cls", "last"])
def test_padding_is_left_out_at_every_resolution(pool, layers, checkpoints):
    model = tm.load_model(f"hf:{checkpoints('wav2vec2_large')}")
    assert model.collate.masked
    together = quiet(model, (tones(), LABELS), layers=layers, pool=pool, batch_size=9)
    alone = quiet(model, (tones(), LABELS), layers=layers, pool=pool, batch_size=1)
    assert len(together.names) > 6
    for name in together.names:
        np.testing.assert_allclose(together[name], alone[name], atol=2e-6, err_msg=name)


@pytest.mark.parametrize("name", ["wav2vec2", "data2vec_audio", "wav2vec2_bert"])
def test_sounds_share_a_batch_where_padding_would_leak_only_with_their_like(name, checkpoints):
    model = tm.load_model(f"hf:{checkpoints(name)}")
    careless = dataclasses.replace(
        model, collate=dataclasses.replace(model.collate, equal_lengths=False)
    )
    alone = quiet(model, (tones(), LABELS), layers="last", batch_size=1)
    [last] = alone.names
    found = quiet(model, (tones(), LABELS), layers="last", batch_size=9)[last]
    np.testing.assert_allclose(found, alone[last], atol=2e-6)
    # Where nobody has said so, it is found out.
    proven = quiet(careless, (tones(), LABELS), layers="last", batch_size=9)
    np.testing.assert_allclose(proven[last], alone[last], atol=2e-6)
    assert proven.manifest["notes"] == alone.manifest["notes"] == [_EQUAL]


@pytest.mark.parametrize("equal", [False, True])
def test_batches_of_sounds(equal):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5, 40)
    data = Split([np.zeros(size) for size in sizes], np.zeros(40))
    batches = batches_of(data, range(40), 6, len, equal)
    assert sorted(np.concatenate(batches).tolist()) == list(range(40))
    assert max(map(len, batches)) == 6
    if equal:
        assert all(len(set(sizes[batch])) == 1 for batch in batches)
        assert len(batches) == sum(-(-np.sum(sizes == size) // 6) for size in set(sizes))


def test_masks_of_frames_are_those_of_the_convolutions_run_alone():
    rng = np.random.default_rng(0)
    for _ in range(20):
        kernels, strides = rng.integers(1, 5, 3).tolist(), rng.integers(1, 4, 3).tolist()
        lengths = rng.integers(60, 200, 4)
        network = nn.Module()
        network.config = SimpleNamespace(conv_kernel=kernels, conv_stride=strides)
        mask = torch.arange(int(lengths.max())) < torch.from_numpy(lengths)[:, None]
        masks = _frame_masks(network, mask.long())
        waves = [torch.zeros(1, 1, int(length)) for length in lengths]
        for kernel, stride in zip(kernels, strides, strict=True):
            waves = [nn.functional.conv1d(w, torch.ones(1, 1, kernel), None, stride) for w in waves]
            frames = [w.shape[2] for w in waves]
            assert masks[max(frames)].sum(1).tolist() == frames


def test_the_classifier_of_a_checkpoint_is_kept(checkpoints):
    folder = checkpoints("ast")
    model = tm.load_model(f"hf:{folder}")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    network = transformers.AutoModelForAudioClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = network(**extractor(tones(), sampling_rate=RATE, return_tensors="pt")).logits
    store = quiet(model, (tones(), LABELS), layers="last")
    assert model.head == "classifier.dense"
    np.testing.assert_allclose(store.source_logits, wanted.numpy(), atol=2e-6)


def test_long_sounds_are_cut_the_same_every_time(checkpoints):
    model = tm.load_model(f"hf:{checkpoints('clap')}")
    long = np.concatenate(tones())
    one, other = (quiet(model, ([long, long[:20_000]], [0, 1]), layers="last") for _ in range(2))
    np.testing.assert_array_equal(one[one.names[0]], other[one.names[0]])


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2_large"])
def test_predictions_do_not_depend_on_the_batch(name, checkpoints):
    probe = tm.LinearProbe().fit(tm.load_model(f"hf:{checkpoints(name)}"), (tones(), LABELS))
    together = probe.predict_proba(tones())
    alone = np.concatenate([probe.predict_proba([tone]) for tone in tones()])
    np.testing.assert_allclose(together, alone, atol=1e-5)


# ---------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(20, np.float32), "20 samples is shorter than the 60"),
        (np.zeros((2, 4000), np.float32), r"sounds, but the task holds arrays"),
        ({"array": np.zeros((2, 4000)), "sampling_rate": RATE}, "one channel"),
        (np.full(4000, 20_000.0), "divide 16-bit samples by 32768"),
        (np.full(4000, np.nan), "values up to nan"),
        ({"array": [], "sampling_rate": RATE}, "one channel"),
        ({"array": ["a"], "sampling_rate": RATE}, "real numbers"),
        ("a text", "reads sounds, but the task holds text"),
    ],
)
def test_sounds_that_cannot_be_used(sound, message, checkpoints):
    model = tm.load_model(f"hf:{checkpoints('wav2vec2')}")
    with pytest.raises(InvalidInputError, match=message):
        model.batch([sound])


def test_a_model_of_images_refuses_sounds():
    model = tm.load_model("zoo:resnet-cifar10")
    with pytest.raises(InvalidInputError, match="reads images, but the task holds sounds"):
        quiet(model, (tones(), LABELS))


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100])
def test_another_rate_is_made_that_of_the_model(rate, checkpoints):
    waveform = tm.load_model(f"hf:{checkpoints('wav2vec2')}").preprocess
    given = {"array": 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate), "sampling_rate": rate}
    heard = waveform(given)
    assert heard.shape == (RATE,)
    assert heard.dtype == np.float32
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    # Beginning and end are those of a filter.
    np.testing.assert_allclose(heard[200:-200], wanted[200:-200], atol=2e-3)


# ---------------------------------------------------------------- files


def wav(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, samples)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six sounds of two classes in files of several kinds, and files that are none."""
    for i, tone in enumerate(tones()[:6]):
        kinds = (np.int16(tone * 32767), tone, np.int32(np.float64(tone) * (2**31 - 1)))
        wav(tmp_path / "sounds" / ("low" if i % 3 == 0 else "high") / f"{i}.wav", kinds[i % 3])
    (tmp_path / "sounds" / "low" / "notes.txt").write_text("no sound")
    return tmp_path / "sounds"


@pytest.mark.parametrize(
    ("samples", "wanted"),
    [
        (np.array([0, 16384, -32768], np.int16), [0.0, 0.5, -1.0]),
        (np.array([128, 192, 0], np.uint8), [0.0, 0.5, -1.0]),
        (np.array([0, 2**30, -(2**31)], np.int32), [0.0, 0.5, -1.0]),
        (np.array([0.0, 0.5, -1.0], np.float32), [0.0, 0.5, -1.0]),
        (np.array([[0.5, -0.5], [1.0, 0.0], [-1.0, -1.0]], np.float64), [0.0, 0.5, -1.0]),
    ],
    ids=["16", "8", "32", "float", "stereo"],
)
def test_wav_files_of_every_kind_are_waveforms(samples, wanted, tmp_path):
    wav(tmp_path / "a.wav", samples, 8000)
    sound = decode_sound((tmp_path / "a.wav").read_bytes(), "a.wav")
    assert (sound.samples.tolist(), sound.rate, sound.samples.dtype) == (wanted, 8000, np.float32)


def test_a_sound_that_ends_before_its_header_says_is_cut() -> None:
    out = io.BytesIO()
    wavfile.write(out, 8000, np.arange(-4000, 4000, dtype=np.int16))
    whole = out.getvalue()
    assert len(decode_sound(whole, "a.wav")) == 8000
    with pytest.raises(tm.TransferMetricsError, match=r"'a.wav' cannot be read .*expected 16044"):
        decode_sound(whole[:8000], "a.wav")
    endless = b"\xff\xff\xff\xff"  # the length of what is written as a stream
    stream = whole[:4] + endless + whole[8:40] + endless + whole[44:]
    assert len(decode_sound(stream, "a.wav")) == 8000


def test_a_folder_of_wav_files_is_a_task(folder):
    with pytest.warns(tm.TransferMetricsWarning, match=r"left out low/notes.txt \(no sound\)"):
        task = tm.load_task(folder)
    assert (task.modality, task.classes, len(task["train"])) == ("audio", ("high", "low"), 6)
    for path, sound in zip(task["train"].examples.paths, task["train"].examples, strict=True):
        np.testing.assert_allclose(sound.samples, tones()[int(path.stem)], atol=1e-4)
    with pytest.raises(InvalidInputError, match="holds 0 class folders with images"):
        tm.load_task(f"imagefolder:{folder}")


@pytest.mark.filterwarnings("ignore:.*left out")
def test_sounds_that_cannot_be_read_are_named_or_skipped(folder):
    (folder / "low" / "6.wav").write_bytes(b"")
    (folder / "low" / "7.wav").write_bytes(b"<html>")
    (folder / "low" / "8.wav").write_bytes((folder / "low" / "0.wav").read_bytes()[:99])
    with pytest.raises(tm.TransferMetricsError, match="3 of 9 sounds cannot be read") as told:
        tm.load_task(folder)
    for what in (
        "low/6.wav (empty)", "low/7.wav (no WAV file)", "low/8.wav (it ends after 99 of",
        "corrupt=skip", "notes.txt",
    ):  # fmt: skip
        assert what in str(told.value)
    assert len(tm.load_task(f"{folder}?corrupt=skip")["train"]) == 6


@pytest.mark.filterwarnings("ignore:.*left out")
def test_a_head_predicts_on_a_folder_of_wav_files(folder, checkpoints, tmp_path):
    head = tm.LinearProbe(C_grid=(1.0,), validation=0.5)
    head.fit(f"hf:{checkpoints('wav2vec2')}", folder)
    wav(tmp_path / "new" / "deep" / "1.wav", tones()[1])
    wav(tmp_path / "new" / "0.wav", tones()[0])
    (tmp_path / "new" / "2.wav").write_bytes(b"RIFFxxxx")
    (tmp_path / "new" / "list.csv").write_text("a,b")
    table = head.predict_table(str(tmp_path / "new"))
    assert [Path(path).name for path in table["example"]] == ["0.wav", "2.wav", "1.wav"]
    wanted = list(head.predict(tones()[:2]))
    assert table["class"].dropna().tolist() == wanted
    assert "2.wav' cannot be read" in table["error"].dropna().item()
    assert table.attrs["left_out"] == [(str(tmp_path / "new" / "list.csv"), "no sound")]
    [one] = head.predict_table(tmp_path / "new" / "0.wav").to_dict("records")
    assert one["class"] == table["class"][0]
    (tmp_path / "none").mkdir()
    with pytest.raises(InvalidInputError, match=r"no sound in the folder .* end in \.wav"):
        head.predict_table(tmp_path / "none")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::transfer_metrics.errors.TransferMetricsWarning")
def test_from_a_folder_of_sounds_to_a_network_in_use(folder, checkpoints, tmp_path, capsys):
    for i, tone in enumerate(tones() * 4):
        wav(folder / ("low", "high", "high")[i % 3] / f"more{i}.wav", tone)
    (folder / "low" / "notes.txt").unlink()
    model, out = f"hf:{checkpoints('ast')}", tmp_path / "out"
    argv = ["--models", model, "--task", str(folder), "--quiet"]
    assert main(["rank", *argv, "--out", str(tmp_path / "r"), "--no-plots"]) == 0
    assert main(["transfer", *argv, "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["predict", "--head", str(out / "head"), str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    right = [r["class"] == Path(r["example"]).parent.name for r in found]
    assert np.mean(right) > 0.8
    # The window of this network is one length, whatever that of the sound.
    assert main(["export", "--head", str(out / "head"), "--out", str(tmp_path / "a.pt2")]) == 0


# ---------------------------------------------------------------- tasks


def test_lists_of_waveforms_are_sounds(checkpoints):
    plain = tm.load_task(tones(), LABELS)
    assert plain.modality == "audio"
    assert isinstance(plain["train"].examples[0], Sound)
    tensors = tm.load_task([torch.from_numpy(tone) for tone in tones()], LABELS)
    assert tensors["train"].fingerprint == plain["train"].fingerprint
    rated = [{"array": tone, "sampling_rate": RATE, "path": None} for tone in tones()]
    with pytest.warns(tm.TransferMetricsWarning, match="3 of 3 examples of split 'test' are in"):
        given = tm.load_task({"train": (rated, LABELS), "test": (rated[:3], LABELS[:3])})
    assert (given.modality, given["train"].examples[1].rate) == ("audio", RATE)
    assert given["train"].fingerprint != plain["train"].fingerprint
    model = tm.load_model(f"hf:{checkpoints('ast')}")
    stores = [quiet(model, task, layers="last") for task in (plain, given)]
    np.testing.assert_array_equal(*(store[store.names[0]] for store in stores))


def test_the_fingerprint_is_that_of_the_samples():
    changed = [tone.copy() for tone in tones()]
    changed[4][7] += 0.25
    one, other = (tm.load_task(x, LABELS)["train"].fingerprint for x in (tones(), changed))
    assert one != other


def test_a_torch_dataset_of_waveforms(checkpoints):
    pairs = [(torch.from_numpy(tone), label) for tone, label in zip(tones(), LABELS, strict=True)]
    model = tm.load_model(f"hf:{checkpoints('wav2vec2_large')}")
    of_pairs = quiet(model, tm.load_task(_Pairs(pairs)), layers="last", batch_size=4)
    of_lists = quiet(model, (tones(), LABELS), layers="last", batch_size=4)
    name = of_lists.names[0]
    np.testing.assert_array_equal(of_pairs[name], of_lists[name])


def test_waveforms_of_one_length_may_be_an_array(checkpoints):
    rows = np.stack([tone[:2500] for tone in tones()])
    model = tm.load_model(f"hf:{checkpoints('wav2vec2')}")
    found = quiet(model, (rows, LABELS), layers="last")
    wanted = quiet(model, ([*rows[:-1], rows[-1]], LABELS), layers="last", batch_size=1)
    np.testing.assert_allclose(found[found.names[0]], wanted[found.names[0]], atol=2e-6)


def test_the_place_of_a_sound_that_cannot_be_used():
    with pytest.raises(InvalidInputError, match=r"'data', example 2: .*up to 300"):
        tm.load_task([*tones()[:2], np.full(50, 300)], [0, 1, 0])
    with pytest.raises(InvalidInputError, match="path, text; it needs 'array'"):
        as_sound({"path": "a.wav", "text": "hello"})


class _Pairs(torch.utils.data.Dataset):
    def __init__(self, pairs: list) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        return self.pairs[index]


def test_whole_numbers_and_rates_that_are_none_are_refused():
    """Samples of 16 bits that happen to be quiet are no waveform of -20 to 20."""
    quiet = [(20 * np.sin(np.arange(800 + i) / 9)).astype(np.int16) for i in range(4)]
    with pytest.raises(InvalidInputError, match="divide 16-bit samples by 32768"):
        tm.load_task(quiet, [0, 1, 0, 1])
    with pytest.raises(InvalidInputError, match="a sound has 0 samples per second"):
        tm.load_task([{"array": np.ones(9) / 2, "sampling_rate": 0}] * 2, [0, 1])
