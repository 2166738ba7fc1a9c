"""Tiny text models with random weights and their tokenizers, one per family, made in milliseconds.

``save(family, folder)`` writes what ``save_pretrained`` of a published checkpoint would have
written. Nothing is fetched.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from transfer_metrics.sources.optional import require

TEXTS = [
    "the film is good",
    "a bad film, really bad",
    "New York is in the United States",
    "dogs and cats do not like rain",
    "Wolfgang lives in Berlin",
    "good",
]
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
POSITIONS = 48


class Families(dict[str, Callable[[], tuple[Any, Any]]]):
    """Functions that make a model and its tokenizer or feature extractor, by name."""

    def add(self, make: Callable[[], tuple[Any, Any]]) -> Callable[[], tuple[Any, Any]]:
        """Register a function under its own name."""
        self[make.__name__] = make
        return make

    def save(self, name: str, folder: Path) -> Path:
        """Write a model with weights that are the same every time; returns its folder."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for part in self[name]():
                part.save_pretrained(folder)
        return folder


FAMILIES = Families()
family, save = FAMILIES.add, FAMILIES.save


@functools.cache
def library() -> Any:
    """The transformers library, without bars on stderr."""
    transformers = require("transformers", "tests of text models")
    transformers.utils.logging.disable_progress_bar()
    return transformers


@functools.cache
def reference(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and network as a user of transformers loads them; of two halves the encoder."""
    tokenizer = library().AutoTokenizer.from_pretrained(folder)
    network = library().AutoModel.from_pretrained(folder).eval()
    if network.config.is_encoder_decoder:
        network = network.get_encoder()
    return tokenizer, network


@functools.cache
def trained(kind: str, *specials: str) -> dict[str, Any]:
    """The settings of a small tokenizer that was trained on the texts above."""
    import tokenizers as T

    if kind == "wordpiece":
        model, split = T.models.WordPiece(unk_token="[UNK]"), T.pre_tokenizers.BertPreTokenizer()
        trainer = T.trainers.WordPieceTrainer(
            vocab_size=120, special_tokens=list(specials), show_progress=False
        )
    elif kind == "bytes":
        model, split = T.models.BPE(), T.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = T.trainers.BpeTrainer(
            vocab_size=380,
            initial_alphabet=T.pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=list(specials),
            show_progress=False,
        )
    else:
        model, split = T.models.Unigram(), T.pre_tokenizers.Metaspace()
        trainer = T.trainers.UnigramTrainer(
            vocab_size=90, special_tokens=list(specials), unk_token="<unk>", show_progress=False
        )
    tokenizer = T.Tokenizer(model)
    tokenizer.pre_tokenizer = split
    if kind == "wordpiece":
        tokenizer.normalizer = T.normalizers.BertNormalizer()
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return json.loads(tokenizer.to_str())["model"]


def byte_pairs(*specials: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level tokenizer."""
    model = trained("bytes", *specials)
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def pieces(*specials: str) -> list[tuple[str, float]]:
    """Pieces of a SentencePiece-like tokenizer with their log probabilities."""
    return [tuple(piece) for piece in trained("unigram", *specials)["vocab"]]


def word_pieces() -> Any:
    """A tokenizer as BERT has it."""
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    vocabulary = trained("wordpiece", *names)["vocab"]
    return library().BertTokenizer(vocabulary, model_max_length=POSITIONS)


@family
def bert() -> tuple[Any, Any]:
    tokenizer = word_pieces()
    config = library().BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=POSITIONS, **SMALL
    )
    return library().BertModel(config), tokenizer


@family
def distilbert() -> tuple[Any, Any]:
    tokenizer = word_pieces()
    config = library().DistilBertConfig(
        vocab_size=len(tokenizer), dim=16, hidden_dim=32, n_layers=3, n_heads=2,
        max_position_embeddings=POSITIONS,
    )  # fmt: skip
    return library().DistilBertModel(config), tokenizer


@family
def electra() -> tuple[Any, Any]:
    tokenizer = word_pieces()
    config = library().ElectraConfig(
        vocab_size=len(tokenizer), embedding_size=8, max_position_embeddings=POSITIONS, **SMALL
    )
    return library().ElectraModel(config), tokenizer


@family
def roberta() -> tuple[Any, Any]:
    vocabulary, merges = byte_pairs("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    config = library().RobertaConfig(
        vocab_size=len(vocabulary), max_position_embeddings=POSITIONS + 2, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, **SMALL,
    )  # fmt: skip
    return library().RobertaModel(config), library().RobertaTokenizer(vocabulary, merges)


