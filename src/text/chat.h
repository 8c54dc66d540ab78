// What a chat template wrote, as token ids.
#pragma once
#include "text/template.h"
#include "text/tokenizer.h"

// Appends the ids of rendered. A control token's name counts where the template wrote all of it; elsewhere it is text
// like any other. What lies between control tokens is one piece, whoever wrote it, so that a conversation without
// control tokens in it gives the ids that transformers' apply_chat_template gives.
int upg_tokenizer_encode_chat(const upg_tokenizer *t, const upg_template_output *rendered, upg_ids *out, upg_error *e);
