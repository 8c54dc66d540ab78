// The fat binary that nvcc made of kernels.cu. FATBIN is its path.
    .section .rodata
    .balign 16
    .global upg_cuda_kernels
    .hidden upg_cuda_kernels
upg_cuda_kernels:
    .incbin FATBIN
    .section .note.GNU-stack, "", %progbits
