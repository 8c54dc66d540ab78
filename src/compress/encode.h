// Coding one matrix: rotate, scale, search, and lay out as codec/panel.h says.
#pragma once
#include "backend/math.h"
#include "compress/feedback.h"
#include "format/weights.h"

typedef struct upg_encoder upg_encoder; // workspaces of all threads
// math: who searches for codes and multiplies for their feedback, or NULL.
upg_encoder *upg_encoder_new(upg_pool *pool, upg_math *math, uint64_t rotation_seed, upg_search_mode mode,
                             upg_error *e);
void upg_encoder_free(upg_encoder *en);

// w: an original matrix. as: the encoding it gets. feedback: of the layer's inputs in the basis it is coded in, or
// NULL. data: [upg_encoded_bytes]; scale: [rows]; values: [rows][cols] what the code stands for, in the original basis,
// or NULL. *error is the relative squared error. Non-finite weights are refused by row.
int upg_encode_matrix(upg_encoder *en, const upg_tensor *w, const upg_writer_tensor *as, const upg_feedback *feedback,
                      uint8_t *data, float *scale, float *values, double *error, upg_error *e);
