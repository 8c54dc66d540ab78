// A compression that is stopped goes on where it was, whoever stops it and however often, and its file has the bytes of
// one that was left alone; what is damaged in between is done again.
#include "../engine/engine_helpers.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { TOKENS = 256 };

static char folder[64];
static upg_buf whole; // the file of a compression left alone

static upg_compress_options options(void) {
    return (upg_compress_options){.bits = 4.5,
                                  .calibration = UPG_TEXT_DEFAULT,
                                  .heldout = UPG_TEXT_DEFAULT,
                                  .calibration_tokens = TOKENS,
                                  .heldout_tokens = 64,
                                  .n_threads = 2};
}

static int compress(const char *name, const upg_compress_options *o, bool *resumed, upg_error *e) {
    char path[256];
    upg_compress_result r;
    int rc = upg_compress(STORIES, path_in(path, folder, name), o, &r, e);
    if (!rc && resumed) *resumed = r.resumed;
    upg_compress_result_free(&r);
    return rc;
}

static void assert_whole(const char *name) {
    char path[256], partial[300];
    upg_buf image = read_image(path_in(path, folder, name));
    assert_int_equal(image.size, whole.size);
    assert_memory_equal(image.data, whole.data, whole.size);
    upg_buf_free(&image);
    snprintf(partial, sizeof partial, "%s.partial", path);
    assert_false(upg_path_exists(partial));
    unlink(path);
}

// Stops at the n-th call.
static bool stop_at(void *ctx, double done, const char *what) {
    (void)done, (void)what;
    return --*(int *)ctx == 0;
}

static int count_calls(void) {
    upg_error e = {""};
    upg_compress_options o = options();
    int calls = 1 << 30;
    o.progress = stop_at;
    o.progress_ctx = &calls;
    if (compress("whole.upg", &o, NULL, &e)) fail_msg("%s", e.message);
    return (1 << 30) - calls;
}

static void stopped_anywhere_it_goes_on(void **state) {
    (void)state;
    char path[256];
    int calls = count_calls(), any = 0;
    whole = read_image(path_in(path, folder, "whole.upg"));
    unlink(path);
    for (int i = 0; i < 6; i++) {
        upg_error e = {""};
        upg_compress_options o = options();
        bool resumed = false;
        int at = calls * (2 * i + 1) / 12, stop = at;
        o.progress = stop_at;
        o.progress_ctx = &stop;
        assert_int_equal(compress("stopped.upg", &o, NULL, &e), -1);
        assert_message(e, "interrupted");
        assert_false(upg_path_exists(path_in(path, folder, "stopped.upg")));
        o.progress = NULL;
        o.n_threads = 1 + i % 3;
        if (compress("stopped.upg", &o, &resumed, &e)) fail_msg("%s", e.message);
        any += resumed;
        assert_whole("stopped.upg");
    }
    assert_true(any >= 2); // the first stops come before there is anything to go on with
}

// A child that is killed after a while, again and again, each time a little later.
static void killed_it_goes_on(void **state) {
    (void)state;
    bool done = false;
    for (int i = 0; i < 200 && !done; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (!child) {
            upg_compress_options o = options();
            _exit(compress("killed.upg", &o, NULL, NULL) ? 1 : 0);
        }
        usleep((useconds_t)(100000 + 150000 * i));
        kill(child, SIGKILL);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        done = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    assert_true(done);
    assert_whole("killed.upg");
}

// A disk is full for a process that may write no more: the error says so, and with room it goes on.
static void without_room_it_stops_and_goes_on(void **state) {
    (void)state;
    upg_error e = {""};
    upg_compress_options o = options();
    const rlim_t sizes[] = {20000, 200000, 700000};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (!child) {
            struct rlimit limit = {sizes[i], sizes[i]};
            signal(SIGXFSZ, SIG_IGN);
            if (setrlimit(RLIMIT_FSIZE, &limit)) _exit(2);
            int rc = compress("full.upg", &o, NULL, &e);
            _exit(rc && strstr(e.message, "cannot") ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    if (compress("full.upg", &o, NULL, &e)) fail_msg("%s", e.message);
    assert_whole("full.upg");
}

static void damage(const char *name, int how) {
    char path[300];
    struct stat st;
    snprintf(path, sizeof path, "%s/hurt.upg.partial/%s", folder, name);
    assert_int_equal(stat(path, &st), 0);
    if (how == 0) unlink(path);
    if (how == 1) assert_int_equal(truncate(path, st.st_size / 2), 0);
    if (how == 2) {
        upg_buf image = read_image(path);
        for (size_t i = 0; i < image.size; i++) image.data[i] ^= 1; // padding too
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(image.data, 1, image.size, f), image.size);
        fclose(f);
        upg_buf_free(&image);
    }
}

static void what_is_damaged_is_done_again(void **state) {
    (void)state;
    static const char *const names[] = {"file", "streams", "sensitivity", "journal"};
    int calls = count_calls();
    for (size_t i = 0; i < COUNT(names); i++)
        for (int how = 0; how < 3; how++) {
            upg_error e = {""};
            upg_compress_options o = options();
            int stop = calls * (i == 2 ? 4 : 17) / 20;
            o.progress = stop_at;
            o.progress_ctx = &stop;
            assert_int_equal(compress("hurt.upg", &o, NULL, &e), -1);
            damage(names[i], how);
            o.progress = NULL;
            if (compress("hurt.upg", &o, NULL, &e)) fail_msg("%s %d: %s", names[i], how, e.message);
            assert_whole("hurt.upg");
        }
}

// Other options begin anew; while somebody has the journal, another keeps out and touches nothing.
static void others_do_not_mix(void **state) {
    (void)state;
    char path[256], journal[300];
    upg_error e = {""};
    upg_compress_options o = options();
    int stop = count_calls() * 3 / 4;
    o.progress = stop_at;
    o.progress_ctx = &stop;
    assert_int_equal(compress("other.upg", &o, NULL, &e), -1);
    snprintf(journal, sizeof journal, "%s/other.upg.partial/journal", folder);
    upg_buf before = read_image(journal);
    int fd = open(journal, O_RDWR);
    assert_true(fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB));
    o = options();
    assert_int_equal(compress("other.upg", &o, NULL, &e), -1);
    assert_message(e, "another process is writing there");
    upg_buf after = read_image(journal);
    assert_int_equal(after.size, before.size);
    assert_memory_equal(after.data, before.data, before.size);
    upg_buf_free(&before);
    upg_buf_free(&after);
    close(fd);
    o.rotation_seed = 5;
    bool resumed = true;
    if (compress("other.upg", &o, &resumed, &e)) fail_msg("%s", e.message);
    assert_false(resumed);
    unlink(path_in(path, folder, "other.upg"));
}

static int make(void **state) {
    (void)state;
    temporary_folder(folder);
    return 0;
}

static int clean(void **state) {
    (void)state;
    upg_buf_free(&whole);
    remove_folder(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stopped_anywhere_it_goes_on),
        cmocka_unit_test(killed_it_goes_on),
        cmocka_unit_test(without_room_it_stops_and_goes_on),
        cmocka_unit_test(what_is_damaged_is_done_again),
        cmocka_unit_test(others_do_not_mix),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
