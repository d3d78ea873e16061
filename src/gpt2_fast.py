# Tangled from book/gpt2/fast.md; sha256 fa07a1fee6c3
"""gpt2.py with weights that are read faster: packed for oneDNN, or rounded to 8 bits."""

import argparse
import warnings
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from safetensors import safe_open
from torch import nn

import gpt2


class Packed(nn.Module):
    """A linear layer whose weight lies in the order in which oneDNN reads it fastest."""
    def __init__(self, layer):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight, 1)
        self.bias = layer.bias

    def forward(self, x):
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def in_8_bits(layer):
    """The linear layer with weights of 8 bits, and a scale for each of their rows."""
    warnings.filterwarnings("ignore", "torch.*quanti")  # PyTorch announces a successor
    layer.qconfig = torch.ao.quantization.per_channel_dynamic_qconfig
    return torch.ao.nn.quantized.dynamic.Linear.from_float(layer)


def load(model, int8=False):
    """The GPT2, its linear layers packed or in 8 bits, and the Tokenizer of a model."""
    network, tokenizer = gpt2.load(model)
    if not int8 and not torch.backends.mkldnn.is_available():
        return network, tokenizer  # this PyTorch has no oneDNN
    find = Path if Path(model).is_dir() else hf_hub_download  # as in gpt2.py
    with safe_open(find(model, "model.safetensors"), "pt", backend="pread") as file:
        stored = {name.removeprefix("transformer."): name for name in file.keys()}
        linear = [n for n, layer in network.named_modules() if isinstance(layer, nn.Linear)]
        for name in reversed(linear):  # the largest first, the head
            layer = network.get_submodule(name)
            weight = file.get_tensor(stored[f"{name}.weight".replace("lm_head", "wte")])
            weight = weight.float().t() if ".c_" in name else weight.float()
            layer.weight = nn.Parameter(weight, requires_grad=False)  # nothing else holds it
            network.set_submodule(name, in_8_bits(layer) if int8 else Packed(layer))
    return network, tokenizer


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS)
    options.add_argument("--int8", action="store_true", help="weights of 8 bits: less exact")
    gpt2.main(options, lambda args: load(args.model, args.int8))
