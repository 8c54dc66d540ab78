// The APIs' dialects over the real scheduler and a small model: an answer in parts says what the whole one says, what
// is wrong is refused by name, and calls of tools are found in texts however they are cut.
#include "fakes.h"
#include "server/handlers.h"
#include "server/params.h"
#include "server/tools.h"
#include "yyjson.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char template[] =
    "{% if tools %}{% for t in tools %}tool {{ t.function.name }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% for c in m.tool_calls or [] %}{{ c.function.name }} "
    "{{ c.function.arguments.where }}\n{% endfor %}{% endfor %}{% if add_generation_prompt %}Once upon a time{% endif "
    "%}";
static upg_model *model;
static upg_chat *chat;
static server_options options = {.name = "tales"};
static server serving;

static int set_up(void **state) {
    upg_error e = {0};
    (void)state;
    if (!(model = upg_model_open("models/tales.upg", &e)) || !(chat = upg_chat_new(model, template, &e)) ||
        !(serving.scheduler = upg_scheduler_new(
              model, &(upg_scheduler_options){.n_threads = 1, .n_parallel = 4, .context = 256}, &e))) {
        print_error("%s\n", e.message);
        return -1;
    }
    serving.options = &options;
    serving.model = model;
    serving.chat = chat;
    serving.chat_template = template;
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    upg_scheduler_free(serving.scheduler);
    upg_chat_free(chat);
    upg_model_free(model);
    return 0;
}

typedef void handler(server *s, exchange *x);

static yyjson_doc *ask(handler *h, const dialect *d, const char *body, int status) {
    exchange x;
    fake_open(&x, d, "/", body);
    h(&serving, &x);
    fake_wait(&x);
    if (x.status != status) print_error("%s\n-> %d %.*s\n", body, x.status, (int)x.out.size, x.out.data);
    assert_int_equal(x.status, status);
    assert_int_equal(x.n_ends, 1);
    yyjson_doc *doc = yyjson_read(x.out.data, x.out.size, 0);
    assert_non_null(doc);
    fake_close(&x);
    return doc;
}

static const char *at(yyjson_doc *doc, const char *pointer) {
    yyjson_val *v = yyjson_doc_ptr_get(doc, pointer);
    assert_true(yyjson_is_str(v));
    return yyjson_get_str(v);
}

// Strings at a pointer of all events of a stream, one after another. prefix: of the lines that count.
static char *gather(handler *h, const dialect *d, const char *body, const char *prefix, const char *pointer,
                    char *last) {
    exchange x;
    upg_buf text = {0};
    fake_open(&x, d, "/", body);
    h(&serving, &x);
    fake_wait(&x);
    assert_int_equal(x.status, 200);
    assert_true(x.streamed);
    for (char *p = x.out.data, *end; p < x.out.data + x.out.size; p = end + 1) {
        end = memchr(p, '\n', (size_t)(x.out.data + x.out.size - p));
        assert_non_null(end);
        size_t n = strlen(prefix);
        if (strncmp(p, prefix, n) || !strncmp(p + n, "[DONE]", 6)) continue;
        yyjson_doc *doc = yyjson_read(p + n, (size_t)(end - p) - n, 0);
        if (!doc) print_error("%.*s\n", (int)(end - p), p);
        assert_non_null(doc);
        upg_buf_str(&text, yyjson_get_str(yyjson_doc_ptr_get(doc, pointer))
                               ? yyjson_get_str(yyjson_doc_ptr_get(doc, pointer))
                               : "");
        if (last) snprintf(last, 64, "%.*s", end - p > 40 ? 40 : (int)(end - p), p);
        yyjson_doc_free(doc);
    }
    fake_close(&x);
    upg_buf_str(&text, "");
    return text.data ? text.data : calloc(1, 1);
}

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"Tell a tale\"}]"

typedef struct pair {
    handler *handle;
    const dialect *dialect;
    const char *whole, *streamed, *prefix, *whole_at, *delta_at;
} pair;

