#!/usr/bin/env python3
"""Makes task files for `upg eval` from a held-out text: last words and choices. They have the form of LAMBADA and HellaSwag, not their
difficulty: they show what compression costs, not how a model compares with published figures.

usage: make_tasks.py TEXT --tokenizer tokenizer.json --last-word OUT.jsonl --choices OUT.jsonl [--items N] [--seed N] [--wikitext]

TEXT is a text file, or FILE.u16, little-endian 16-bit ids of the tokenizer, which only cuts: files suit any model. --wikitext undoes
the spacing of that text, and leaves out its headings and what has unknown words.
Last word: passages of 4 sentences that lie next to each other in a paragraph and end inside the last one, with a word of at least 4
letters that occurs in the passage before. (LAMBADA's passages end where a sentence does, and are chosen by people.)
Choices: CONTEXT tokens of the text, the ENDING tokens that follow them, and 3 stretches of as many tokens from elsewhere in the
text, all cut at spaces, in random order.
"""
import argparse
import array
import json
import random
import re
import sys
from tokenizers import Tokenizer

CONTEXT, ENDING, WRONG = 60, 20, 3
UNKNOWN = "<unk>"


def read(path, tokenizer):
    if not path.endswith(".u16"):
        with open(path, encoding="utf-8", newline="") as f:
            return f.read()
    with open(path, "rb") as f:
        ids = array.array("H", f.read())
    if sys.byteorder == "big":
        ids.byteswap()
    return tokenizer.decode(ids.tolist(), skip_special_tokens=True)


def plain_wikitext(text):
    lines = (line.strip() for line in text.split("\n"))
    text = "\n\n".join(line for line in lines if line and not line.startswith("="))
    for old, new in ((r" @(.)@ ", r"\1"), (r" ([,.;:!?)\]%])", r"\1"), (r"([(\[$]) ", r"\1"), (r" '(s|t|re|ve|ll|d|m)\b", r"'\1"),
                     (r" ' ", "' "), (r'" ([^"\n]*?) "', r'"\1"')):
        text = re.sub(old, new, text)
    return text


def last_words(text, rng):
    for paragraph in re.split(r"\n\s*\n", text):
        sentences = re.findall(r"\S.*?[.!?][\"'”’)]*(?=\s|$)", " ".join(paragraph.split()))
        for at in range(0, len(sentences) - 3, 2):
            passage, begin = " ".join(sentences[at:at + 4]), len(" ".join(sentences[at:at + 3])) + 1
            ends = [w.end() for w in re.finditer(r"(?<= )[A-Za-z]{4,}\b(?!['’-])", passage)
                    if w.start() > begin and re.search(rf"\b{w.group()}\b", passage[:begin])]
            if ends and len(passage) < 1500 and UNKNOWN not in passage:
                yield {"text": passage[:rng.choice(ends)]}


def choices(text, tokenizer, n, rng):
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    starts = [i for i, (a, _) in enumerate(offsets) if a < len(text) and text[a] == " " and text[a + 1:a + 2].isalpha()]
    if len(starts) < 100:
        sys.exit("the text is too short")

    def ending(at):  # from a space to a space
        end = offsets[min(at + ENDING, len(offsets) - 1)][0]
        while end < len(text) and not text[end].isspace():
            end += 1
        return " ".join(text[offsets[at][0]:end].split())

    def stretch(first, last):
        return text[offsets[first][0]:offsets[last][1]]

    candidates = [i for i in starts if i >= CONTEXT and i + 2 * ENDING < len(offsets) and
                  UNKNOWN not in stretch(i - CONTEXT, i + 2 * ENDING)]
    for at in sorted(rng.sample(candidates, min(n, len(candidates)))):
        begin = offsets[at - CONTEXT][0]
        while begin > 0 and not text[begin - 1].isspace():
            begin -= 1
        context = text[begin:offsets[at][0]].strip()
        right = ending(at)
        wrong = []
        while len(wrong) < WRONG:
            other = rng.choice(candidates)
            if abs(other - at) > 10 * (CONTEXT + ENDING) and ending(other) not in wrong + [right]:
                wrong.append(ending(other))
        label = rng.randrange(WRONG + 1)
        yield {"context": context, "endings": wrong[:label] + [right] + wrong[label:], "label": label}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("text")
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--last-word", required=True)
    p.add_argument("--choices", required=True)
    p.add_argument("--items", type=int, default=500)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--wikitext", action="store_true")
    o = p.parse_args()
    tokenizer = Tokenizer.from_file(o.tokenizer)
    text, rng = read(o.text, tokenizer), random.Random(o.seed)
    if o.wikitext:
        text = plain_wikitext(text)
    words = list(last_words(text, rng))
    chosen = sorted(rng.sample(range(len(words)), min(o.items, len(words))))
    for path, items in ((o.last_word, (words[i] for i in chosen)), (o.choices, choices(text, tokenizer, o.items, rng))):
        n = 0
        with open(path, "w", encoding="utf-8", newline="\n") as f:
            for n, item in enumerate(items, 1):
                f.write(json.dumps(item, ensure_ascii=False) + "\n")
        print(f"{path}: {n} items")


main()
