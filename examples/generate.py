"""Generates text with UPG's library through ctypes: nothing to install beside it. python3 generate.py MODEL.upg "A prompt" [libupg.so]"""
import ctypes as c
import sys


class Error(c.Structure):
    _fields_ = [("message", c.c_char * 512)]


class Sampling(c.Structure):
    _fields_ = [("temperature", c.c_float), ("top_k", c.c_int), ("top_p", c.c_float), ("min_p", c.c_float), ("repeat_penalty", c.c_float),
                ("presence_penalty", c.c_float), ("frequency_penalty", c.c_float), ("n_prompt", c.c_size_t), ("bias", c.c_void_p),
                ("n_bias", c.c_size_t), ("seed", c.c_uint64)]


class Row(c.Structure):
    _fields_ = [("token", c.c_int32), ("sequence", c.c_int32), ("logits", c.c_bool)]


def load(path):
    upg = c.CDLL(path)
    for name, result, *arguments in (
            ("model_open", c.c_void_p, c.c_char_p, c.POINTER(Error)), ("model_free", None, c.c_void_p),
            ("model_vocab_size", c.c_int, c.c_void_p), ("model_is_eos", c.c_bool, c.c_void_p, c.c_int32),
            ("tokenize", c.c_int, c.c_void_p, c.c_char_p, c.c_size_t, c.c_bool, c.POINTER(c.POINTER(c.c_int32)), c.POINTER(c.c_size_t), c.POINTER(Error)),
            ("free", None, c.c_void_p), ("session_new", c.c_void_p, c.c_void_p, c.c_void_p, c.POINTER(Error)), ("session_free", None, c.c_void_p),
            ("session_prefill", c.c_int, c.c_void_p, c.c_int, c.POINTER(c.c_int32), c.c_size_t, c.POINTER(Error)),
            ("session_run", c.c_int, c.c_void_p, c.POINTER(Row), c.c_int, c.POINTER(Error)),
            ("session_logits", c.c_void_p, c.c_void_p, c.c_int),
            ("sampler_new", c.c_void_p, c.c_int, c.POINTER(Sampling), c.POINTER(Error)), ("sampler_free", None, c.c_void_p),
            ("sample", c.c_int32, c.c_void_p, c.c_void_p, c.POINTER(c.c_int32), c.c_size_t),
            ("text_new", c.c_void_p, c.c_void_p, c.c_bool, c.c_bool, c.POINTER(Error)), ("text_free", None, c.c_void_p),
            ("text_push", c.c_int, c.c_void_p, c.c_int32, c.POINTER(c.c_void_p), c.POINTER(c.c_size_t), c.POINTER(Error))):
        function = getattr(upg, "upg_" + name)
        function.restype, function.argtypes = result, arguments
    return upg


def main(model_path, prompt, library="libupg.so.0"):
    upg, e, n = load(library), Error(), c.c_size_t()

    def check(ok):
        if not ok:
            sys.exit(e.message.decode())

    model = upg.upg_model_open(model_path.encode(), e)
    check(model)
    session = upg.upg_session_new(model, None, e)
    check(session)
    sampler = upg.upg_sampler_new(upg.upg_model_vocab_size(model), Sampling(top_p=1, repeat_penalty=1), e)
    check(sampler)
    text = upg.upg_text_new(model, False, True, e)
    check(text)
    ids, piece, data = c.POINTER(c.c_int32)(), c.c_void_p(), prompt.encode()
    check(upg.upg_tokenize(model, data, len(data), False, ids, n, e) == 0)
    tokens = ids[:n.value]
    check(upg.upg_session_prefill(session, 0, ids, n.value, e) == 0)
    upg.upg_free(ids)
    for i in range(40):
        if i:
            check(upg.upg_session_run(session, Row(tokens[-1], 0, True), 1, e) == 0)
        token = upg.upg_sample(sampler, upg.upg_session_logits(session, 0), (c.c_int32 * len(tokens))(*tokens), len(tokens))
        if upg.upg_model_is_eos(model, token):
            break
        tokens.append(token)
        check(upg.upg_text_push(text, token, piece, n, e) == 0)
        sys.stdout.write(c.string_at(piece, n.value).decode())
    print()
    upg.upg_text_free(text)
    upg.upg_sampler_free(sampler)
    upg.upg_session_free(session)
    upg.upg_model_free(model)


if __name__ == "__main__":
    main(*sys.argv[1:])
