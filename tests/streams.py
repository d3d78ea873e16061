"""What the tests of both tokenizers ask of text that comes token by token."""


def assert_held_back(tokenizer, text):
    """Decode a text's tokens as a stream: each character is shown as soon as it is whole."""
    read, seen = [], ""

    def taken():
        for token in tokenizer.encode(text):
            read.append(token)
            yield token

    for part in tokenizer.decode(taken()):
        seen += part
        so_far = b"".join(tokenizer.token_bytes[token] for token in read)
        assert seen == so_far.decode("utf-8", "ignore")
    assert seen == text
