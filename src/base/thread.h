// A persistent pool of threads that runs one job at a time, cut into tasks. Workers spin briefly for the next job, then
// sleep. Work is handed out by an atomic counter, so a slow core takes fewer tasks. Results never depend on who runs
// which task.
#pragma once
#include "base/base.h"

typedef struct upg_pool upg_pool;
// n_threads counts the caller; 0 means one per available core. Every thread runs with denormals flushed (see
// docs/arithmetic.md); the caller's own floating-point mode is changed only while it runs tasks.
upg_pool *upg_pool_new(int n_threads, upg_error *e);
void upg_pool_free(upg_pool *pool);
int upg_pool_threads(const upg_pool *pool);
// Keeps each thread but the caller on a core of its own, and off the first core, which is left to the caller. Fails if
// there are more threads than cores, or if the system has no such thing.
int upg_pool_pin(upg_pool *pool, upg_error *e);
// Runs fn(ctx, task, thread) for task = 0..n_tasks-1 and returns when all are done. thread is 0..n_threads-1, 0 the
// caller. Not reentrant, and one caller at a time.
typedef void upg_task_fn(void *ctx, int task, int thread);
void upg_pool_run(upg_pool *pool, upg_task_fn *fn, void *ctx, int n_tasks);
int upg_cpu_count(void); // cores this process may run on
