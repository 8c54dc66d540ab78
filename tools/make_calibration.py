#!/usr/bin/env python3
"""Makes data/calibration.txt and data/heldout.txt from public-domain parts and the texts in data/own.

Usage: make_calibration.py PACKAGES BOOKS VALID: a folder with a subfolder for each unpacked Debian package of data/README.md, the text
of the reference corpus of the default model, and that of its test set, of which nothing may enter. The result is the same on every run.
Every part is cut in chunks of about 2,500 bytes, or the pieces of its own file; those of all parts are merged by their relative position, so that
any prefix has the mix.
"""
import gzip
import pathlib
import re
import sys
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parent.parent
GRAM, CHUNK = 50, 2500
PACKAGES = pathlib.Path(sys.argv[1])


def read(path):
    data = pathlib.Path(path).read_bytes()
    text = (gzip.decompress(data) if str(path).endswith('.gz') else data).decode('utf-8', 'replace')
    text = re.sub('\x1b\\[[0-9;]*m', '', text).replace('\r', '')
    return unicodedata.normalize('NFC', ''.join(c for c in text if c in '\n\t' or c.isprintable()).replace('\ufffd', ''))


def chunks(text, start, size):
    """Paragraphs from `start` on, joined to chunks, until `size` bytes are there."""
    out, now, total = [], '', 0
    for p in re.split(r'\n%?\s*\n', text[start:])[1:]:
        now += p.strip('\n') + '\n\n'
        n = len(now.encode())
        if n >= CHUNK:
            out.append(now)
            total += n
            now = ''
            if total >= size:
                break
    return out


def grams(text):
    return {text[i:i + GRAM] for i in range(len(text) - GRAM + 1)}


def assemble(parts, own, forbidden):
    """The parts and the files of the folder `own`, which are split in pieces by lines %%, in one text."""
    for path in sorted((ROOT / 'data/own' / own).glob('*.txt')):
        parts.append([p.strip('\n') + '\n\n' for p in re.split('^%%\n', read(path), flags=re.M) if p.strip()])
    seen, lines = set(forbidden), []
    for part in parts:
        kept = 0
        for i, chunk in enumerate(part):
            g = grams(chunk)
            if len(chunk.encode()) < 4 * CHUNK and not g & seen and len(g) > .95 * (len(chunk) - GRAM + 1):
                seen |= g
                kept += len(chunk.encode())
                lines.append(((i + .5) / len(part), len(lines), chunk))
        print(f'{kept:7} of {len("".join(part).encode())} bytes of', part[0][:40].split('\n')[0])
    return ''.join(c for _, _, c in sorted(lines)).rstrip('\n') + '\n'


books, valid = read(sys.argv[2]), grams(read(sys.argv[3]))
doyle, twain = books.index('## Author: Arthur Conan Doyle'), books.index('## Author: Mark Twain')
share = lambda package, path: read(PACKAGES / package / 'usr/share' / path)
stb = lambda name: read(PACKAGES / 'libstb-dev/usr/include/stb' / name)
page = lambda name: share('sqlite3-doc', f'doc/sqlite3/{name}')
opticks = read(PACKAGES / 'golang-1.19-src/usr/share/go-1.19/src/testdata/Isaac.Newton-Opticks.txt')
dhamma = 'display-dhammapada/dhammapada-{}-transl.txt'

calibration = assemble([
    chunks(books, 2000, 45000), chunks(books, twain + 2000, 45000), chunks(opticks, 20000, 35000),
    chunks(share('display-dhammapada', dhamma.format('english')), 4000, 12000),
    chunks(share('display-dhammapada', dhamma.format('polish')), 4000, 15000),
    chunks(share('fortunes-zh', 'games/fortunes/tang300'), 0, 25000),
    chunks(stb('stb_ds.h'), 22000, 25000), chunks(stb('stb_sprintf.h'), 12000, 25000), chunks(stb('stb_truetype.h'), 45000, 25000),
    chunks(page('wal.html'), 4000, 20000)], 'calibration', valid)
heldout = assemble([
    chunks(books[:twain], doyle + 2000, 40000), chunks(stb('stb_rect_pack.h'), 6000, 10000), chunks(stb('stb_vorbis.h'), 30000, 12000),
    chunks(share('fortunes-zh', 'games/fortunes/song100'), 0, 9000)],
    'heldout', valid | grams(calibration))
for name, text in ('calibration', calibration), ('heldout', heldout):
    g = [text[i:i + GRAM] for i in range(len(text) - GRAM + 1)]
    (ROOT / f'data/{name}.txt').write_bytes(text.encode())
    print(f'{name}: {len(text.encode())} bytes, {1 - len(set(g)) / len(g):.4%} repeated and {len(set(g) & valid)} test-set {GRAM}-grams')
print(f'common to both: {len(grams(calibration) & grams(heldout))}')
