// Takes from this process what a server needs no more.
#pragma once
#include "base/base.h"

// Paths that are still to be opened: NULL-terminated lists, of files or folders. From here on this thread and those it
// makes can open nothing else, start no program and reach no other machine. report: a line for the operator, also about
// what the kernel does not have, which is no failure.
void sandbox_apply(const char *const *read, const char *const *write, upg_buf *report);
