// What a compression has done so far, kept beside its output so that a stopped one goes on: a folder with the journal
// and the files that it speaks of. The journal is lines of text, each with its own checksum; what a crash leaves of the
// last one does not count.
#pragma once
#include "base/base.h"

typedef struct upg_journal upg_journal;

// Opens OUT.partial, made if needed, for whoever has this key (of source and options). What another key left there is
// removed; files that no journal makes stay. Refuses, and touches nothing, if another process has it open.
upg_journal *upg_journal_open(const char *out, const uint8_t key[16], upg_error *e);
// keep: leave the folder for the next one, unless nothing was added. Otherwise it is removed with its files.
void upg_journal_close(upg_journal *j, bool keep);
// The path of "file", "streams", "sensitivity", "original" or "heldout" in the folder; owned by j.
const char *upg_journal_file(upg_journal *j, const char *name, upg_error *e);

size_t upg_journal_lines(const upg_journal *j);
const char *upg_journal_line(const upg_journal *j, size_t i);
int upg_journal_add(upg_journal *j, upg_error *e, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
