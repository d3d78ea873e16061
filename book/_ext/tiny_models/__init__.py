"""The book's tools, from a chapter to a page.

=============  ====================================================================================
chapters       a chapter's front matter and code cells
tangle         cells to the files of ``src/``, in memory
untangle       edits of these files back to cells, in memory
files          the same with files: read, compared, written
fingerprint    what a chapter's outputs depend on
execute        execute the chapters, each only when something that it depends on has changed
pages          the Sphinx extension: chapters with their outputs, captions, the pages of ``src/``
pictures       what the build does for the interactive pictures
mathml, terms, accessible, lean    further Sphinx extensions, for all pages
edition, citations, press    what a published book needs: its address, how it is cited
permalinks     addresses within pages that stay valid
notebooks      chapters to take home
=============  ====================================================================================

Each uses only those above it. ``python book/_ext/tiny_models --help`` is the command line. What
chapters themselves import is in ``book/_kit``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the Sphinx extension; other uses don't need Sphinx."""
    from tiny_models import pages

    return pages.setup(app)
