// The default texts, which default_text_data.S places in the library.
#include "compress/default_text.h"

extern const char upg_calibration_text[], upg_calibration_text_end[], upg_heldout_text[], upg_heldout_text_end[];

const char *upg_default_text(bool heldout, size_t *size) {
    const char *text = heldout ? upg_heldout_text : upg_calibration_text;
    *size = (size_t)((heldout ? upg_heldout_text_end : upg_calibration_text_end) - text);
    return text;
}
