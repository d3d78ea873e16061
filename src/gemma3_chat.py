# Tangled from book/gemma3/chat.md; sha256 e115988f9776
"""A conversation with Gemma 3, turn by turn: an empty line ends it, /new begins another."""

import sys

import jax
import numpy as np

import gemma3
from gemma3_cli import command_line, run, show, turn


class Conversation:
    """What was said, as token ids, and a cache with the keys and values of the first of them."""
    def __init__(self, config, params, tokenizer):
        self.config, self.params, self.tokenizer = config, params, tokenizer
        self.stop = {*config.stop, tokenizer.special["<end_of_turn>"]}
        self.empty = gemma3.empty_cache(config), 0
        self.ids, self.held, self.n_read = [], self.empty, 0

    def hear(self, text):
        """Add what a user says, and what ends the answer before it."""
        special, encode = self.tokenizer.special, self.tokenizer.encode
        begin = [special["<end_of_turn>"], *encode("\n")] if self.ids else [special["<bos>"]]
        self.ids += begin + turn(self.tokenizer, text)

    def read(self):
        """Scores (1, V) of what follows the ids; those that the cache has are not read again."""
        (cache, n), self.held = self.held, self.empty  # step takes the cache, even if it is stopped
        new = np.array([self.ids[n:]])
        scores, cache = gemma3.read(self.config, self.params, new, cache, n)
        self.held, self.n_read = (cache, len(self.ids)), self.n_read + new.size
        return scores

    def answer(self, tokens, temperature=0, top_k=1, top_p=1, seed=0):
        """Yield up to tokens ids, until the model or the context ends the answer."""
        key, room = jax.random.key(seed), self.config.context - len(self.ids)
        for _ in range(min(tokens, room)):
            drawn = gemma3.draw(self.read(), key, len(self.ids), temperature, top_k, top_p).item()
            if drawn in self.stop:
                break
            self.ids.append(drawn)
            yield drawn


def ask():
    """What the user types in a line; nothing where the input ends."""
    print("> " if sys.stdin.isatty() else "", end="", flush=True)
    return sys.stdin.readline().strip()


def converse(args):
    """Answer what the user types, until an empty line; true if the context is full before."""
    model = config, _, tokenizer = gemma3.load(args.model, args.int8)
    if tokenizer.special["<end_of_turn>"] not in config.stop:
        print("gemma3_chat.py: this model was not made for conversations", file=sys.stderr)
    sampling = min(args.top_k, len(tokenizer.token_bytes)), args.top_p, args.seed % 2**32
    conversation = Conversation(*model)
    while text := ask():
        if text == "/new":
            conversation = Conversation(*model)
            continue
        conversation.hear(text)
        ids = conversation.answer(args.tokens, args.temperature, *sampling)
        try:
            show(tokenizer.decode(ids))
        except KeyboardInterrupt:
            continue  # it ends the answer; between answers, the conversation
        if len(conversation.ids) >= config.context:
            return True
    return False


if __name__ == "__main__":
    run(command_line("gemma3_chat.py", __doc__, tokens=500), converse)
