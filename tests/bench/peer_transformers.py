"""The same models in transformers. It also makes what the Hub has and we don't."""

import shutil

import torch
import worker
from tokenizers.processors import TemplateProcessing
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


def load(directory, numbers="float32"):
    """The model; it does not stop before it has written all the tokens that it is asked for."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, numbers))
    model.generation_config.update(do_sample=False, eos_token_id=None, pad_token_id=0)
    return model


def writer(directory, *numbers):
    """Load the model; the function that writes with it."""
    model = load(directory, *numbers)

    def write(prompt, tokens, seen):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        model.generate(ids, attention_mask=mask, max_new_tokens=tokens, streamer=Streamer(seen))

    return write


def start(directory, *numbers):
    """The same as our script with PROMPT --tokens 1 --temperature 0."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer(worker.PROMPT, return_tensors="pt")
    ids = load(directory, *numbers).generate(**inputs, max_new_tokens=1)
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def make_gpt2(directory):
    """Write GPT-2 124M with random weights as the Hub has it, for ours too."""
    torch.manual_seed(0)
    GPT2Model(GPT2Config()).save_pretrained(directory)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(worker.ROOT / "book/models/fairy-gpt2" / name, directory)


def make_gemma(directory):
    """Write the tokenizer.json of a directory that has only tokenizer.model.

    Made special, as in the original: <bos> begins a text, and what is only text has no turns.
    """
    tokenizer = AutoTokenizer.from_pretrained(directory)
    begin = {"single": "<bos> $A", "special_tokens": [("<bos>", tokenizer.bos_token_id)]}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(**begin)
    marks = [f"<{end}_of_{what}>" for end in ("start", "end") for what in ("turn", "image")]
    tokenizer.backend_tokenizer.add_special_tokens(marks)
    tokenizer.save_pretrained(directory)
    ids = AutoTokenizer.from_pretrained(directory)(worker.PROMPT).input_ids
    assert ids == worker.prompt_ids(directory), f"the tokenizer gives {ids}"


if __name__ == "__main__":
    worker.run(
        decode=lambda folder, tokens, *how: worker.decode(writer(folder, *how), folder, tokens),
        prompt=lambda folder, *how: worker.prompt(writer(folder, *how), folder),
        start=start,
        make_gpt2=make_gpt2,
        make_gemma=make_gemma,
    )
