// The texts of default_text.h, as they stand in data/: the assembler finds them from the root of the repository, where make runs.
    .section .rodata
    .global upg_calibration_text, upg_calibration_text_end, upg_heldout_text, upg_heldout_text_end
    .hidden upg_calibration_text, upg_calibration_text_end, upg_heldout_text, upg_heldout_text_end
upg_calibration_text:
    .incbin "data/calibration.txt"
upg_calibration_text_end:
    .byte 0
upg_heldout_text:
    .incbin "data/heldout.txt"
upg_heldout_text_end:
    .byte 0
    .section .note.GNU-stack,"",%progbits
