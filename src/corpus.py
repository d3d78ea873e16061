# Tangled from book/gpt2/training.md; sha256 9cf5a700f4e8
"""Stories from a folder of books: those to train on, and those held out to measure with."""

import re

from gpt2 import END_OF_TEXT

PASSAGE = 20  # words in a row that no story may share with one that is held out


def stories(book, notes=r"[Ff]olk-|Editor|PREFACE|[Tt]ranslat"):
    """The stories of a book, a paragraph a line: what stands between headings, if long enough."""
    if END_OF_TEXT in book:  # somebody has parted them already
        return [text for text in map(str.strip, book.split(END_OF_TEXT)) if text]
    book = re.sub(r"(?m)^(?:[IVX]+\.?|\[.*)\n", "", book)  # the numbers of parts, remarks
    texts = re.split(r"(?m)^(?:[^a-z\n]{3,80}|.{3,60}(?<![.,;:!?'\")\]-]))\n", book)
    return [text for text in texts if len(text) > 2000 and not re.search(notes, text)]


def passages(story):
    """All runs of PASSAGE words in a story."""
    words = re.findall(r"\w+", story.lower())
    return {" ".join(words[i : i + PASSAGE]) for i in range(len(words) - PASSAGE + 1)}


def split(own, books):
    """Stories to train on, and stories and whole books held out of a list of each.

    Every twentieth is held out, and what shares a passage with these is left out altogether.
    """
    stories, whole = own[19::20], [story for book in books[19::20] for story in book]
    rest = [story for n, story in enumerate(own, 1) if n % 20]
    rest += [story for n, book in enumerate(books, 1) if n % 20 for story in book]
    secret = set().union(*map(passages, stories + whole))
    rest = [story for story in rest if secret.isdisjoint(passages(story))]
    return {"trained_on": rest, "held_out_stories": stories, "held_out_books": whole}


def read_corpus(folder):
    """What split makes of the stories of a folder's .txt files, and of the books further below."""
    own, below = sorted(folder.glob("*.txt")), sorted(folder.glob("*/**/*.txt"))
    books = [stories(path.read_text("utf-8")) for path in own + below]
    return split([story for book in books[: len(own)] for story in book], books[len(own) :])
