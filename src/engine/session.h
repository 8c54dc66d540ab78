// What the engine knows of a session beside upg.h.
#pragma once
#include "upg.h"

int upg_session_sequences(const upg_session *s);
// Rows that may be run behind one whose logits are wanted, with theirs: 0 if logits depend on how rows are batched.
int upg_session_rows_ahead(const upg_session *s);
