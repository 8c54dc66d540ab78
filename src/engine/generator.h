// Where a generator's drafts come from can be changed: by tests, and by what may draft better one day.
#pragma once
#include "upg.h"

// Writes at most max tokens that may follow text[0..n) and returns how many.
typedef int upg_draft_source(void *ctx, const int32_t *text, int n, int max, int32_t *draft);
void upg_generator_set_source(upg_generator *g, upg_draft_source *source, void *ctx); // NULL: the text itself
