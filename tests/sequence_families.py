"""Tiny text networks of transformers that count positions, or pad and shorten texts, their own way.

``save(family, folder)`` writes network and tokenizer as ``save_pretrained`` of a published
checkpoint would have. Nothing is fetched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.text_models import byte_pairs, library

POSITIONS = 40

_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": POSITIONS,
}
_GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
_BART = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": POSITIONS,
}
_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
_LED = {name: value for name, value in _BART.items() if name != "max_position_embeddings"}
_SPARSE = {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}

FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    # Positions from the first row of a table.
    "Bert": (_BERT, 40),
    "Electra": ({**_BERT, "embedding_size": 8}, 40),
    "MegatronBert": (_BERT, 40),
    "DistilBert": (
        {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 40},
        40,
    ),
    "GPT2": (_GPT, 40),
    "OpenAIGPT": (_GPT, 40),
    "XLM": ({"emb_dim": 16, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 40}, 40),
    "Pegasus": (_BART, 40),
    # From the padding index + 1.
    "Roberta": (_BERT, 38),
    "XLMRoberta": (_BERT, 38),
    "Camembert": (_BERT, 38),
    "MPNet": (_BERT, 38),
    "IBert": (_BERT, 38),
    "Luke": ({**_BERT, "entity_vocab_size": 5, "entity_emb_size": 8}, 38),
    "Data2VecText": (_BERT, 38),
    "Xmod": ({**_BERT, "languages": ["en_XX"], "default_language": "en_XX"}, 38),
    # From an offset, in a table that is longer for it.
    "Bart": (_BART, 40),
    "MBart": (_BART, 40),
    "OPT": (
        {
            "hidden_size": 16,
            "word_embed_proj_dim": 16,
            "ffn_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": POSITIONS,
        },
        40,
    ),
    "Nystromformer": (
        {**_BERT, "num_landmarks": 8, "segment_means_seq_len": 8, "conv_kernel_size": 3},
        40,
    ),
    # From formulas, with a limit that the configuration tells, or without any.
    "Mpt": ({"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": POSITIONS}, 40),
    "CTRL": ({"n_embd": 16, "n_layer": 2, "n_head": 2, "dff": 32, "n_positions": 40}, 40),
    "Llama": (_BERT, 40),
    "Bloom": ({"hidden_size": 16, "n_layer": 2, "n_head": 2}, 512),
    "XLNet": ({"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}, 512),
    "T5": (_T5, 512),
    "Mamba": ({"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}, 512),
    # Padded out of sight to the windows or blocks of their attention.
    "Longformer": ({**_BERT, "attention_window": [8, 8]}, 32),
    "LED": ({**_LED, "attention_window": 64, "max_encoder_position_embeddings": 64}, 64),
    "BigBird": ({**_BERT, **_SPARSE}, 40),
    "BigBirdPegasus": ({**_BART, **_SPARSE}, 40),
    "LongT5": (
        {
            **_T5,
            "encoder_attention_type": "transient-global",
            "local_radius": 3,
            "global_block_size": 4,
        },
        512,
    ),
    "ModernBert": ({**_BERT, "local_attention": 8, "global_attn_every_n_layers": 2}, 40),
}
"""Settings of each family, and how many tokens it takes; 512 where that is the toolkit's limit."""

LEAKING = ("Nystromformer",)
"""Families whose convolutions carry padding into the text before it."""


def save(family: str, folder: Path, **tokenizer: Any) -> Path:
    """Write network and tokenizer, whose options are ``tokenizer``; returns the folder."""
    vocabulary, merges = byte_pairs("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    config = getattr(library(), f"{family}Config")(
        **{"vocab_size": len(vocabulary), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
        **FAMILIES[family][0],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(library(), f"{family}Model")(config).save_pretrained(folder)
    library().RobertaTokenizer(vocabulary, merges, **tokenizer).save_pretrained(folder)
    return folder
