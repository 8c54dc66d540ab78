// The default model, compiled into the command so that `upg run` works with nothing else at hand.
    .section .rodata
    .balign 4096
    .global upg_default_model
upg_default_model:
    .incbin "models/tales.upg"
    .global upg_default_model_end
upg_default_model_end:
    .byte 0
    .section .note.GNU-stack,"",%progbits
