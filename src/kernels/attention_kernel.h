// The attention kernel for up to QUERIES queries, under the name ATTENTION: see attention.h.
KERNEL(ATTENTION, gpu_attention_args, GROUP_LANES) {
    (void)weight;
    const gpu_heads *h = &a->heads;
    const uint32_t dim = h->head_dim, D = h->D, span = GROUP_X, per_kv = h->n_heads / h->n_kv_heads,
                   skipped = GROUP_Y % a->parts * a->heads_a_group;
    if (span >= WORK(const uint32_t, a->batch.counts)[0]) return;
    attention_group t;
    GLOBAL const uint32_t *place_of = WORK(const uint32_t, a->batch.spans) + 4 * span;
    t.row = place_of[0];
    t.kv_head = GROUP_Y / a->parts;
    t.heads = per_kv - skipped < a->heads_a_group ? per_kv - skipped : a->heads_a_group;
    t.head = t.kv_head * per_kv + skipped;
    t.queries = place_of[1] * t.heads;
    t.position = place_of[2];
    GLOBAL const uint32_t *table = WORK(const uint32_t, place_of[3]);

    SHARED(uint32_t, qs, QUERIES * GPU_MAX_DIM / 4);
    SHARED(float, q_scale, QUERIES);
    SHARED(uint32_t, cells, QUERIES * GPU_MAX_DIM);   // scores, then parts of sums, then results
    SHARED(uint32_t, pairs, QUERIES * KEY_BLOCK / 2); // weights of values, two in a word
    SHARED(float, most, 256);
    SHARED(float, most_v, 256);
    SHARED(int32_t, sums, 256);
    SHARED(float, m, GPU_QUERIES);
    SHARED(float, v_max, GPU_QUERIES);
    SHARED(int32_t, l, GPU_QUERIES);
    SHARED(float, all_m, QUERIES);
    SHARED(float, all_l, QUERIES);
    SHARED(uint32_t, begun, QUERIES);
    PRIVATE(float, o, QUERIES *GPU_MAX_DIM / GROUP_LANES);

    const uint32_t words = D / 4, lanes_dim = GROUP_LANES / dim * dim, parts = GROUP_LANES / dim;
    LANES(j) {
        for (uint32_t i = j; i < QUERIES * words; i += GROUP_LANES) {
            const uint32_t query = i / words, row = t.row + query / t.heads;
            const uint64_t place = (uint64_t)row * h->n_heads + t.head + query % t.heads;
            qs[query * words + i % words] =
                query < t.queries ? WORK(const uint32_t, h->q)[place * words + i % words] : 0;
            if (i % words == 0 && query < t.queries) q_scale[query] = WORK(const float, h->q_scale)[place] * a->c;
        }
        if (j < QUERIES) {
            begun[j] = 0;
            all_m[j] = all_l[j] = 0;
        }
        for (uint32_t i = 0; i < QUERIES * GPU_MAX_DIM / GROUP_LANES; i++) MINE(o, j)[i] = 0;
    }
    const uint32_t last = t.position + t.queries / t.heads - 1, low = first_seen(a, t.position) / KEY_BLOCK;
    const uint32_t from = a->n_blocks ? GROUP_Z : low, to = a->n_blocks ? GROUP_Z : last / KEY_BLOCK;
    if (a->n_blocks && (GROUP_Z < low || GROUP_Z > last / KEY_BLOCK)) return;
    for (uint32_t block = from; block <= to; block++) {
        const uint32_t base = block * KEY_BLOCK, head_bytes = KEY_BLOCK * (2 * D + 8);
        GLOBAL const uint8_t *keys =
            kv + ((uint64_t)table[block] * h->kv_stride + h->kv_layer) * 16 + t.kv_head * head_bytes;
        GLOBAL const float *k_scale = (GLOBAL const float *)(GLOBAL const void *)(keys + 2 * KEY_BLOCK * D),
                           *v_scale = k_scale + KEY_BLOCK;
        LANES(j) { // a key each
            GLOBAL const uint32_t *k =
                (GLOBAL const uint32_t *)(GLOBAL const void *)keys + j / 16 * words * 16 + j % 16;
            int32_t dot[QUERIES];
            for (uint32_t i = 0; i < QUERIES; i++) dot[i] = 0;
            if (base + j <= last) {
                UNROLL(8)
                for (uint32_t c = 0; c < words; c++) {
                    const uint32_t key = k[c * 16];
                    for (uint32_t i = 0; i < QUERIES; i++) dot[i] = dot_ss(key, qs[i * words + c], dot[i]);
                }
            }
            for (uint32_t i = 0; i < QUERIES; i++)
                if (i < t.queries && base + j <= last)
                    cells[i * KEY_BLOCK + j] = bits_of((float)dot[i] * (q_scale[i] * k_scale[j]));
        }
        LANES(j) { // 32 lanes a query
            const uint32_t query = j / 32, at = t.position + query / t.heads, first = first_seen(a, at);
            float top = -0x1p+126f, v = 0.0f; // lanes of queries beyond the last have these
            for (uint32_t i = j % 32; i < KEY_BLOCK && query < t.queries; i += 32)
                if (base + i <= at && base + i >= first) {
                    const float score = float_of(cells[query * KEY_BLOCK + i]);
                    top = score > top ? score : top;
                    v = v_scale[i] > v ? v_scale[i] : v;
                }
            most[j] = top;
            most_v[j] = v;
        }
        max_of_32(most, m);
        max_of_32(most_v, v_max);
        LANES(j) { // two keys, and two queries of four
            for (uint32_t query = j / 128; query < QUERIES; query += 2) {
                const uint32_t at = t.position + query / t.heads, first = first_seen(a, at);
                const float f = v_max[query] > 0.0f ? 32767.0f / v_max[query] : 0.0f;
                uint32_t pair = 0;
                int32_t sum = 0;
                for (uint32_t c = 0; c < 2; c++) {
                    const uint32_t key = j % 128 * 2 + c;
                    if (query < t.queries && base + key <= at && base + key >= first) {
                        const float p = exponential(float_of(cells[query * KEY_BLOCK + key]) - m[query]);
                        sum += (int32_t)rounded(32767.0f * p);
                        pair |= (uint32_t)(int32_t)rounded(p * (v_scale[key] * f)) << 16 * c;
                    }
                }
                pairs[query * 128 + j % 128] = pair;
                cells[query * KEY_BLOCK + j % 128 * 2] = (uint32_t)sum;
            }
        }
        LANES(j) {
            int32_t sum = 0;
            for (uint32_t i = j % 32; i < 128 && j / 32 < QUERIES; i += 32)
                sum += (int32_t)cells[j / 32 * KEY_BLOCK + 2 * i];
            sums[j] = sum;
        }
        sum_of_32(sums, l);
        LANES(j) { // a dimension each, and a part of the keys
            const uint32_t d = j % dim, part = j / dim;
            GLOBAL const uint32_t *v = (GLOBAL const uint32_t *)(GLOBAL const void *)(keys + KEY_BLOCK * D) + d;
            const uint32_t quads = last - base < KEY_BLOCK ? (last - base) / 4 + 1 : 64;
            int32_t acc[QUERIES];
            for (uint32_t i = 0; i < QUERIES; i++) acc[i] = 0;
            UNROLL(8)
            for (uint32_t k = part; k < quads && j < lanes_dim; k += parts) {
                const uint32_t value = v[k * D];
                for (uint32_t i = 0; i < QUERIES; i++)
                    acc[i] = dot_16(pairs[i * 128 + 2 * k], pairs[i * 128 + 2 * k + 1], value, acc[i]);
            }
            for (uint32_t i = 0; i < QUERIES && j < lanes_dim; i++) cells[i * GPU_MAX_DIM + j] = (uint32_t)acc[i];
        }
        LANES(j) {
            for (uint32_t k = 0, i = j; i < t.queries * dim; k++, i += GROUP_LANES) {
                const uint32_t query = i / dim, at = t.position + query / t.heads;
                int32_t acc = 0;
                for (uint32_t part = 0; part < parts; part++)
                    acc += (int32_t)cells[query * GPU_MAX_DIM + part * dim + i % dim];
                const float next = (float)acc * v_max[query];
                if (base > at || base + KEY_BLOCK <= first_seen(a, at)) continue;
                if (!begun[query]) {
                    MINE(o, j)[k] = next;
                    continue;
                }
                const float top = m[query] > all_m[query] ? m[query] : all_m[query];
                const float x = exponential(all_m[query] - top), y = exponential(m[query] - top);
                MINE(o, j)[k] = (MINE(o, j)[k] * x) + (next * y);
            }
        }
        LANES(j) {
            const uint32_t at = t.position + j / t.heads;
            if (j < t.queries && base <= at && base + KEY_BLOCK > first_seen(a, at)) {
                const float next = (float)l[j];
                if (begun[j]) {
                    const float top = m[j] > all_m[j] ? m[j] : all_m[j];
                    all_l[j] = (all_l[j] * exponential(all_m[j] - top)) + (next * exponential(m[j] - top));
                    all_m[j] = top;
                } else {
                    all_l[j] = next;
                    all_m[j] = m[j];
                    begun[j] = 1;
                }
            }
        }
    }
    if (a->n_blocks) {
        LANES(j) {
            for (uint32_t k = 0, i = j; i < t.queries * dim; k++, i += GROUP_LANES) {
                const uint32_t query = i / dim;
                const uint64_t place = (uint64_t)(t.row + query / t.heads) * h->n_heads + t.head + query % t.heads;
                GLOBAL float *to_ = WORK(float, a->partial) + (place * a->n_blocks + GROUP_Z) * (dim + 2);
                to_[i % dim] = MINE(o, j)[k];
                if (i % dim == 0) {
                    to_[dim] = all_m[query];
                    to_[dim + 1] = all_l[query];
                }
            }
        }
        return;
    }
    LOCAL float *result = (LOCAL float *)(LOCAL void *)cells;
    LANES(j) {
        for (uint32_t k = 0, i = j; i < t.queries * dim; k++, i += GROUP_LANES)
            result[i / dim * GPU_MAX_DIM + i % dim] = MINE(o, j)[k];
    }
    attention_finish(a, t.queries, result, all_l);
    LANES(j) {
        for (uint32_t i = j; i < t.queries * dim; i += GROUP_LANES) {
            const uint32_t query = i / dim, row = t.row + query / t.heads;
            WORK(float, a->out)
            [(uint64_t)row * a->out_stride + (t.head + query % t.heads) * dim + i % dim] =
                result[query * GPU_MAX_DIM + i % dim];
        }
    }
}
#undef QUERIES
#undef ATTENTION