@family
def deberta() -> tuple[Any, Any]:
    vocabulary = pieces("[PAD]", "[CLS]", "[SEP]", "<unk>", "[MASK]")
    config = library().DebertaV2Config(
        vocab_size=len(vocabulary), relative_attention=True, position_buckets=8,
        pos_att_type=["p2c", "c2p"], position_biased_input=False, norm_rel_ebd="layer_norm",
        share_att_key=True, type_vocab_size=0, max_position_embeddings=POSITIONS, **SMALL,
    )  # fmt: skip
    tokenizer = library().DebertaV2Tokenizer(vocabulary, unk_id=3, unk_token="<unk>")
    return library().DebertaV2Model(config), tokenizer


@family
def albert() -> tuple[Any, Any]:
    vocabulary = pieces("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
    config = library().AlbertConfig(
        vocab_size=len(vocabulary), embedding_size=8, max_position_embeddings=POSITIONS + 2,
        **SMALL,
    )  # fmt: skip
    return library().AlbertModel(config), library().AlbertTokenizer(vocabulary)


@family
def gpt2() -> tuple[Any, Any]:
    """Without a token for padding."""
    vocabulary, merges = byte_pairs("<|endoftext|>")
    config = library().GPT2Config(
        vocab_size=len(vocabulary), n_embd=16, n_layer=3, n_head=2, n_positions=POSITIONS + 2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return library().GPT2LMHeadModel(config), library().GPT2Tokenizer(vocabulary, merges)


@family
def opt() -> tuple[Any, Any]:
    vocabulary, merges = byte_pairs("<s>", "<pad>", "</s>", "<unk>")
    config = library().OPTConfig(
        vocab_size=len(vocabulary), hidden_size=16, word_embed_proj_dim=16, ffn_dim=32,
        num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=POSITIONS + 2,
        pad_token_id=1, bos_token_id=2, eos_token_id=2,
    )  # fmt: skip
    special = {"unk_token": "</s>", "bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = library().GPT2Tokenizer(vocabulary, merges, add_bos_token=True, **special)
    return library().OPTForCausalLM(config), tokenizer


@family
def llama() -> tuple[Any, Any]:
    """Byte-level as from version 3 on: words in lists would lose the space before them."""
    import tokenizers as T

    model = trained("bytes", "<|begin|>", "<|end|>")
    tokenizer = T.Tokenizer(T.models.BPE(model["vocab"], [tuple(pair) for pair in model["merges"]]))
    tokenizer.pre_tokenizer = T.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = T.decoders.ByteLevel()
    tokenizer.post_processor = T.processors.TemplateProcessing(
        single="<|begin|> $A",
        pair="<|begin|> $A <|begin|>:1 $B:1",
        special_tokens=[("<|begin|>", 0)],
    )
    config = library().LlamaConfig(
        vocab_size=len(model["vocab"]), num_key_value_heads=1, bos_token_id=0, eos_token_id=1,
        max_position_embeddings=POSITIONS + 2, **SMALL,
    )  # fmt: skip
    fast = library().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>"
    )
    return library().LlamaForCausalLM(config), fast


@family
def qwen2() -> tuple[Any, Any]:
    vocabulary, merges = byte_pairs("<|endoftext|>")
    config = library().Qwen2Config(
        vocab_size=len(vocabulary), num_key_value_heads=1, bos_token_id=0, eos_token_id=0,
        max_position_embeddings=POSITIONS + 2, **SMALL,
    )  # fmt: skip
    return library().Qwen2ForCausalLM(config), library().Qwen2Tokenizer(vocabulary, merges)


@family
def t5() -> tuple[Any, Any]:
    vocabulary = pieces("<pad>", "</s>", "<unk>")
    config = library().T5Config(
        vocab_size=len(vocabulary) + 100, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2,
        decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return library().T5ForConditionalGeneration(config), library().T5Tokenizer(vocabulary)


@family
def bart() -> tuple[Any, Any]:
    vocabulary, merges = byte_pairs("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    config = library().BartConfig(
        vocab_size=len(vocabulary), d_model=16, encoder_layers=3, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_position_embeddings=POSITIONS + 2, pad_token_id=1, bos_token_id=0,
        eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    return library().BartModel(config), library().BartTokenizer(vocabulary, merges)
