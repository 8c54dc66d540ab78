#!/usr/bin/env python3
"""Converts a llama2.c checkpoint and its tokenizer to a Hugging Face model folder. Standard library only.

usage: convert_llama2c.py MODEL.bin TOKENIZER.bin OUT_DIR

models/stories260K was made by this from karpathy/tinyllamas' stories260K (MIT licence). Query and key rows are stored
interleaved there and are put in half-split order. The SentencePiece vocabulary becomes a byte-level BPE with the same
pieces: every way to split a piece into two known ones is a merge, ranked by the piece's score.
"""
import json, os, struct, sys


def byte_chars():
    """The GPT-2 table: a printable character for every byte."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {b: chr(b) for b in keep}, 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + extra)
            extra += 1
    return table


def read_floats(f, n):
    data = f.read(4 * n)
    if len(data) != 4 * n:
        sys.exit("checkpoint is truncated")
    return data


def half_split(data, heads, head_dim, dim):
    """Rows (pair, 2) of each head to (2, pair): interleaved RoPE pairs to split halves."""
    row, out = 4 * dim, []
    for h in range(heads):
        for part in range(2):
            for j in range(head_dim // 2):
                at = (h * head_dim + 2 * j + part) * row
                out.append(data[at : at + row])
    return b"".join(out)


def read_model(path):
    with open(path, "rb") as f:
        dim, ffn, layers, heads, kv_heads, vocab, context = struct.unpack("<7i", f.read(28))
        tied, vocab, hd = vocab > 0, abs(vocab), dim // heads
        kv = kv_heads * hd
        t = {"model.embed_tokens.weight": ((vocab, dim), read_floats(f, vocab * dim))}

        def each(name, rows, cols, heads_of=0):
            for i in range(layers):
                data = read_floats(f, rows * cols)
                if heads_of:
                    data = half_split(data, heads_of, hd, cols)
                shape = (cols,) if rows == 1 else (rows, cols)
                t[f"model.layers.{i}.{name}.weight"] = (shape, data)

        each("input_layernorm", 1, dim)
        each("self_attn.q_proj", dim, dim, heads)
        each("self_attn.k_proj", kv, dim, kv_heads)
        each("self_attn.v_proj", kv, dim)
        each("self_attn.o_proj", dim, dim)
        each("post_attention_layernorm", 1, dim)
        each("mlp.gate_proj", ffn, dim)
        each("mlp.down_proj", dim, ffn)
        each("mlp.up_proj", ffn, dim)
        t["model.norm.weight"] = ((dim,), read_floats(f, dim))
        if not tied:
            read_floats(f, 2 * context * hd // 2)  # RoPE tables
            t["lm_head.weight"] = ((vocab, dim), read_floats(f, vocab * dim))
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=dim, intermediate_size=ffn, num_hidden_layers=layers,
                  num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=hd, vocab_size=vocab, max_position_embeddings=context,
                  rope_theta=10000.0, rms_norm_eps=1e-5, hidden_act="silu", tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2)
    return config, t


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, (shape, data) in tensors.items():
        header[name] = dict(dtype="F32", shape=list(shape), data_offsets=[at, at + len(data)])
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, data in tensors.values():
            f.write(data)


def read_pieces(path, n):
    with open(path, "rb") as f:
        f.read(4)
        pieces = []
        for _ in range(n):
            score, size = struct.unpack("<fi", f.read(8))
            pieces.append((f.read(size), score))
    return pieces


def tokenizer(pieces):
    table = byte_chars()
    text = lambda b: "".join(table[x] for x in b)
    vocab, used = {}, {}
    special = ["<unk>", "<s>", "</s>"]
    for i, name in enumerate(special):
        vocab[name] = i
    for i, (piece, _) in enumerate(pieces):
        if i >= 259:
            vocab.setdefault(text(piece), i)
            used[piece] = i
    for b in range(256):  # byte tokens stand for bytes that are no piece of their own
        vocab[text(bytes([b])) if bytes([b]) not in used else f"<0x{b:02X}>"] = 3 + b
    merges = []
    for piece, _ in sorted(((p, pieces[i][1]) for p, i in used.items()), key=lambda x: (-x[1], used[x[0]])):
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if text(left) in vocab and text(right) in vocab:
                merges.append(f"{text(left)} {text(right)}")
    return dict(
        version="1.0", truncation=None, padding=None,
        added_tokens=[dict(id=i, content=c, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True) for i, c in enumerate(special)],
        normalizer=None,
        pre_tokenizer=dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=False),
        post_processor=dict(type="TemplateProcessing", single=[{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                            pair=[{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                            special_tokens={"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}),
        decoder=dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True),
        model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False,
                   byte_fallback=False, ignore_merges=False, vocab=dict(sorted(vocab.items(), key=lambda x: x[1])), merges=merges))


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    model, pieces, out = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    config, tensors = read_model(model)
    write_safetensors(out + "/model.safetensors", tensors)
    json.dump(config, open(out + "/config.json", "w"), indent=1)
    json.dump(tokenizer(read_pieces(pieces, config["vocab_size"])), open(out + "/tokenizer.json", "w"), indent=0, ensure_ascii=False)


main()
