"""The same model in transformers. It also makes the weights that all read."""

import shutil

import torch
import worker
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2Model


class Streamer:
    """What generate hands the prompt to, and then each new token."""
    def __init__(self, seen):
        self.seen, self.prompt_came = seen, False

    def put(self, ids):
        if self.prompt_came:
            self.seen(ids.item())
        self.prompt_came = True

    def end(self):
        pass


def load(directory):
    """The model; it does not stop before it has written all the tokens that it is asked for."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.generation_config.update(do_sample=False, eos_token_id=None, pad_token_id=0)
    return model


def writer(directory):
    """Load the model; the function that writes with it."""
    model = load(directory)

    def write(prompt, tokens, seen):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        model.generate(ids, attention_mask=mask, max_new_tokens=tokens, streamer=Streamer(seen))

    return write


def start(directory):
    """The same as `python src/gpt2.py PROMPT --tokens 1 --temperature 0`."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer(worker.PROMPT, return_tensors="pt")
    ids = load(directory).generate(**inputs, max_new_tokens=1)
    return tokenizer.decode(ids[0])


def make(directory):
    """Write GPT-2 124M with random weights as the Hub has it, for ours too."""
    torch.manual_seed(0)
    GPT2Model(GPT2Config()).save_pretrained(directory)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(worker.ROOT / "book/models/fairy-gpt2" / name, directory)


if __name__ == "__main__":
    worker.run(
        decode=lambda directory, tokens: worker.decode(writer(directory), tokens),
        prompt=lambda directory: worker.prompt(writer(directory)),
        start=start,
        make=make,
    )
