// Prints the layout of what include/upg.h shows: test_abi.sh compares it with abi.txt.
#include <stdio.h>
#include <upg.h>

#define STRUCT(type)       printf("struct %s %zu\n", #type, sizeof(type))
#define FIELD(type, field) printf("  %s %zu %zu\n", #field, offsetof(type, field), sizeof(((type *)0)->field))

int main(void) {
    STRUCT(upg_error);
    FIELD(upg_error, message);
    STRUCT(upg_session_options);
    FIELD(upg_session_options, n_threads);
    FIELD(upg_session_options, context);
    FIELD(upg_session_options, n_sequences);
    FIELD(upg_session_options, max_rows);
    FIELD(upg_session_options, max_logits);
    FIELD(upg_session_options, pin);
    FIELD(upg_session_options, kv_bytes);
    FIELD(upg_session_options, device);
    FIELD(upg_session_options, gpu_bytes);
    STRUCT(upg_row);
    FIELD(upg_row, token);
    FIELD(upg_row, sequence);
    FIELD(upg_row, logits);
    STRUCT(upg_bias);
    FIELD(upg_bias, token);
    FIELD(upg_bias, bias);
    STRUCT(upg_sampling);
    FIELD(upg_sampling, temperature);
    FIELD(upg_sampling, top_k);
    FIELD(upg_sampling, top_p);
    FIELD(upg_sampling, min_p);
    FIELD(upg_sampling, repeat_penalty);
    FIELD(upg_sampling, presence_penalty);
    FIELD(upg_sampling, frequency_penalty);
    FIELD(upg_sampling, n_prompt);
    FIELD(upg_sampling, bias);
    FIELD(upg_sampling, n_bias);
    FIELD(upg_sampling, seed);
    STRUCT(upg_generator_counts);
    FIELD(upg_generator_counts, runs);
    FIELD(upg_generator_counts, drafted);
    FIELD(upg_generator_counts, accepted);
    return 0;
}
