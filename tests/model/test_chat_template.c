/* What chat templates are refused for, their limits, where they come from, and threads. */
#include "tests/model/chat_util.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct refusal {
    const char *source;
    enum sc_status st;
    const char *says;
};

static void expect_refusals(const struct refusal *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        expect_refusal(list[i].source, list[i].st, list[i].says);
}

static void what_is_not_known_is_refused_at_open_by_name_and_place(void **state)
{
    (void)state;
    static const struct refusal list[] = {
        {"{% foo %}", SC_ENOTSUP, "1:4: tag foo"},
        {"{% include 'a' %}", SC_ENOTSUP, "1:4: tag include"},
        {"{% call m() %}{% endcall %}", SC_ENOTSUP, "1:4: tag call"},
        {"\n\n  {{ x|foo }}", SC_ENOTSUP, "3:8: filter foo"},
        {"\303\251{{ x is foo }}", SC_ENOTSUP, "1:10: test foo"},
        {"{% if false %}{{ foo() }}{% endif %}", SC_ENOTSUP, "1:18: function foo()"},
        {"{{ x.format(1) }}", SC_ENOTSUP, "1:6: method .format()"},
        {"{{ l.append(1) }}", SC_ENOTSUP, "1:6: method .append()"},
        {"{{ x()() }}", SC_ENOTSUP, "only functions, macros and methods"},
        {"{{ dict(*l) }}", SC_ENOTSUP, "1:9: * and ** arguments"},
        {"{% for i in l recursive %}{% endfor %}", SC_ENOTSUP, "recursive loops"},
        {"{{ l|map('foo') }}", SC_ENOTSUP, "filter foo"},
        {"{{ l|select('foo') }}", SC_ENOTSUP, "test foo"},
        {"{{ l|selectattr('a','foo') }}", SC_ENOTSUP, "1:21: test foo"},
        {"{{ x.__class__ }}", SC_ENOTSUP, "attribute .__class__"},
        {"{{ 0x10 }}", SC_ENOTSUP, "number that starts with 0"},
        {"{{ l[1,2] }}", SC_ENOTSUP, "subscript with a comma"},
    };
    expect_refusals(list, SC_ARRAY_LEN(list));
}

static void malformed_templates_are_refused_with_their_place(void **state)
{
    (void)state;
    static const struct refusal list[] = {
        {"{% if t %}", SC_EFORMAT, "1:11: the template ends before endif"},
        {"{% endif %}", SC_EFORMAT, "1:4: unexpected endif"},
        {"{% if %}a{% endif %}", SC_EFORMAT, "1:7: expected an expression, found %}"},
        {"{% for i l %}{% endfor %}", SC_EFORMAT, "1:10: expected in, found l"},
        {"{% for 1 in l %}{% endfor %}", SC_EFORMAT, "a name to assign to"},
        {"{% set true=1 %}", SC_EFORMAT, "cannot assign to a constant"},
        {"{% if z %}a{% else %}b{% elif t %}c{% endif %}", SC_EFORMAT, "unexpected elif"},
        {"{% %}", SC_EFORMAT, "a tag's name"},
        {"{{ }}", SC_EFORMAT, "expected an expression"},
        {"{{", SC_EFORMAT, "a tag has no }}"},
        {"{%", SC_EFORMAT, "a tag has no %}"},
        {"{{ 'a", SC_EFORMAT, "no closing '"},
        {"{{ 'a\\", SC_EFORMAT, "no closing '"},
        {"{{ n }", SC_EFORMAT, "1:6: unexpected '}'"},
        {"{# a", SC_EFORMAT, "a comment has no #}"},
        {"{% raw %}a", SC_EFORMAT, "no {% endraw %}"},
        {"{{ (1 }}", SC_EFORMAT, "unexpected '}'"},
        {"{{ 1) }}", SC_EFORMAT, "unexpected ')'"},
        {"{{ a b }}", SC_EFORMAT, "expected }}, found b"},
        {"{{ @ }}", SC_EFORMAT, "unexpected character '@'"},
        {"{{ \303\251 }}", SC_EFORMAT, "unexpected character 0xc3"},
        {"{{ x|trim(1,2) }}", SC_EFORMAT, "filter trim takes 0 to 1 arguments, not 2"},
        {"{{ x is defined(1) }}", SC_EFORMAT, "test defined takes 0 to 0"},
        {"{{ raise_exception() }}", SC_EFORMAT, "raise_exception takes 1 to 1"},
        {"{% break %}", SC_EFORMAT, "break outside of a loop"},
        {"{% for i in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", SC_EFORMAT,
         "break outside of a loop"},
        {"{{ '\\ud800' }}", SC_EFORMAT, "1:5: the escape \\u"},
        {"{{ '\\x4' }}", SC_EFORMAT, "the escape \\x"},
        {"{{ 99999999999999999999 }}", SC_ERANGE, "beyond 64 bits"},
        {"\xff", SC_EFORMAT, "byte 0 is not UTF-8"},
    };
    expect_refusals(list, SC_ARRAY_LEN(list));
}

