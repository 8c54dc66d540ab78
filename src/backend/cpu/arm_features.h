// What an Arm processor has beyond Armv8.0. Linux tells by bits of the auxiliary vector, macOS by names.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#if defined(__APPLE__)
#include <sys/sysctl.h>
static inline bool arm_has(const char *feature) {
    int value = 0;
    size_t size = sizeof value;
    return !sysctlbyname(feature, &value, &size, NULL, 0) && value;
}
static inline bool arm_has_dotprod(void) {
    return arm_has("hw.optional.arm.FEAT_DotProd");
}
static inline bool arm_has_i8mm(void) {
    return arm_has("hw.optional.arm.FEAT_I8MM");
}
#else
#include <sys/auxv.h>
static inline bool arm_has_dotprod(void) {
    return getauxval(AT_HWCAP) >> 20 & 1; // HWCAP_ASIMDDP
}
static inline bool arm_has_i8mm(void) {
    return getauxval(AT_HWCAP2) >> 13 & 1; // HWCAP2_I8MM
}
#endif
