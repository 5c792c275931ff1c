"""A tokenizer, a random language model and arguments for the trainers of TRL; no network."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

WORDS = ("<pad>", "<end>", "<unk>", *"abcdefghijklm")


def tokenizer():
    """A tokenizer of 16 words, built here: nothing is downloaded."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )


def policy(folder):
    """A random model that was read from a folder: TRL reads the reference from there again."""
    torch.manual_seed(0)
    size = {"vocab_size": len(WORDS), "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = GPT2Config(**size, bos_token_id=1, eos_token_id=1, pad_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    return GPT2LMHeadModel.from_pretrained(folder / "model")


def common(folder, steps):
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "max_steps": steps,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "learning_rate": 1e-3,
        "seed": 0,
    }