static void streams_equal_wholes(void **state) {
    (void)state;
    const pair pairs[] = {
        {openai_chat, &dialect_openai,
         "{" MESSAGES ",\"seed\":7,\"max_tokens\":40,\"logprobs\":true,\"top_logprobs\":2}",
         "{" MESSAGES ",\"seed\":7,\"max_tokens\":40,\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
         "data: ", "/choices/0/message/content", "/choices/0/delta/content"},
        {openai_completions, &dialect_openai, "{\"prompt\":\"Once\",\"seed\":7,\"max_tokens\":40,\"echo\":true}",
         "{\"prompt\":\"Once\",\"seed\":7,\"max_tokens\":40,\"echo\":true,\"stream\":true}",
         "data: ", "/choices/0/text", "/choices/0/text"},
        {openai_responses, &dialect_openai, "{\"input\":\"Tell a tale\",\"seed\":7,\"max_output_tokens\":40}",
         "{\"input\":\"Tell a tale\",\"seed\":7,\"max_output_tokens\":40,\"stream\":true}",
         "data: ", "/output/0/content/0/text", "/delta"},
        {anthropic_messages, &dialect_anthropic, "{" MESSAGES ",\"max_tokens\":40,\"temperature\":0}",
         "{" MESSAGES ",\"max_tokens\":40,\"temperature\":0,\"stream\":true}", "data: ", "/content/0/text",
         "/delta/text"},
        {ollama_chat, &dialect_ollama,
         "{\"model\":\"tales:latest\"," MESSAGES ",\"stream\":false,\"options\":{\"seed\":7,\"num_predict\":40}}",
         "{\"model\":\"tales\"," MESSAGES ",\"options\":{\"seed\":7,\"num_predict\":40}}", "", "/message/content",
         "/message/content"},
        {ollama_generate, &dialect_ollama,
         "{\"model\":\"tales\",\"prompt\":\"Once\",\"raw\":true,\"stream\":false,\"options\":{\"seed\":7,\"num_"
         "predict\":40}}",
         "{\"model\":\"tales\",\"prompt\":\"Once\",\"raw\":true,\"options\":{\"seed\":7,\"num_predict\":40}}", "",
         "/response", "/response"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const pair *p = &pairs[i];
        yyjson_doc *doc = ask(p->handle, p->dialect, p->whole, 200);
        char *streamed = gather(p->handle, p->dialect, p->streamed, p->prefix, p->delta_at, NULL);
        assert_string_equal(at(doc, p->whole_at), streamed);
        assert_true(strlen(streamed) > 20);
        free(streamed);
        yyjson_doc_free(doc);
    }
}

static void refused(handler *h, const dialect *d, const char *body, int status, const char *param) {
    exchange x;
    fake_open(&x, d, "/", body);
    h(&serving, &x);
    fake_wait(&x);
    if (x.status != status || strcmp(x.param, param))
        print_error("%s\n-> %d, %s, %.*s\n", body, x.status, x.param, (int)x.out.size, x.out.data);
    assert_int_equal(x.status, status);
    assert_string_equal(x.param, param);
    yyjson_doc *doc = yyjson_read(x.out.data, x.out.size, 0);
    assert_non_null(doc);
    yyjson_doc_free(doc);
    fake_close(&x);
}

static void what_is_wrong_is_named(void **state) {
    (void)state;
    static const struct {
        const char *body, *param;
        int status;
    } chats[] = {
        {"", "", 400},
        {"[]", "", 400},
        {"{\"a\":1,\"a\":2}", "", 400},
        {"{\"a\":{\"b\":1,\"b\":2}}", "", 400},
        {"{\"a\":\"\xff\"}", "", 400},
        {"{\"model\":\"other\"," MESSAGES "}", "model", 404},
        {"{}", "messages", 400},
        {"{\"messages\":[]}", "messages", 400},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", "messages", 400},
        {"{" MESSAGES ",\"temperature\":3}", "temperature", 400},
        {"{" MESSAGES ",\"temperature\":\"hot\"}", "temperature", 400},
        {"{" MESSAGES ",\"n\":65}", "n", 400},
        {"{" MESSAGES ",\"n\":1.5}", "n", 400},
        {"{" MESSAGES ",\"top_logprobs\":2}", "top_logprobs", 400},
        {"{" MESSAGES ",\"stop\":[\"\"]}", "stop", 400},
        {"{" MESSAGES ",\"logit_bias\":{\"x\":1}}", "logit_bias", 400},
        {"{" MESSAGES ",\"logit_bias\":{\"99999999\":1}}", "logit_bias", 400},
        {"{" MESSAGES ",\"response_format\":{\"type\":\"json_object\"}}", "response_format", 400},
        {"{" MESSAGES ",\"tool_choice\":\"required\"}", "tool_choice", 400},
        {"{" MESSAGES ",\"functions\":[{}]}", "functions", 400},
        {"{" MESSAGES ",\"stream_options\":{}}", "stream_options", 400},
    };
    for (size_t i = 0; i < sizeof chats / sizeof *chats; i++)
        refused(openai_chat, &dialect_openai, chats[i].body, chats[i].status, chats[i].param);
    refused(openai_completions, &dialect_openai, "{\"prompt\":[]}", 400, "prompt");
    refused(openai_completions, &dialect_openai, "{\"prompt\":\"a\",\"best_of\":2}", 400, "best_of");
    refused(openai_completions, &dialect_openai, "{\"prompt\":\"a\",\"suffix\":\"b\"}", 400, "suffix");
    refused(openai_responses, &dialect_openai, "{\"input\":\"a\",\"previous_response_id\":\"b\"}", 400,
            "previous_response_id");
    refused(anthropic_messages, &dialect_anthropic, "{" MESSAGES "}", 400, "max_tokens");
    refused(anthropic_messages, &dialect_anthropic,
            "{" MESSAGES ",\"max_tokens\":1,\"thinking\":{\"type\":\"enabled\"}}", 400, "thinking");
    refused(ollama_chat, &dialect_ollama, "{\"model\":\"tales\"," MESSAGES ",\"format\":\"json\"}", 400, "format");
    refused(ollama_chat, &dialect_ollama, "{\"model\":\"tales\"," MESSAGES ",\"options\":{\"num_ctx\":4096}}", 400,
            "num_ctx");
    char deep[400] = "{\"a\":";
    memset(deep + 5, '[', 200);
    refused(openai_chat, &dialect_openai, deep, 400, "");
}

static void choices_differ_by_seed(void **state) {
    (void)state;
    yyjson_doc *two = ask(openai_chat, &dialect_openai, "{" MESSAGES ",\"seed\":7,\"n\":2,\"max_tokens\":20}", 200);
    yyjson_doc *one = ask(openai_chat, &dialect_openai, "{" MESSAGES ",\"seed\":8,\"max_tokens\":20}", 200);
    assert_string_equal(at(two, "/choices/1/message/content"), at(one, "/choices/0/message/content"));
    assert_string_equal(at(two, "/choices/1/finish_reason"), "length");
    assert_int_equal(yyjson_get_int(yyjson_doc_ptr_get(two, "/usage/completion_tokens")), 40);
    yyjson_doc_free(two);
    yyjson_doc_free(one);
}

static void log_probabilities(void **state) {
    (void)state;
    yyjson_doc *d = ask(openai_chat, &dialect_openai,
                        "{" MESSAGES ",\"temperature\":0,\"max_tokens\":5,\"logprobs\":true,\"top_logprobs\":2}", 200);
    assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(d, "/choices/0/logprobs/content")), 5);
    assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(d, "/choices/0/logprobs/content/4/top_logprobs")), 2);
    assert_string_equal(at(d, "/choices/0/logprobs/content/1/token"),
                        at(d, "/choices/0/logprobs/content/1/top_logprobs/0/token"));
    yyjson_doc_free(d);
    d = ask(openai_completions, &dialect_openai, "{\"prompt\":[\"Once\",\"A\"],\"max_tokens\":3,\"logprobs\":2}", 200);
    assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(d, "/choices/1/logprobs/tokens")), 3);
    assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(d, "/choices/1/logprobs/text_offset")), 3);
    yyjson_doc_free(d);
}

