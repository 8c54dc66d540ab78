// Fills a kernel table from ops.h and the including file's `linear` and `supported`. Define KERNELS and ISA first, and
// ATTEND if it is not op_attend.
#ifndef ATTEND
#define ATTEND op_attend
#endif
const upg_cpu_kernels KERNELS = {
    .isa = ISA,
    .supported = supported,
    .rmsnorm = op_rmsnorm,
    .quantise = op_quantise,
    .swiglu = op_swiglu,
    .add = op_add,
    .rope = op_rope,
    .quantise_head = op_quantise_head,
    .attend = ATTEND,
    .exp = op_exp,
    .linear = linear,
};
