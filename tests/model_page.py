"""The page docs/models.md: which models were tried, and what to know about them.

``pytest tests/test_model_families.py --slow --write-docs`` writes it.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.model_families import CASES, Case


def page(rows: Callable[[Case], str]) -> str:
    """The whole page.

    Args:
        rows: the line of a case.
    """
    header = (
        "| hub | architecture | kind | layers | widths | layouts | classifier | `pool=cls` | "
        "ranked by |\n|---|---|---|--:|---|---|---|---|---|"
    )
    random = [rows(case) for case in CASES if case.hub != "weights"]
    real = [rows(case) for case in CASES if case.hub == "weights"]
    return TEXT.format(
        random="\n".join([header, *random]),
        real="\n".join([header, *real]),
        count=len(random),
        kinds=len({case.kind for case in CASES}),
    )


TEXT = """\
# Models that were tried

Written by the tests: `pytest tests/test_model_families.py --slow --write-docs`.

Every model goes the same way: `load_model`, `list_layers`, `extract` of all blocks, once in
batches of seven and once example by example (the features agree to 1e-4 standard deviations), and
`rank_models`. Nothing in the way asks which family it is. *Layers* is how many blocks, stem and
end are found, *widths* how many features they have when averaged, *layouts* what their axes mean
(`NCHW` and `NHWC` are maps, `NTC` and `NCT` tokens or frames, `ND` vectors), *classifier* the
source head that LEEP and its kin read.

## Random weights ({count} models, {kinds} kinds with those below)

timm and torchvision build the architecture that is named, on smaller images to save time; of
`hf` each is a tiny network of that family as `save_pretrained` writes it, with its own processor,
tokenizer or feature extractor.

{random}

## Real weights

{real}

## What to know

- **Text.** Encoders, decoders, and the encoder of encoder-decoders; a decoder's `cls` token is the
  first word, so use `mean` or `last`. Fine-tuned text classifiers are read without their head, so
  LEEP and its kin do not apply. Texts are cut at 512 tokens, or where the model ends.
- **Sentence encoders** in the layout of sentence-transformers are read as the transformer below,
  with the length limit of `sentence_bert_config.json`. Their own pooling is in
  `1_Pooling/config.json`: `pool="mean"` (most), `"cls"` or `"max"`. A dense layer on top of it is
  left out; so is the final scaling to unit length.
- **Sound.** Examples are waveforms in -1 to 1 with the sampling rate of the model: arrays, or
  mappings with `array` and `sampling_rate` as `datasets` decodes them, or WAV files in a folder per
  class (`audiofolder:tones/`); another rate is made that of the model
  (`scipy.signal.resample_poly`). Networks that know a mask and normalise frame by frame (large
  wav2vec2, HuBERT, WavLM, UniSpeech) read padded batches with it; of the others only sounds of one
  length share a batch, since padding would change their features, so sounds of many lengths are
  read one by one. Whisper, AST and CLAP cut and pad sounds to their own window; of Whisper's
  encoder only the frames with sound are pooled. Fine-tuning pads as training scripts do.
- **Images and text** (CLIP, SigLIP, BLIP): the image tower. The text tower alone has to be saved as
  a model of its own.
- **`pool="cls"`** is the first token. Networks without a class token (SigLIP, Swin, Segformer)
  have a patch there: use `avg`.
- **What falls short.** SpeechT5, whose encoder does not read sounds by itself, encoder-decoders of
  images (TrOCR, Donut), and models that come with code of their own are refused or fail with an
  error; time series, graphs and video are not read. `flatten` and `grid` need inputs of one
  length.

## Getting weights

- **A list in a file**: `--models @models.txt`, a name or pattern on each line, `#` begins a
  comment, `small = timm:resnet18` gives [a name](ranking.md#names).
- **Paths with commas, brackets or `#`**: a file or folder that is there is found whole; else put it
  in quotes, `timm:resnet18="a,b.pth"`. In Python the items of a list are read the same way.
- **Fine-tuned with transformers**: `hf:folder`, what `save_pretrained` or the Trainer wrote, with
  its tokenizer, processor or feature extractor. An adapter has to be merged first.
- **Fine-tuned with timm or torchvision**: `timm:resnet18=file`, safetensors or a state dict that
  loads with `weights_only=True`; the number of classes is read from the file.
- **Trained with another preprocessing**: a file of weights does not say how its images were
  normalised, so the defaults of the architecture are used, silently wrong where training used
  others. Say them: `timm:resnet18(mean=(.5,.5,.5),std=(.5,.5,.5),input_size=96)=file`.
- **Wrapped state dicts**: the weights are taken from under the one prefix that fits best, at any
  level: `state_dict.model.` (Lightning), `module.` (DDP), `module.encoder_q.` (MoCo),
  `teacher.backbone.` (DINO). Where several fit alike, an average (`ema`) is taken, or a teacher, or
  of MoCo's and BYOL's pairs the encoder that was trained, with a warning; other pairs are refused.
  `timm:resnet18=file.pth#student` says which.
- **No classifier in the file**: the model has no source logits, so LEEP and its kin do not apply,
  with a warning. Anything else that is missing is refused: nothing stays random. A criterion, a
  queue or a projection head that the network has no place for is left out, with a warning.
- **A network of one's own**: `package.module:factory(width=2)=file`. The factory gets every option
  that it has an argument for (or `**options`). `seed`, `input_size`, `mean`, `std`, `interpolation`
  and `crop_pct` that it has none for are used as for timm; torch's generator starts from a whole
  `seed` in any case.
- **Offline**: whatever the caches of the hubs hold, `HF_HOME` for hf and timm and `TORCH_HOME` for
  torchvision. Nothing is asked of the network for an hf or torchvision model that is there; timm
  asks several times before it turns to its cache, so set `HF_HUB_OFFLINE=1`.
"""
