// The thread pool: one job at a time, an atomic ticket counter, spin then sleep. See thread.h.
//
// A job is published by bumping `epoch`. Workers spin on it for a few microseconds (a decode step publishes hundreds of
// jobs a token) and then sleep on a condition variable. The caller takes tickets like everybody else and leaves when
// every worker has checked out of the job, so a job's data never outlives the call.
#include "base/thread.h"
#include <pthread.h>
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { SPINS = 4000 };

struct upg_pool {
    int n_threads; // the caller included
    int n_started;
    pthread_t *threads;
    upg_task_fn *fn;
    void *ctx;
    int n_tasks;
    atomic_int next;    // next task
    atomic_int running; // workers that have not finished the current job
    atomic_uint epoch;
    atomic_int sleepers;
    bool stop;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
};

static void pause_cpu(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// The mode of docs/arithmetic.md, section 1, whatever the program around us set: denormals count as zero, rounding is
// to nearest, nothing traps. Returns the mode to restore.
static uint64_t set_mode(void) {
#if defined(__x86_64__)
    unsigned csr = _mm_getcsr();
    _mm_setcsr(0x1f80 | 0x8040);
    return csr;
#elif defined(__aarch64__)
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)1 << 24));
    return fpcr;
#else
    return 0;
#endif
}

static void restore_mode(uint64_t mode) {
#if defined(__x86_64__)
    _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"(mode));
#else
    (void)mode;
#endif
}

static void work(upg_pool *p, int thread) {
    for (;;) {
        int task = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (task >= p->n_tasks) return;
        p->fn(p->ctx, task, thread);
    }
}

static void wait_for_epoch(upg_pool *p, unsigned seen) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&p->epoch, memory_order_acquire) != seen) return;
        pause_cpu();
    }
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->epoch) == seen) pthread_cond_wait(&p->wake, &p->mutex);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->mutex);
}

struct start {
    upg_pool *pool;
    int thread;
};

static void *worker(void *arg) {
    struct start s = *(struct start *)arg;
    free(arg);
    upg_pool *p = s.pool;
    set_mode();
    for (unsigned seen = 0;; seen++) {
        wait_for_epoch(p, seen);
        if (p->stop) return NULL;
        work(p, s.thread);
        atomic_fetch_sub_explicit(&p->running, 1, memory_order_release);
    }
}

static void publish(upg_pool *p) {
    atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->sleepers)) {
        pthread_mutex_lock(&p->mutex);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->mutex);
    }
}

int upg_cpu_count(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

upg_pool *upg_pool_new(int n_threads, upg_error *e) {
    if (n_threads <= 0) n_threads = upg_cpu_count();
    if (n_threads > 1024) {
        upg_fail(e, "%d threads: at most 1024", n_threads);
        return NULL;
    }
    upg_pool *p = upg_alloc(1, sizeof *p, e);
    if (!p) return NULL;
    p->n_threads = n_threads;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wake, NULL);
    p->threads = upg_alloc((size_t)n_threads, sizeof *p->threads, e);
    for (int i = 1; p->threads && i < n_threads; i++) {
        struct start *s = upg_alloc(1, sizeof *s, e);
        if (s) *s = (struct start){p, i};
        if (!s || pthread_create(&p->threads[i], NULL, worker, s)) {
            free(s);
            upg_fail(e, "cannot start thread %d of %d", i + 1, n_threads);
            upg_pool_free(p);
            return NULL;
        }
        p->n_started++;
    }
    if (!p->threads) {
        upg_pool_free(p);
        return NULL;
    }
    return p;
}

int upg_pool_pin(upg_pool *p, upg_error *e) {
    cpu_set_t all;
    if (sched_getaffinity(0, sizeof all, &all)) return upg_fail(e, "cannot pin threads: %s", strerror(errno));
    if (CPU_COUNT(&all) < p->n_threads)
        return upg_fail(e, "cannot pin %d threads to %d cores", p->n_threads, CPU_COUNT(&all));
    for (int cpu = 0, thread = 0; thread < p->n_threads; cpu++) {
        if (!CPU_ISSET(cpu, &all)) continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        int rc = thread ? pthread_setaffinity_np(p->threads[thread], sizeof one, &one) : 0;
        if (rc) return upg_fail(e, "cannot pin a thread to core %d: %s", cpu, strerror(rc));
        thread++;
    }
    return 0;
}

void upg_pool_free(upg_pool *p) {
    if (!p) return;
    p->stop = true;
    publish(p);
    for (int i = 1; i <= p->n_started; i++) pthread_join(p->threads[i], NULL);
    free(p->threads);
    pthread_mutex_destroy(&p->mutex);
    pthread_cond_destroy(&p->wake);
    free(p);
}

int upg_pool_threads(const upg_pool *p) {
    return p->n_threads;
}

void upg_pool_run(upg_pool *p, upg_task_fn *fn, void *ctx, int n_tasks) {
    uint64_t mode = set_mode();
    p->fn = fn;
    p->ctx = ctx;
    p->n_tasks = n_tasks;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    if (p->n_started && n_tasks > 1) {
        atomic_store_explicit(&p->running, p->n_started, memory_order_relaxed);
        publish(p);
        work(p, 0);
        for (int i = 0; atomic_load_explicit(&p->running, memory_order_acquire); i++)
            if (i < SPINS)
                pause_cpu();
            else
                sched_yield();
    } else {
        work(p, 0);
    }
    restore_mode(mode);
}
