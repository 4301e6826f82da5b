"""A random model of a few thousand parameters, in a folder."""

from __future__ import annotations

from pathlib import Path


def write_model(folder: Path) -> Path:
    """Write it, with a byte-level tokenizer, and return ``folder``."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["Q: 1 + 2 =\nA: 3"], vocab_size=300, special_tokens=["<stop>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, eos_token="<stop>", pad_token="<stop>", clean_up_tokenization_spaces=False
    )
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=1,  # of 32, the smallest that vLLM on a CPU takes
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder
