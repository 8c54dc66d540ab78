// What GGUF's tokenizer.ggml.pre names, as llama.cpp reads it. Where its own expression only approximates the one of
// the model's tokenizer.json (it has no \p{Lu} and folds only ASCII), the model's stands here.
#include "text/pretokenize.h"
#include <string.h>

// clang-format off
#define GPT2            {"gpt2"}
#define DIGITS_GPT2     {"digits", "gpt2"}
#define CL100K          {"cl100k"}
#define QWEN2           {"qwen2"}
#define DEEPSEEK_V3     {"3-numbers", "deepseek-v3-cjk", "deepseek-v3"}

const upg_pre upg_pres[] = {
    {"default", {"punctuation-but-backtick", "gpt2", "digit-runs", "3-digits"}, false, false},
    {"gpt-2", GPT2, false, false},
    {"phi-2", GPT2, false, false},
    {"mpt", GPT2, false, false},
    {"olmo", GPT2, false, false},
    {"jais", GPT2, false, false},
    {"gigachat", GPT2, false, false},
    {"a.x-4.0", GPT2, false, false},
    {"mellum", GPT2, false, false},
    {"exaone4", GPT2, false, false},
    {"trillion", GPT2, false, false},
    {"granite-docling", GPT2, false, false},
    {"smollm", DIGITS_GPT2, false, false},
    {"starcoder", DIGITS_GPT2, false, false},
    {"refact", DIGITS_GPT2, false, false},
    {"command-r", DIGITS_GPT2, false, false},
    {"codeshell", DIGITS_GPT2, false, false},
    {"exaone", DIGITS_GPT2, false, false},
    {"minerva-7b", DIGITS_GPT2, false, false},
    {"mellum2", DIGITS_GPT2, false, false},
    {"llama3", CL100K, true, true},
    {"llama-v3", CL100K, true, true},
    {"llama-bpe", CL100K, true, true},
    {"falcon3", CL100K, true, true},
    {"falcon-h1", CL100K, true, true},
    {"pixtral", CL100K, true, true},
    {"midm-2.0", CL100K, true, true},
    {"lfm2", CL100K, true, true},
    {"dbrx", CL100K, false, false},
    {"smaug-bpe", CL100K, false, false},
    {"glm4", CL100K, false, false},
    {"chatglm-bpe", CL100K, false, false},
    {"minicpm5", {"3-numbers", "cl100k-numbers"}, true, false},
    {"qwen2", QWEN2, false, false},
    {"deepseek-r1-qwen", QWEN2, false, false},
    {"kormo", QWEN2, false, false},
    {"megrez", QWEN2, false, false},
    {"stablelm2", QWEN2, false, false},
    {"hunyuan", QWEN2, false, false},
    {"solar-open", QWEN2, false, false},
    {"grok-2", QWEN2, false, false},
    {"bailingmoe", QWEN2, false, false},
    {"bailingmoe2", QWEN2, false, false},
    {"llada-moe", QWEN2, false, false},
    {"laguna", {"lines", "qwen2"}, false, false},
    {"qwen35", {"qwen35"}, false, false},
    {"gpt-4o", {"o200k"}, false, false},
    {"llama4", {"o200k"}, false, false},
    {"kanana2", {"o200k"}, false, false},
    {"minimax-m2", {"o200k"}, false, false},
    {"tekken", {"tekken"}, true, true},
    {"falcon", {"punctuation", "gpt2", "3-digits"}, false, false},
    {"deepseek-llm", {"newline", "deepseek-letters", "deepseek-signs", "trailing-spaces", "deepseek-cjk", "digit-runs"}, false, false},
    {"deepseek-coder", {"newline", "spaced-letters", "spaced-punctuation", "deepseek-cjk", "digits"}, false, false},
    {"deepseek-v3", DEEPSEEK_V3, false, false},
    {"hunyuan-dense", DEEPSEEK_V3, false, false},
    {"joyai-llm", DEEPSEEK_V3, false, false},
    {"bloom", {"bloom"}, false, false},
    {"poro-chat", {"bloom"}, false, false},
    {"gpt3-finnish", {"bloom"}, false, false},
    {"viking", {"bloom", "digits"}, false, false},
};
// clang-format on
const int upg_n_pres = (int)(sizeof upg_pres / sizeof *upg_pres);

const upg_pre *upg_pre_find(const char *name, size_t n) {
    for (int i = 0; i < upg_n_pres; i++)
        if (strlen(upg_pres[i].name) == n && !memcmp(upg_pres[i].name, name, n)) return &upg_pres[i];
    return NULL;
}
