"""Make the part of STIX Two Math that the book's formulas need.

    npm pack @fontsource/stix-two-math@5.3.0 && tar xzf fontsource-stix-two-math-5.3.0.tgz
    pip install fonttools brotli
    python make.py package/files/stix-two-math-latin-400-normal.woff2 stix-two-math.woff2

Chromium leaves as much room for a root as its widest sign would take, so all sizes of the sign
become as narrow as the smallest.
"""

import sys

from fontTools.subset import Options, Subsetter, load_font, parse_unicodes, save_font

CHARACTERS = (
    "20-7E,A0-FF,302-308,391-3F6,2010-2026,2032-2037,203E,2057,2061-2064,20D7,2102,210E,2112,"
    "2113,211D,2190-2195,21A6,21D0-21D4,2200-22FF,2308-230B,23DC-23DF,25CB,27E8,27E9,2A00-2A02,"
    "1D400-1D467,1D6A4,1D6A5,1D6E2-1D71B"
)


def narrow_roots(font):
    """Make all sizes of the root's sign as narrow as the smallest."""
    variants = font["MATH"].table.MathVariants
    sign = font.getBestCmap()[0x221A]
    sizes = variants.VertGlyphConstruction[variants.VertGlyphCoverage.glyphs.index(sign)]
    names = {size.VariantGlyph for size in sizes.MathGlyphVariantRecord}
    names |= {part.glyph for part in sizes.GlyphAssembly.PartRecords}
    width, _ = font["hmtx"][sign]
    for name in names - {sign}:
        glyph, (advance, bearing) = font["glyf"][name], font["hmtx"][name]
        scale = width / advance
        glyph.coordinates.scale((scale, 1))
        glyph.coordinates.toInt()
        glyph.recalcBounds(font["glyf"])
        font["hmtx"][name] = (width, round(bearing * scale))


if __name__ == "__main__":
    options = Options(flavor="woff2", layout_features=["*"], hinting=False)
    font = load_font(sys.argv[1], options)
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=parse_unicodes(CHARACTERS))
    subsetter.subset(font)
    narrow_roots(font)
    save_font(font, sys.argv[2], options)
