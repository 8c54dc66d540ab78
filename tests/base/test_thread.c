// The thread pool: every task runs exactly once and is finished when the call returns, in the floating-point mode of
// docs/arithmetic.md. Tasks write plain memory, so that ThreadSanitizer sees whether the pool orders what it should.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/thread.h"

enum { MAX_THREADS = 8, MAX_TASKS = 5000 };

static upg_pool *open_pool(int n_threads) {
    upg_error e = {{0}};
    upg_pool *pool = upg_pool_new(n_threads, &e);
    if (!pool) fail_msg("%s", e.message);
    return pool;
}

// ---- Each task once ----

typedef struct counts {
    pthread_t caller;
    int n_threads, n_tasks;
    int runs[MAX_TASKS];        // of each task
    pthread_t who[MAX_THREADS]; // the thread behind each number
    bool seen[MAX_THREADS];
    int wrong[MAX_THREADS]; // tasks with a number out of range, or whose thread is not always the same
} counts;

static void count(void *ctx, int task, int thread) {
    counts *c = ctx;
    if (thread < 0 || thread >= c->n_threads) abort();
    if (c->seen[thread] && !pthread_equal(c->who[thread], pthread_self())) c->wrong[thread]++;
    c->who[thread] = pthread_self();
    c->seen[thread] = true;
    if (!thread != !!pthread_equal(c->caller, pthread_self())) c->wrong[thread]++;
    if (task < 0 || task >= c->n_tasks)
        c->wrong[thread]++;
    else
        c->runs[task]++;
}

static void every_task_runs_once(void **state) {
    (void)state;
    static const int n_tasks[] = {0, 1, 2, 3, 7, 8, 9, 64, 1000, MAX_TASKS};
    counts *c = test_malloc(sizeof *c);
    for (int n = 1; n <= MAX_THREADS; n++) {
        upg_pool *pool = open_pool(n);
        assert_int_equal(upg_pool_threads(pool), n);
        for (size_t i = 0; i < sizeof n_tasks / sizeof *n_tasks; i++) {
            memset(c, 0, sizeof *c);
            c->caller = pthread_self();
            c->n_threads = n;
            c->n_tasks = n_tasks[i];
            upg_pool_run(pool, count, c, n_tasks[i]);
            for (int t = 0; t < MAX_TASKS; t++) assert_int_equal(c->runs[t], t < n_tasks[i]);
            for (int t = 0; t < MAX_THREADS; t++) assert_int_equal(c->wrong[t], 0);
        }
        upg_pool_free(pool);
    }
    test_free(c);
}

// ---- Many small jobs ----

typedef struct job {
    int add, n_tasks;
    int out[16]; // [n_tasks]
} job;

static void add_task(void *ctx, int task, int thread) {
    (void)thread;
    job *j = ctx;
    j->out[task] += j->add + task;
}

static void scale_task(void *ctx, int task, int thread) {
    (void)thread;
    job *j = ctx;
    j->out[task] = j->out[task] * 3 + j->add;
}

// Property: with jobs of different functions and contexts in quick succession, none leaks into the next, and what a job
// wrote is there for the next one and the caller.
static void thousands_of_jobs_follow_one_another(void **state) {
    (void)state;
    for (int n = 1; n <= MAX_THREADS; n *= 2) {
        upg_pool *pool = open_pool(n);
        for (int i = 0; i < 4000 / n; i++) {
            job *j = test_calloc(1, sizeof *j); // its own memory, so that a late task would be a use after free
            *j = (job){.add = i, .n_tasks = i * 7 % 17};
            for (int t = 0; t < 16; t++) j->out[t] = t;
            upg_pool_run(pool, add_task, j, j->n_tasks);
            j->add = 5;
            upg_pool_run(pool, scale_task, j, j->n_tasks);
            for (int t = 0; t < 16; t++) assert_int_equal(j->out[t], t < j->n_tasks ? (t + i + t) * 3 + 5 : t);
            test_free(j);
        }
        upg_pool_free(pool);
    }
}

// Property: a pinned thread runs on one core, each on another, none on the first.
static void where(void *ctx, int task, int thread) {
    (void)task;
    cpu_set_t set;
    if (thread && !pthread_getaffinity_np(pthread_self(), sizeof set, &set)) ((cpu_set_t *)ctx)[thread] = set;
    usleep(1000);
}
static void pinned_threads_keep_apart(void **state) {
    (void)state;
    const int n = upg_cpu_count() < 8 ? upg_cpu_count() : 8;
    upg_error e = {{0}};
    upg_pool *pool = open_pool(n);
    cpu_set_t seen[8], all;
    for (int i = 0; i < 8; i++) CPU_ZERO(&seen[i]);
    assert_int_equal(upg_pool_pin(pool, &e), 0);
    for (int i = 0; i < 20; i++) upg_pool_run(pool, where, seen, 16);
    CPU_ZERO(&all);
    for (int i = 1; i < n; i++) {
        assert_true(CPU_COUNT(&seen[i]) <= 1); // none: it never came to run a task
        CPU_AND(&seen[0], &all, &seen[i]);
        assert_int_equal(CPU_COUNT(&seen[0]), 0);
        CPU_OR(&all, &all, &seen[i]);
    }
    upg_pool_free(pool);
    pool = open_pool(upg_cpu_count() + 1);
    assert_int_equal(upg_pool_pin(pool, &e), -1);
    assert_non_null(strstr(e.message, "cannot pin"));
    upg_pool_free(pool);
}

