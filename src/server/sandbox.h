// Takes from the process what a server does not need, so that a mistake in it is of less use to an attacker: files
// (Landlock) and system calls (seccomp). Both hold for the calling thread and all that are made after it.
#pragma once
#include "base/base.h"

typedef struct sandbox_paths {
    const char *read[4];  // files that may be opened for reading again; what is replaced by renaming counts as the same
    const char *write[4]; // files or folders that may be written; NULLs are skipped
} sandbox_paths;

// What was not possible because the system has it not is no error: done says what was, such as "seccomp yes, landlock
// no (the kernel has none)".
int sandbox_enter(const sandbox_paths *paths, char done[128], upg_error *e);
