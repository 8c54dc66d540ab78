// The journal of a compression: whole lines come back, what a crash left of the last one does not, another key begins
// anew, and files that are not the journal's stay.
#include "../format/format_helpers.h"
#include "compress/journal.h"

static char folder[64], out[256], journal_path[300];
static const uint8_t key[16] = {1, 2, 3}, other_key[16] = {4};

static upg_journal *open_journal(const uint8_t k[16]) {
    upg_error e = {""};
    upg_journal *j = upg_journal_open(out, k, &e);
    if (!j) fail_msg("%s", e.message);
    return j;
}

static void add(upg_journal *j, const char *line) {
    upg_error e = {""};
    if (upg_journal_add(j, &e, "%s", line)) fail_msg("%s", e.message);
}

static void refused(const char *message) {
    upg_error e = {""};
    assert_null(upg_journal_open(out, key, &e));
    assert_message(e, message);
}

// Lines behind the key, which is the first.
static void assert_lines(const upg_journal *j, size_t n) {
    static const char *const lines[] = {"one", "two 2", "three"};
    assert_int_equal(upg_journal_lines(j), n + 1);
    for (size_t i = 0; i < n; i++) assert_string_equal(upg_journal_line(j, i + 1), lines[i]);
}

static void write_three(void) {
    upg_journal *j = open_journal(key);
    add(j, "one");
    add(j, "two 2");
    add(j, "three");
    upg_journal_close(j, true);
}

static void remove_all(void) {
    upg_journal_close(open_journal(key), false);
    assert_false(upg_path_exists(journal_path));
}

static void lines_come_back(void **state) {
    (void)state;
    write_three();
    upg_journal *j = open_journal(key);
    assert_lines(j, 3);
    upg_journal_close(j, true);
    remove_all();
}

// Cut or damaged at any byte of the last line, that line is gone, and the next one stands in its place.
static void a_torn_line_does_not_count(void **state) {
    (void)state;
    write_three();
    upg_buf whole = read_image(journal_path);
    size_t last = whole.size - strlen("three\n") - 17;
    for (size_t at = last; at < whole.size; at++)
        for (int flip = 0; flip < 2; flip++) {
            upg_buf torn = {0};
            upg_buf_add(&torn, whole.data, flip ? whole.size : at);
            if (flip) torn.data[at] ^= 4;
            write_file(folder, "out.partial/journal", torn.data, torn.size);
            upg_buf_free(&torn);
            upg_journal *j = open_journal(key);
            assert_lines(j, 2);
            add(j, "three");
            upg_journal_close(j, true);
            j = open_journal(key);
            assert_lines(j, 3);
            upg_journal_close(j, true);
        }
    upg_buf_free(&whole);
    remove_all();
}

static void another_key_begins_anew_and_leaves_others_alone(void **state) {
    (void)state;
    char path[256];
    write_three();
    write_text(folder, "out.partial/file", "half a model");
    write_text(folder, "out.partial/diary", "somebody's");
    upg_journal *j = open_journal(other_key);
    assert_lines(j, 0);
    assert_false(upg_path_exists(path_in(path, folder, "out.partial/file")));
    assert_true(upg_path_exists(path_in(path, folder, "out.partial/diary")));
    upg_journal_close(j, false);
    assert_true(upg_path_exists(path_in(path, folder, "out.partial/diary")));
    unlink(path);
    remove_all();
}

static void nothing_added_nothing_left(void **state) {
    (void)state;
    upg_journal_close(open_journal(key), true);
    assert_false(upg_path_exists(journal_path));
}

static void one_at_a_time(void **state) {
    (void)state;
    write_three();
    upg_journal *j = open_journal(key);
    refused("another process is writing there");
    assert_lines(j, 3);
    add(j, "four");
    upg_journal_close(j, true);
    j = open_journal(key);
    assert_int_equal(upg_journal_lines(j), 5);
    upg_journal_close(j, true);
    remove_all();
}

static void what_is_no_journal_is_refused(void **state) {
    (void)state;
    char path[256];
    write_text(folder, "out.partial", "a file");
    refused("cannot create");
    unlink(path_in(path, folder, "out.partial"));
    assert_int_equal(mkdir(path, 0777), 0);
    assert_int_equal(mkdir(journal_path, 0777), 0);
    refused("journal");
    assert_int_equal(rmdir(journal_path), 0);
    assert_int_equal(symlink("/dev/null", journal_path), 0);
    refused("journal");
    unlink(journal_path);
    remove_all();
}

static int make(void **state) {
    (void)state;
    temporary_folder(folder);
    path_in(out, folder, "out");
    snprintf(journal_path, sizeof journal_path, "%s.partial/journal", out);
    return 0;
}

static int clean(void **state) {
    (void)state;
    remove_folder(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_come_back),
        cmocka_unit_test(a_torn_line_does_not_count),
        cmocka_unit_test(another_key_begins_anew_and_leaves_others_alone),
        cmocka_unit_test(nothing_added_nothing_left),
        cmocka_unit_test(one_at_a_time),
        cmocka_unit_test(what_is_no_journal_is_refused),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