static void sleeping_threads_wake(void **state) {
    (void)state;
    upg_pool *pool = open_pool(4);
    for (int i = 0; i < 100; i++) {
        job j = {.add = i};
        usleep(i % 4 * 1000); // long enough, mostly, for the workers to stop spinning
        upg_pool_run(pool, add_task, &j, 16);
        for (int t = 0; t < 16; t++) assert_int_equal(j.out[t], i + t);
    }
    upg_pool_free(pool);
}

// ---- All threads take part ----

typedef struct meeting {
    atomic_int arrived;
    int n;
    float tiny, one, small; // a denormal; 1; 2^-26, which is lost in 1 + small when rounding to nearest
    float product[MAX_THREADS], sum[MAX_THREADS], difference[MAX_THREADS];
} meeting;

static void compute(meeting *m, int i) {
    volatile float tiny = m->tiny, one = m->one, small = m->small, least = 0x1p-126f, half = .5f;
    m->product[i] = tiny * one + least * half; // an operand that is denormal, a result that is
    m->sum[i] = one + small;
    m->difference[i] = one - small;
}

static void meet(void *ctx, int task, int thread) {
    (void)thread;
    meeting *m = ctx;
    atomic_fetch_add(&m->arrived, 1);
    while (atomic_load(&m->arrived) < m->n) sched_yield(); // nobody can take two tasks
    compute(m, task);
}

// Property: as many tasks as threads run at the same time, one on each.
static void all_threads_take_part(void **state) {
    (void)state;
    for (int n = 1; n <= MAX_THREADS; n++) {
        upg_pool *pool = open_pool(n);
        for (int i = 0; i < 20; i++) {
            meeting m = {.n = n};
            upg_pool_run(pool, meet, &m, n);
            assert_int_equal(atomic_load(&m.arrived), n);
        }
        upg_pool_free(pool);
    }
}

// Property: inside tasks, on every thread, denormals are zero and rounding is to nearest, whatever mode the caller was
// in when it made the pool or runs a job; the caller finds its own mode again afterwards.
static void tasks_run_in_the_fixed_mode(void **state) {
    (void)state;
#if defined(__x86_64__) || defined(__aarch64__)
    static const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    for (int i = 0; i < 16; i++) {
        fesetround(modes[i % 4]);
        upg_pool *pool = open_pool(1 + i % MAX_THREADS);
        int n = upg_pool_threads(pool);
        fesetround(modes[i / 4]);
        meeting before = {.tiny = 0x1p-130f, .one = 1, .small = 0x1p-26f}, after = before, m = before;
        m.n = n;
        compute(&before, 0);
        upg_pool_run(pool, meet, &m, n);
        compute(&after, 0);
        int mode = fegetround();
        fesetround(FE_TONEAREST);
        upg_pool_free(pool);
        for (int t = 0; t < n; t++) {
            assert_true(m.product[t] == 0);
            assert_true(m.sum[t] == 1);
            assert_true(m.difference[t] == 1);
        }
        assert_true(before.product[0] == 0x1p-130f + 0x1p-127f);
        assert_true(before.product[0] == after.product[0]);
        assert_true(before.sum[0] == after.sum[0]);
        assert_true(before.difference[0] == after.difference[0]);
        assert_int_equal(mode, modes[i / 4]);
    }
#else
    print_message("the pool does not know this machine's floating-point mode\n");
    skip();
#endif
}

// ---- Making and freeing ----

static void pools_come_and_go(void **state) {
    (void)state;
    for (int i = 0; i < 100; i++) {
        upg_pool *a = open_pool(1 + i % 5), *b = open_pool(1 + i % 3);
        job x = {.add = 1}, y = {.add = 2};
        if (i % 4) upg_pool_run(a, add_task, &x, 16); // else it goes unused
        upg_pool_run(b, add_task, &y, 16);
        if (i % 4) upg_pool_run(a, add_task, &y, 16);
        upg_pool_free(a);
        upg_pool_run(b, add_task, &x, 16);
        for (int t = 0; t < 16; t++) {
            assert_int_equal(x.out[t], (1 + t) * (i % 4 ? 2 : 1));
            assert_int_equal(y.out[t], (2 + t) * (i % 4 ? 2 : 1));
        }
        upg_pool_free(b);
    }
    upg_pool_free(NULL);
}

static void the_number_of_threads_is_checked(void **state) {
    (void)state;
    upg_error e = {{0}};
    assert_null(upg_pool_new(1025, &e));
    assert_non_null(strstr(e.message, "1025 threads"));
    upg_pool *pool = open_pool(0);
    assert_int_equal(upg_pool_threads(pool), upg_cpu_count());
    upg_pool_free(pool);
}

// Property: only the cores that this process may run on count.
static void cores_are_those_of_the_affinity_mask(void **state) {
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_int_equal(upg_cpu_count(), CPU_COUNT(&all));
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++)
        if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    int n = upg_cpu_count();
    upg_pool *pool = open_pool(3); // more threads than cores: slow, not stuck
    job j = {.add = 4};
    upg_pool_run(pool, add_task, &j, 16);
    upg_pool_free(pool);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    assert_int_equal(n, 1);
    for (int t = 0; t < 16; t++) assert_int_equal(j.out[t], 4 + t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(thousands_of_jobs_follow_one_another),
        cmocka_unit_test(pinned_threads_keep_apart),
        cmocka_unit_test(sleeping_threads_wake),
        cmocka_unit_test(all_threads_take_part),
        cmocka_unit_test(tasks_run_in_the_fixed_mode),
        cmocka_unit_test(pools_come_and_go),
        cmocka_unit_test(the_number_of_threads_is_checked),
        cmocka_unit_test(cores_are_those_of_the_affinity_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