static void runtime_errors_tell_what_and_where(void **state)
{
    (void)state;
    static const struct refusal list[] = {
        {"{{ x.y }}", SC_EINVAL, "1:6: 'x' is undefined"},
        {"{{ d.nope.x }}", SC_EINVAL, "1:11: 'dict object' has no attribute 'nope'"},
        {"\n  {{ l|length + 'a' }}", SC_EINVAL, "2:6: unsupported operands for +: 'int' and 'str'"},
        {"{{ none+'a' }}", SC_EINVAL, "'NoneType' and 'str'"},
        {"{{ x+1 }}", SC_EINVAL, "'x' is undefined"},
        {"{{ 1/0 }}", SC_EINVAL, "division by zero"},
        {"{{ 1%0 }}", SC_EINVAL, "division by zero"},
        {"{{ 1<'a' }}", SC_EINVAL, "'<' not supported between 'int' and 'str'"},
        {"{{ 1 in s }}", SC_EINVAL, "requires a string"},
        {"{{ 'a' in n }}", SC_EINVAL, "not iterable"},
        {"{{ n|length }}", SC_EINVAL, "has no len()"},
        {"{{ x|tojson }}", SC_EINVAL, "not JSON serializable"},
        {"{{ d|tojson(foo=1) }}", SC_EINVAL, "no argument is named foo"},
        {"{{ 'a'.split('') }}", SC_EINVAL, "empty separator"},
        {"{{ '-'.join(l) }}", SC_EINVAL, "item 0 is int"},
        {"{% for i in n %}{% endfor %}", SC_EINVAL, "1:13: 'int' object is not iterable"},
        {"{% for a,b in l %}{% endfor %}", SC_EINVAL, "not iterable"},
        {"{% for a,b in [[1,2,3]] %}{% endfor %}", SC_EINVAL, "too many values"},
        {"{% for a,b in [[1]] %}{% endfor %}", SC_EINVAL, "not enough values"},
        {"{% set d.a=1 %}", SC_EINVAL, "non-namespace"},
        {"{% macro m(a) %}{% endmacro %}{{ m(1,2) }}", SC_EINVAL, "takes 1 arguments, not 2"},
        {"{% macro m(a) %}{% endmacro %}{{ m(q=2) }}", SC_EINVAL, "no such named argument"},
        {"{{ m(1) }}{% macro m(a) %}{% endmacro %}", SC_EINVAL, "'m' is undefined"},
        {"{{ n[1:] }}", SC_EINVAL, "'int' object cannot be sliced"},
        {"{{ l[::0] }}", SC_EINVAL, "step cannot be zero"},
        {"{{ {[1]:2} }}", SC_EINVAL, "unhashable"},
        {"{{ messages[3].content.strip() }}", SC_EINVAL, "has no method 'strip'"},
        {"{{ l|map('no' ~ 'filter') }}", SC_ENOTSUP, "filter nofilter"},
        {"{{ d.pop.x }}", SC_EINVAL, "not allowed"},
        {"{{ l|select }}", SC_EINVAL, "a generator has no text"},
        {"{{ range(100001) }}", SC_ERANGE, "more than 100000 items"},
        {"{{ 9223372036854775807 + 1 }}", SC_ERANGE, "beyond 64 bits"},
        {"{{ (-9223372036854775807 - 1) // -1 }}", SC_ERANGE, "beyond 64 bits"},
    };
    expect_refusals(list, SC_ARRAY_LEN(list));
}

static void raise_exception_answers_with_the_templates_own_words(void **state)
{
    (void)state;
    struct sc_chat_request req = chat_request();
    struct sc_text out = {0};
    struct sc_err err = SC_ERR_INIT;
    static const char source[] =
        "text before{% if messages|length > 1 %}{{ raise_exception('Only ' ~ n ~ ' roles') }}"
        "{% endif %}";
    assert_int_equal(chat_render(source, sizeof(source) - 1, &req, &out, &err), SC_EINVAL);
    assert_string_equal(err.text, "Only 3 roles");
    assert_int_equal(out.len, 0);
    sc_text_fini(&out);
}