static void tokens_there_and_back(void **state) {
    (void)state;
    yyjson_doc *d =
        ask(handle_tokenize, &dialect_openai, "{\"content\":\"Once upon a time\",\"add_special\":false}", 200);
    char *ids = yyjson_val_write(yyjson_doc_ptr_get(d, "/tokens"), 0, NULL), body[400];
    snprintf(body, sizeof body, "{\"tokens\":%s}", ids);
    yyjson_doc *back = ask(handle_detokenize, &dialect_openai, body, 200);
    assert_non_null(strstr(at(back, "/content"), "Once upon a time"));
    free(ids);
    yyjson_doc_free(d);
    yyjson_doc_free(back);
    d = ask(anthropic_count_tokens, &dialect_anthropic, "{" MESSAGES "}", 200);
    assert_true(yyjson_get_int(yyjson_doc_ptr_get(d, "/input_tokens")) > 3);
    yyjson_doc_free(d);
}

static void a_client_that_leaves_ends_the_answer(void **state) {
    (void)state;
    for (int when = -1; when < 4; when++) {
        exchange x;
        fake_open(&x, &dialect_openai, "/", "{" MESSAGES ",\"stream\":true,\"n\":3,\"ignore_eos\":true}");
        if (!when) continue;
        x.leave_after = when;
        openai_chat(&serving, &x);
        fake_wait(&x);
        assert_int_equal(x.n_ends, 1);
        assert_string_equal(x.usage.finish, "abort");
        fake_close(&x);
    }
}

