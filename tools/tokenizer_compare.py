#!/usr/bin/env python3
"""Compares `upg tokenize` with other implementations on whole files.

    tools/tokenizer_compare.py --upg build/upg MODEL TEXT...

MODEL is a tokenizer.json (compared with `tokenizers`), a tokenizer.model (with `sentencepiece`) or a rank file of cl100k (with
`tiktoken`). Control tokens in the text are recognised by the first only. Prints a line for each text; the exit status is 1 if ids or
the decoded text differ.
"""
import argparse
import base64
import subprocess
import sys


def reference(path):
    """(options for upg, text to ids, ids to text)"""
    if path.endswith(".json"):
        from tokenizers import Tokenizer
        tok = Tokenizer.from_file(path)
        return ["--special"], lambda t: tok.encode(t, add_special_tokens=False).ids, lambda ids: tok.decode(ids, skip_special_tokens=False)
    if path.endswith(".model"):
        import sentencepiece
        sp = sentencepiece.SentencePieceProcessor(model_file=path)
        return [], sp.encode, sp.decode
    import tiktoken
    from tokenizer_vectors import LLAMA3
    with open(path, encoding="ascii") as f:
        ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in f)}
    enc = tiktoken.Encoding("cl100k", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens={})
    return [], lambda t: enc.encode(t, disallowed_special=()), enc.decode


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--upg", default="build/upg")
    parser.add_argument("model")
    parser.add_argument("text", nargs="+")
    args = parser.parse_args()
    options, encode, decode = reference(args.model)
    failed = False
    for name in args.text:
        with open(name, encoding="utf-8", newline="") as f:
            text = f.read()
        run = [args.upg, "tokenize", args.model]
        out = subprocess.run(run + options, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
        ids, expected = [int(i) for i in out.split()], encode(text)
        back = subprocess.run(run + ["--special", "--decode"], input=out, stdout=subprocess.PIPE, check=True).stdout.decode()
        same = "same ids" if ids == expected else f"ids differ from place {next((i for i, (a, b) in enumerate(zip(ids, expected)) if a != b), min(len(ids), len(expected)))}"
        printed = "same text" if back == decode(expected) else "text differs"
        failed |= ids != expected or printed != "same text"
        print(f"{name}: {len(expected)} ids, {same}, {printed}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