static void every_limit_has_its_message(void **state)
{
    (void)state;
    static const struct refusal list[] = {
        {"{% set b='x' * 16777216 %}{% for i in range(99999) %}{% if 'q' in b %}{% endif %}{% "
         "endfor %}",
         SC_ERANGE, "more than 10000000 steps"},
        {"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
         SC_ERANGE, "more than 268435456 bytes of memory"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", SC_ERANGE, "more than 1000 deep"},
        {"{{ 'abcdefgh' * 9000000 }}", SC_ERANGE, "over 67108864 bytes"},
        {"{% set b='x' * 33554432 %}{{ b }}{{ b }}{{ b }}", SC_ERANGE, "over 67108864 bytes"},
        {"{% set ns=namespace(a='x' * 1048576) %}{% for i in range(1000) %}"
         "{% set ns.a = ns.a + 'y' %}{% endfor %}",
         SC_ERANGE, "more than 268435456 bytes of memory"},
        {"{% set ns=namespace(a=[]) %}{% for i in range(200) %}{% set ns.a=[ns.a] %}{% endfor %}"
         "{{ ns.a|tojson }}",
         SC_ERANGE, "nested more than 100 deep"},
        {"{% set ns=namespace(a=[]) %}{% for i in range(200) %}{% set ns.a=[ns.a] %}{% endfor %}"
         "{{ ns.a == [ns.a] }}{{ ns.a }}",
         SC_ERANGE, "nested more than 100 deep"},
        {"{% set ns=namespace() %}{% set ns.a=ns %}{{ ns }}", SC_ERANGE, "100 deep"},
    };
    expect_refusals(list, SC_ARRAY_LEN(list));
}

/* prefix n times, middle, suffix n times */
static char *repeat(const char *prefix, const char *middle, const char *suffix, size_t n)
{
    size_t a = strlen(prefix), b = strlen(middle), c = strlen(suffix);
    char *s = malloc(n * (a + c) + b + 1), *at = s;
    assert_non_null(s);
    for (size_t i = 0; i < n; i++, at += a)
        memcpy(at, prefix, a);
    memcpy(at, middle, b);
    at += b;
    for (size_t i = 0; i < n; i++, at += c)
        memcpy(at, suffix, c);
    *at = '\0';
    return s;
}

static void deep_templates_are_refused_however_they_nest(void **state)
{
    (void)state;
    static const char *const nests[][3] = {
        {"(", "", ")"},  {"[", "", "]"},   {"not ", "1", ""},         {"-", "1", ""},
        {"1+", "1", ""}, {"1~", "1", ""},  {"1 if 1 else ", "1", ""}, {"a.b.", "c", ""},
        {"a", "", "|d"}, {"a", "", "[0]"}, {"1 and ", "1", ""},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(nests); i++) {
        char *inner = repeat(nests[i][0], nests[i][1], nests[i][2], 5000);
        char *source = malloc(strlen(inner) + 16);
        struct sc_chat_template *tpl = NULL;
        struct sc_err err = SC_ERR_INIT;
        assert_non_null(source);
        (void)sprintf(source, "{{ %s }}", inner);
        enum sc_status st = sc_chat_template_open(source, strlen(source), &tpl, &err);
        /* ~ makes one flat node, so any number of parts is fine. */
        if (st != (strcmp(nests[i][0], "1~") == 0 ? SC_OK : SC_ERANGE))
            fail_msg("%.40s gave %s %s", source, sc_status_name(st), err.text);
        sc_chat_template_close(tpl);
        free(source);
        free(inner);
    }
    char *blocks = repeat("{% if 1 %}", "", "{% endif %}", 5000);
    expect_refusal(blocks, SC_ERANGE, "nested more than 200 deep");
    free(blocks);
}

static void large_templates_are_refused(void **state)
{
    (void)state;
    size_t len = SC_CHAT_TEMPLATE_BYTES_MAX + 1;
    char *source = malloc(len);
    struct sc_chat_request req = chat_request();
    struct sc_text out = {0};
    struct sc_err err = SC_ERR_INIT;
    assert_non_null(source);
    memset(source, 'a', len);
    assert_int_equal(chat_render(source, len, &req, &out, &err), SC_ERANGE);
    assert_non_null(strstr(err.text, "1048577 bytes, limit 1048576"));
    sc_err_clear(&err);
    assert_int_equal(chat_render(source, len - 1, &req, &out, &err), SC_OK);
    assert_int_equal(out.len, len - 1);
    sc_text_fini(&out);
    free(source);
}

static const char chatml[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

static void pairs_render_as_the_same_json_does(void **state)
{
    (void)state;
    static const char content[] = "a\0b";
    const struct sc_chat_message pairs[] = {{"user", "Hi", 4, 2}, {"tool", content, 4, 3}};
    struct sc_chat_request req = {
        .messages = pairs, .n_messages = 2, .add_generation_prompt = true};
    struct sc_text out = {0};
    struct sc_err err = SC_ERR_INIT;
    static const char want[] =
        "kept<|im_start|>user\nHi<|im_end|>\n<|im_start|>tool\na\0b<|im_end|>"
        "\n<|im_start|>assistant\n";
    struct sc_chat_template *tpl = NULL;
    assert_int_equal(sc_chat_template_open("kept", 4, &tpl, &err), SC_OK);
    assert_int_equal(sc_chat_template_render(tpl, &req, &out, &err), SC_OK);
    sc_chat_template_close(tpl);
    assert_int_equal(chat_render(chatml, sizeof(chatml) - 1, &req, &out, &err), SC_OK);
    assert_int_equal(out.len, sizeof(want) - 1);
    assert_memory_equal(out.bytes, want, out.len);
    sc_text_fini(&out);
    req.add_generation_prompt = false;
    req.n_messages = 1;
    expect_text(chatml, &req, "<|im_start|>user\nHi<|im_end|>\n");
    expect_text("{{ tools is none }}{{ documents is none }}{{ bos_token is defined }}", &req,
                "TrueTrueFalse");
    req.n_messages = 0;
    expect_text(chatml, &req, "");
}

static void bad_requests_are_refused(void **state)
{
    (void)state;
    const struct sc_chat_message bad_content = {"user", "a\xff", 4, 2},
                                 bad_role = {"\xc3", "", 1, 0};
    const struct {
        struct sc_chat_request req;
        enum sc_status st;
        const char *says;
    } list[] = {
        {{.messages = &bad_content, .n_messages = 1}, SC_EINVAL, "messages[0].content: byte 1"},
        {{.messages = &bad_role, .n_messages = 1}, SC_EINVAL, "messages[0].role"},
        {{.n_messages = SC_CHAT_MESSAGES_MAX + 1}, SC_ERANGE, "65537 messages, limit 65536"},
        {{.messages_json = "{}", .messages_json_len = 2}, SC_EINVAL, "not a JSON list"},
        {{.messages_json = "[", .messages_json_len = 1}, SC_EINVAL, "messages:1:1"},
        {{.variables_json = "[]", .variables_json_len = 2}, SC_EINVAL, "not a JSON object"},
        {{.variables_json = "{\"messages\":1}", .variables_json_len = 14},
         SC_EINVAL,
         "fields of their own"},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(list); i++) {
        struct sc_text out = {0};
        struct sc_err err = SC_ERR_INIT;
        assert_int_equal(chat_render(chatml, sizeof(chatml) - 1, &list[i].req, &out, &err),
                         list[i].st);
        if (strstr(err.text, list[i].says) == NULL)
            fail_msg("%s, want %s", err.text, list[i].says);
        sc_text_fini(&out);
    }
}

static void deep_json_is_refused(void **state)
{
    (void)state;
    char *json = repeat("[", "", "]", 200);
    struct sc_chat_request req = {.messages_json = json, .messages_json_len = strlen(json)};
    struct sc_text out = {0};
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(chat_render(chatml, sizeof(chatml) - 1, &req, &out, &err), SC_ERANGE);
    assert_non_null(strstr(err.text, "100 deep"));
    sc_text_fini(&out);
    free(json);
}

/* ---- directories ---- */

struct dir {
    char path[64];
};

static void put_file(const struct dir *d, const char *name, const char *text)
{
    char path[160];
    (void)snprintf(path, sizeof(path), "%s/%s", d->path, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

static void expect_dir(const struct dir *d, enum sc_status want, const char *text)
{
    struct sc_chat_template *tpl = NULL;
    struct sc_chat_request req = chat_request();
    struct sc_text out = {0};
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = sc_chat_template_open_dir(d->path, &tpl, &err);
    if (st != want)
        fail_msg("%s: %s", sc_status_name(st), err.text);
    if (st == SC_OK)
        assert_int_equal(sc_chat_template_render(tpl, &req, &out, &err), SC_OK);
    if (strstr(st == SC_OK ? out.bytes : err.text, text) == NULL)
        fail_msg("%s, want %s", st == SC_OK ? out.bytes : err.text, text);
    sc_chat_template_close(tpl);
    sc_text_fini(&out);
}

static void a_directory_gives_its_template_and_the_jinja_file_wins(void **state)
{
    (void)state;
    static const char *const names[] = {"tokenizer_config.json", "chat_template.json",
                                        "chat_template.jinja"};
    struct dir d = {"/tmp/sc-chat-XXXXXX"};
    assert_non_null(mkdtemp(d.path));
    expect_dir(&d, SC_ENOENT, "no chat_template.jinja");
    put_file(&d, names[0], "{\"chat_template\":null}");
    expect_dir(&d, SC_ENOENT, "no chat_template.jinja");
    put_file(&d, names[0], "{\"chat_template\":\"one {{ n }}\"}");
    expect_dir(&d, SC_OK, "one 3");
    put_file(&d, names[0],
             "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"x\"},"
             "{\"name\":\"default\",\"template\":\"two\"}]}");
    expect_dir(&d, SC_OK, "two");
    put_file(&d, names[0], "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"x\"}]}");
    expect_dir(&d, SC_ENOTSUP, "no list with a \"default\"");
    put_file(&d, names[0], "{\"chat_template\":\"\\n{% foo %}\"}");
    expect_dir(&d, SC_ENOTSUP, "tokenizer_config.json: chat template 2:4: tag foo");
    put_file(&d, names[0], "{");
    expect_dir(&d, SC_EFORMAT, "tokenizer_config.json:1:");
    put_file(&d, names[1], "{\"chat_template\":\"three\"}");
    expect_dir(&d, SC_OK, "three");
    put_file(&d, names[2], "four\n");
    expect_dir(&d, SC_OK, "four");
    put_file(&d, names[2], "{{ x|foo }}");
    expect_dir(&d, SC_ENOTSUP, "chat_template.jinja: chat template 1:6: filter foo");
    for (size_t i = 0; i < SC_ARRAY_LEN(names); i++) {
        char path[160];
        (void)snprintf(path, sizeof(path), "%s/%s", d.path, names[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(d.path), 0);
}

/* ---- threads ---- */

static void *render_often(void *arg)
{
    const struct sc_chat_template *tpl = arg;
    struct sc_chat_request req = chat_request();
    static const char messages[] = "[{\"role\":\"user\",\"content\":\"Hi\"}]";
    req.messages_json = messages;
    req.messages_json_len = sizeof(messages) - 1;
    for (int i = 0; i < 200; i++) {
        struct sc_text out = {0};
        struct sc_err err = SC_ERR_INIT;
        bool ok = sc_chat_template_render(tpl, &req, &out, &err) == SC_OK &&
                  strcmp(out.bytes, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n") == 0;
        sc_text_fini(&out);
        if (!ok)
            return arg;
    }
    return NULL;
}

static void threads_share_a_template(void **state)
{
    (void)state;
    pthread_t threads[4];
    struct sc_chat_template *tpl = NULL;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_chat_template_open(chatml, sizeof(chatml) - 1, &tpl, &err), SC_OK);
    for (size_t i = 0; i < SC_ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, render_often, tpl), 0);
    for (size_t i = 0; i < SC_ARRAY_LEN(threads); i++) {
        void *failed;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    sc_chat_template_close(tpl);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_known_is_refused_at_open_by_name_and_place),
        cmocka_unit_test(malformed_templates_are_refused_with_their_place),
        cmocka_unit_test(runtime_errors_tell_what_and_where),
        cmocka_unit_test(raise_exception_answers_with_the_templates_own_words),
        cmocka_unit_test(every_limit_has_its_message),
        cmocka_unit_test(deep_templates_are_refused_however_they_nest),
        cmocka_unit_test(large_templates_are_refused),
        cmocka_unit_test(pairs_render_as_the_same_json_does),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(deep_json_is_refused),
        cmocka_unit_test(a_directory_gives_its_template_and_the_jinja_file_wins),
        cmocka_unit_test(threads_share_a_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
