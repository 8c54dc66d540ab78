// Comparing two models' logits for one token.
#pragma once

typedef struct upg_row_score {
    double nll;           // of the target, in nats
    double kl;            // KL(reference || model)
    double reference_nll; // 0 without a reference
    int same_top;         // both have the same likeliest token
} upg_row_score;

// logits, reference: [n], of the model and of what it is measured against (or NULL). target: the token that follows.
// Sums are in double, in the order of the tokens.
upg_row_score upg_score_row(const float *logits, const float *reference, int n, int target);
