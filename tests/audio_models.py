"""Tiny audio models with random weights and their feature extractors, one per family.

``save(family, folder)`` writes what ``save_pretrained`` of a published checkpoint would have
written. Nothing is fetched.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tests.text_models import SMALL, Families, library

RATE = 16_000
LENGTHS = (3000, 4000, 5000, 3000, 2500, 6100, 3000, 4000, 4100)
LABELS = [0, 1, 2] * 3

CONVOLUTIONS = {
    "conv_dim": (8, 8, 12),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 4, 4),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
"""What sets the large checkpoints, which know masks, apart from the base ones."""
SEQUENCES = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 3,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "pad_token_id": 0,
}

FAMILIES = Families()
family, save = FAMILIES.add, FAMILIES.save


@functools.cache
def tones() -> list[np.ndarray]:
    """Noisy tones of three pitches and several lengths, as waveforms in -1 to 1."""
    rng = np.random.default_rng(0)
    found = []
    for i, length in enumerate(LENGTHS):
        seconds = np.arange(length) / RATE
        tone = 0.5 * np.sin(2 * np.pi * (200 + 300 * (i % 3)) * seconds)
        found.append((tone + 0.05 * rng.standard_normal(length)).astype(np.float32))
    return found


def raw(masked: bool = False) -> Any:
    """The feature extractor of networks that read waveforms."""
    return library().Wav2Vec2FeatureExtractor(return_attention_mask=masked)


@family
def wav2vec2() -> tuple[Any, Any]:
    """As the base checkpoint, which normalises over time and knows no mask."""
    config = library().Wav2Vec2Config(**SMALL, **CONVOLUTIONS)
    return library().Wav2Vec2ForPreTraining(config), raw()


@family
def wav2vec2_large() -> tuple[Any, Any]:
    config = library().Wav2Vec2Config(**SMALL, **CONVOLUTIONS, **LARGE)
    return library().Wav2Vec2Model(config), raw(masked=True)


@family
def wav2vec2_classifier() -> tuple[Any, Any]:
    config = library().Wav2Vec2Config(
        **SMALL, **CONVOLUTIONS, **LARGE, num_labels=5, classifier_proj_size=14
    )
    return library().Wav2Vec2ForSequenceClassification(config), raw(masked=True)


@family
def hubert() -> tuple[Any, Any]:
    config = library().HubertConfig(**SMALL, **CONVOLUTIONS, **LARGE)
    return library().HubertModel(config), raw(masked=True)


@family
def wavlm() -> tuple[Any, Any]:
    config = library().WavLMConfig(**SMALL, **CONVOLUTIONS, **LARGE)
    return library().WavLMModel(config), raw(masked=True)


@family
def unispeech_sat() -> tuple[Any, Any]:
    config = library().UniSpeechSatConfig(**SMALL, **CONVOLUTIONS, **LARGE)
    return library().UniSpeechSatModel(config), raw(masked=True)


@family
def data2vec_audio() -> tuple[Any, Any]:
    """Its convolutions for positions carry padding on, mask or no mask."""
    config = library().Data2VecAudioConfig(**SMALL, **CONVOLUTIONS)
    return library().Data2VecAudioModel(config), raw(masked=True)


@family
def sew() -> tuple[Any, Any]:
    config = library().SEWConfig(**SMALL, **CONVOLUTIONS, squeeze_factor=2)
    return library().SEWModel(config), raw()


@family
def wav2vec2_bert() -> tuple[Any, Any]:
    config = library().Wav2Vec2BertConfig(
        **SMALL, feature_projection_input_dim=160, conv_depthwise_kernel_size=3
    )
    return library().Wav2Vec2BertModel(config), library().SeamlessM4TFeatureExtractor()


@family
def ast() -> tuple[Any, Any]:
    config = library().ASTConfig(
        **SMALL, num_labels=5, patch_size=16, max_length=64, num_mel_bins=32, frequency_stride=16,
        time_stride=16,
    )  # fmt: skip
    extractor = library().ASTFeatureExtractor(num_mel_bins=32, max_length=64)
    return library().ASTForAudioClassification(config), extractor


@family
def whisper() -> tuple[Any, Any]:
    config = library().WhisperConfig(
        **SEQUENCES, num_mel_bins=20, max_source_positions=50, decoder_start_token_id=1,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    extractor = library().WhisperFeatureExtractor(feature_size=20, chunk_length=1)
    return library().WhisperForConditionalGeneration(config), extractor


@family
def moonshine() -> tuple[Any, Any]:
    config = library().MoonshineConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, encoder_num_hidden_layers=3,
        decoder_num_hidden_layers=1, encoder_num_attention_heads=2, decoder_num_attention_heads=2,
    )  # fmt: skip
    return library().MoonshineModel(config), raw(masked=True)


@family
def speech_to_text() -> tuple[Any, Any]:
    config = library().Speech2TextConfig(**SEQUENCES, conv_channels=16, input_feat_per_channel=20)
    extractor = library().Speech2TextFeatureExtractor(feature_size=20, num_mel_bins=20)
    return library().Speech2TextModel(config), extractor


@family
def clap() -> tuple[Any, Any]:
    sounds = {
        "spec_size": 64, "num_mel_bins": 16, "patch_embeds_hidden_size": 8, "hidden_size": 32,
        "depths": [1, 1, 1], "num_attention_heads": [1, 1, 1], "window_size": 4,
        "num_hidden_layers": 3, "patch_stride": [4, 4], "patch_size": 4,
        "enable_fusion": True,
    }  # fmt: skip
    config = library().ClapConfig(text_config={**SMALL, "vocab_size": 40}, audio_config=sounds)
    extractor = library().ClapFeatureExtractor(
        feature_size=16, max_length_s=1, sampling_rate=RATE, truncation="fusion"
    )
    return library().ClapModel(config), extractor