static void tools_reach_the_template(void **state) {
    (void)state;
    static const char body[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":["
        "{\"id\":\"1\","
        "\"type\":\"function\",\"function\":{\"name\":\"look\",\"arguments\":\"{\\\"where\\\":\\\"there\\\"}\"}}]},"
        "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"b\"}],\"max_tokens\":5,"
        "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"look\",\"parameters\":{}}}]}";
    yyjson_doc_free(ask(openai_chat, &dialect_openai, body, 200));
    serving.chat_template = "none";
    refused(openai_chat, &dialect_openai, body, 400, "tools");
    serving.chat_template = template;
}

// Whatever the cuts, the text and the calls are the same.
static void parse(const char *answer, const char *text, const char *calls) {
    static const char *const names[] = {"look"};
    for (size_t cut = 1; cut <= strlen(answer); cut++) {
        tool_parser t;
        upg_buf out = {0}, found = {0};
        tool_parser_init(&t, names, 1);
        for (size_t i = 0; i <= strlen(answer); i += cut) {
            const char *part;
            size_t left = strlen(answer) - i, n;
            tool_parser_push(&t, answer + i, left < cut ? left : cut, left < cut, &part, &n);
            upg_buf_add(&out, part, n);
        }
        for (int i = 0; i < t.n; i++) upg_buf_fmt(&found, "%s%s;", t.calls[i].name, t.calls[i].arguments);
        assert_string_equal(out.size ? out.data : "", text);
        assert_string_equal(found.size ? found.data : "", calls);
        tool_parser_free(&t);
        upg_buf_free(&out);
        upg_buf_free(&found);
    }
}

static void calls_are_found(void **state) {
    (void)state;
    parse("Hello < there", "Hello < there", "");
    parse("  Hi <tool_call", "  Hi <tool_call", "");
    parse("Let me "
          "see.\n<tool_call>\n{\"name\":\"look\",\"arguments\":{\"a\":1}}\n</tool_call>\n<tool_call>{\"name\":\"b\"}</"
          "tool_call>",
          "Let me see.\n\n", "look{\"a\":1};b{};");
    parse("<|tool_call|>[{\"name\":\"look\",\"arguments\":{}}]<|/tool_call|>", "", "look{};");
    parse("[TOOL_CALLS][{\"name\":\"look\",\"arguments\":\"{}\"},{\"name\":\"c\",\"parameters\":{\"b\":[]}}]", "",
          "look{};c{\"b\":[]};");
    parse("{\"name\": \"look\", \"parameters\": {}}", "", "look{};");
    parse("{\"name\": \"Bob\", \"parameters\": {}}", "{\"name\": \"Bob\", \"parameters\": {}}", "");
    parse("{\"a\": 1}", "{\"a\": 1}", "");
    parse("<tool_call>{bad}</tool_call> x", "<tool_call>{bad}</tool_call> x", "");
    parse("<tool_call>{\"name\":\"look\"}", "", "look{};");
}

static void lists_name_the_model(void **state) {
    (void)state;
    yyjson_doc *d = ask(openai_models, &dialect_openai, "", 200);
    assert_string_equal(at(d, "/data/0/id"), "tales");
    yyjson_doc_free(d);
    d = ask(ollama_tags, &dialect_ollama, "", 200);
    assert_string_equal(at(d, "/models/0/name"), "tales");
    yyjson_doc_free(d);
    yyjson_doc_free(ask(ollama_ps, &dialect_ollama, "", 200));
    yyjson_doc_free(ask(ollama_version, &dialect_ollama, "", 200));
    yyjson_doc_free(ask(ollama_show, &dialect_ollama, "{\"model\":\"tales\"}", 200));
    yyjson_doc_free(ask(ollama_chat, &dialect_ollama, "{\"model\":\"tales\"}", 200));
    refused(openai_embeddings, &dialect_openai, "{}", 400, "model");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_equal_wholes),     cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(choices_differ_by_seed),   cmocka_unit_test(log_probabilities),
        cmocka_unit_test(tokens_there_and_back),    cmocka_unit_test(a_client_that_leaves_ends_the_answer),
        cmocka_unit_test(tools_reach_the_template), cmocka_unit_test(calls_are_found),
        cmocka_unit_test(lists_name_the_model),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
