// See score.h.
#include "engine/score.h"
#include <math.h>
#include <stddef.h>

// log of the sum of exp, and the likeliest token.
static double log_sum(const float *l, int n, int *top) {
    *top = 0;
    for (int i = 1; i < n; i++)
        if (l[i] > l[*top]) *top = i;
    double sum = 0, m = l[*top];
    for (int i = 0; i < n; i++) sum += exp(l[i] - m);
    return m + log(sum);
}

upg_row_score upg_score_row(const float *logits, const float *reference, int n, int target) {
    int top, reference_top;
    double sum = log_sum(logits, n, &top);
    upg_row_score s = {.nll = sum - (double)logits[target]};
    if (!reference) return s;
    double reference_sum = log_sum(reference, n, &reference_top);
    for (int i = 0; i < n; i++)
        s.kl += exp(reference[i] - reference_sum) * ((reference[i] - reference_sum) - (logits[i] - sum));
    s.reference_nll = reference_sum - (double)reference[target];
    s.same_top = top == reference_top;
    return s;
}
