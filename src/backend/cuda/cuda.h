// NVIDIA's driver, loaded when it is first needed: one program runs with it and without.
#pragma once
#include "base/base.h"

// What a machine has. Strings are static or the device's own.
typedef struct upg_cuda_info {
    char name[256];
    int major, minor; // compute capability
    int processors;   // multiprocessors
    int shared;       // bytes of shared memory that a block may have
    size_t bytes, free_bytes;
    char problem[256]; // why it is not usable, or ""
} upg_cuda_info;
// The number of devices, or -1 with why there is none that can be asked.
int upg_cuda_count(upg_error *e);
int upg_cuda_describe(int device, upg_cuda_info *info, upg_error *e);
