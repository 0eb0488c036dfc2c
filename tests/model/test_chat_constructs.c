/* Constructs of chat templates, one by one. What each should give was taken from Jinja2 3.1.6, set
 * up as transformers sets it up. */
#include "tests/model/chat_util.h"

static void output_of_literals_is_what_python_prints(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ none }} {{ true }} {{ 1 }} {{ -1 }}", "None True 1 -1"},
        {"{{ 1.5 }} {{ 1e3 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1+0.2 }} {{ 1_000 }}",
         "1.5 1000.0 1e+16 1e-05 0.30000000000000004 1000"},
        {"{{ 'a' 'b' \"c\" }}", "abc"},
        {"{{ [1,'a',none,(2,),{'k':1.0}] }}", "[1, 'a', None, (2,), {'k': 1.0}]"},
        {"{{ ['it\\'s','a\"b\\'c','\\n\\x00\\u200b\\xa0\303\251'] }}",
         "[\"it's\", 'a\"b\\'c', '\\n\\x00\\u200b\\xa0\303\251']"},
        {"{{ \"a\\tb\\x41\\u00e9\\101\\q\\\\\" }}", "a\tbA\303\251A\\q\\"},
        {"{{ 1, 2 }} {{ () }}", "(1, 2) ()"},
        {"{{ {'a':{'b':1}}['a']}}", "{'b': 1}"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void arithmetic_follows_python(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ 7//2 }} {{ -7//2 }} {{ -7%3 }} {{ 7%-3 }} {{ 7/2 }} {{ 2**10 }} {{ 2**-1 }}",
         "3 -4 2 -2 3.5 1024 0.5"},
        {"{{ 7.5%2 }} {{ -7.5//2 }} {{ 1+true }}", "1.5 -4.0 2"},
        {"{{ 1 ~ 2+3~4 if z else 7 }} {{ 10-2-3 }} {{ 2**3**2 }} {{ -2**2 }} {{ -1|abs }} {{ 1 - "
         "-1 }}",
         "7 5 64 4 1 2"},
        {"{{ 'a'*3 }}{{ [1]*2 }}{{ [1]+[2] }}{{ (1,)+(2,) }}", "aaa[1, 1][1, 2](1, 2)"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void comparisons_chain_and_mix_types(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ 1==1.0 }}{{ 1==true }}{{ '1'==1 }}{{ x==y }}{{ none==x }}", "TrueTrueFalseTrueFalse"},
        {"{{ 1<2<3 }}{{ 1<2>5 }}{{ 'a'<'b' }}{{ (1,)==[1] }}", "TrueFalseTrueFalse"},
        {"{{ 1 in [1] }}{{ 5 not in [1] }}{{ 'a' in d }}{{ 'h' in s }}{{ 'a' in x }}{{ not 1 in "
         "[2] }}",
         "TrueTrueTrueTrueFalseTrue"},
        {"{{ {'a':1,'b':2}=={'b':2,'a':1.0} }}", "True"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void logic_gives_the_deciding_value(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ true and 5 }} {{ 0 and 5 }} {{ '' or 'q' }} {{ '' or none or 0 }} {{ not '' }}",
         "5 0 q 0 True"},
        {"{{ 1 if z else 2 }}[{{ 1 if z }}]{{ 1 if z else 2 if z else 3 }}", "2[]3"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void undefined_values_are_lenient_until_used(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"[{{ x }}][{{ d.nope }}][{{ messages[9] }}][{{ s.x }}][{{ none.x }}]", "[][][][][]"},
        {"{{ x|length }}{{ x|list }}{{ x|items|list }}[{{ x|trim }}]", "0[][][]"},
        {"{% for i in x %}{% else %}none{% endfor %}{% if x %}{% else %}no{% endif %}", "noneno"},
        {"{{ x is defined }}{{ x is iterable }}{{ x is sequence }}{{ x is string }}{{ x ~ 'a' }}",
         "FalseTrueTrueFalsea"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void items_and_attributes_are_found_as_jinja_finds_them(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ messages[0].role }}{{ messages[0]['role'] }}{{ messages[-1].role }}{{ messages.0.role "
         "}}",
         "systemsystemtoolsystem"},
        {"{{ d['items'] }} {{ d.items is callable }} {{ d.b }} {{ s[0] }}{{ s[-1] }}",
         "5 True 1 hd"},
        {"{{ l.append is defined }}{{ l.count is defined }}{{ s.upper is defined }}",
         "FalseTrueTrue"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void slices_follow_python(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ s[1:3] }}|{{ s[::-1] }}|{{ s[5:1:-2] }}|{{ s[:-1] }}|{{ s[-99:2] }}|{{ s[99:] }}",
         "\303\251l|dlr\303\266w oll\303\251h| l|h\303\251llo w\303\266rl|h\303\251|"},
        {"{{ l[::-1] }}{{ l[1:] }}{{ l[:1] }}{{ l[::2] }}{{ l[5:] }}{{ l[-2:] }}{{ l[1:1] }}{{ "
         "(1,2,3)[1:] }}",
         "[2, 1, 3][1, 2][3][3, 2][][1, 2][](2, 3)"},
        {"{% for m in messages[::-1] %}{{ loop.index0 }}{{ m.role }} {% endfor %}",
         "0tool 1assistant 2user 3system "},
        {"{{ '\\U0001F600\303\251x'[0]|length }}{{ '\\U0001F600\303\251x'[1:] }}", "1\303\251x"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void string_methods_follow_python(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ 'a b  c '.split() }}{{ 'a,b,,c'.split(',') }}{{ 'a,b,c'.split(',',1) }}{{ ' a b c "
         "'.split(none,1) }}{{ ''.split(',') }}",
         "['a', 'b', 'c']['a', 'b', '', 'c']['a', 'b,c']['a', 'b c ']['']"},
        {"{{ 'a,b,c'.rsplit(',',1) }}{{ ' a b c '.rsplit(none,1) }}{{ "
         "'a\\nb\\r\\nc\\n'.splitlines() }}",
         "['a,b', 'c'][' a b', 'c']['a', 'b', 'c']"},
        {"[{{ ' a '.strip() }}][{{ 'xxax'.lstrip('x') }}][{{ 'axx'.rstrip('x') }}][{{ "
         "'\\n\\na\\n'.lstrip('\\n') }}]",
         "[a][ax][a][a\n]"},
        {"{{ 'abc'.startswith('ab') }}{{ 'abc'.startswith(('x','a')) }}{{ 'abc'.endswith('bc') }}",
         "TrueTrueTrue"},
        {"{{ 'aaa'.replace('a','b',2) }} {{ 'abc'.replace('','-') }} {{ 'abc'.removeprefix('a') }} "
         "{{ 'abc'.removesuffix('c') }}",
         "bba -a-b-c- bc ab"},
        {"{{ s.upper() }} {{ s.find('w') }} {{ s.find('q') }} {{ 'abab'.count('ab') }} {{ \"it's "
         "a\".title() }} {{ 'aB'.capitalize() }}",
         "H\303\211LLO W\303\226RLD 6 -1 2 It'S A Ab"},
        {"{{ '-'.join(['a','b']) }}", "a-b"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void dict_methods_follow_python(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ d.items()|list }}{{ d.keys()|list }}{{ d.values()|list }}",
         "[('b', 1), ('a', 'x'), ('items', 5), ('C', None)]['b', 'a', 'items', 'C'][1, 'x', 5, "
         "None]"},
        {"{{ d.get('a') }}{{ d.get('q') }}{{ d.get('q',5) }}", "xNone5"},
        {"{{ d.items()|length }}{% set v=d.items() %}{{ v|list|length }}{{ v|list|length }}",
         "444"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void tojson_is_json_dumps_without_ascii(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ d|tojson }}", "{\"b\": 1, \"a\": \"x\", \"items\": 5, \"C\": null}"},
        {"{{ d|tojson(indent=2) }}",
         "{\n  \"b\": 1,\n  \"a\": \"x\",\n  \"items\": 5,\n  \"C\": null\n}"},
        {"{{ {'a':{},'b':[]}|tojson(indent=1) }}", "{\n \"a\": {},\n \"b\": []\n}"},
        {"{{ '<a&\"\\\\\\x01\\x7f\303\251'|tojson }}", "\"<a&\\\"\\\\\\u0001\177\303\251\""},
        {"{{ '\\U0001F600\303\251'|tojson(ensure_ascii=true) }}", "\"\\ud83d\\ude00\\u00e9\""},
        {"{{ {'b':1,'a':2}|tojson(sort_keys=true) }}{{ [1,{'a':2}]|tojson(separators=(',',':')) }}",
         "{\"a\": 2, \"b\": 1}[1,{\"a\":2}]"},
        {"{{ {1:2,none:3,true:4}|tojson }}{{ 1e20|tojson }}{{ (1,2)|tojson }}",
         "{\"1\": 4, \"null\": 3}1e+20[1, 2]"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void filters_of_text(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"[{{ '  a '|trim }}][{{ 'xax'|trim('x') }}][{{ none|trim }}]", "[a][a][None]"},
        {"{{ s|upper }} {{ s|lower }} {{ s|capitalize }} {{ \"it's a-b (c\"|title }}",
         "H\303\211LLO W\303\226RLD h\303\251llo w\303\266rld H\303\251llo w\303\266rld It's A-B "
         "(C"},
        {"{{ 'aa'|replace('a','b') }} {{ 'aa'|replace('a','b',1) }} {{ none|string }} {{ s|length "
         "}}",
         "bb ba None 11"},
        {"{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb\\n\\nc\\n'|indent(2,blank=true) }}|{{ "
         "'a\\nb'|indent(2,true) }}",
         "a\n    b\n\n    c|a\n  b\n  \n  c\n  |  a\n  b"},
        {"{{ '42'|int }} {{ ' 4.7 '|int }} {{ 'x'|int }} {{ 'x'|int(9) }} {{ 4.7|int }} {{ "
         "'3.5'|float }} {{ -5|abs }}",
         "42 4 0 9 4 3.5 5"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void filters_of_lists(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ l|first }}{{ l|last }}{{ l|join(', ') }}{{ l|reverse|list }}{{ s|reverse }}{{ "
         "'ab'|list }}",
         "323, 1, 2[2, 1, 3]dlr\303\266w oll\303\251h['a', 'b']"},
        {"{{ messages|map(attribute='role')|join(',') }} {{ "
         "messages|map(attribute='no',default='q')|list }} {{ [' a ']|map('trim')|list }}",
         "system,user,assistant,tool ['q', 'q', 'q', 'q'] ['a']"},
        {"{{ messages|selectattr('role','equalto','user')|list|length }}{{ "
         "messages|selectattr('tool_calls')|list|length }}{{ "
         "messages|rejectattr('role','in',['user','tool'])|map(attribute='role')|list }}",
         "11['system', 'assistant']"},
        {"{{ none|reject('equalto',1)|list }}{{ z|map('trim')|list }}", "[][]"},
        {"{{ l|select('odd')|list }}{{ l|reject('equalto',1)|list }}{{ l|select('>',1)|list }}{{ "
         "[0,1]|select|list }}",
         "[3, 1][3, 2][3, 2][1]"},
        {"{{ d|items|list }}{{ d|dictsort }}",
         "[('b', 1), ('a', 'x'), ('items', 5), ('C', None)][('a', 'x'), ('b', 1), ('C', None), "
         "('items', 5)]"},
        {"{% set g=l|select('odd') %}{{ g|list }}{{ g|list }}", "[3, 1][]"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void default_replaces_undefined_or_falsy(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ x|default('z') }}[{{ ''|default('z') }}]{{ ''|default('z',true) }}{{ "
         "none|default('z') }}{{ x|d(1) }}",
         "z[]zNone1"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void tests_tell_types_apart(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ n is number }}{{ true is number }}{{ true is integer }}{{ 2.5 is float }}{{ true is "
         "boolean }}{{ true is true }}{{ 0 is false }}{{ none is none }}",
         "TrueTrueFalseTrueTrueTrueFalseTrue"},
        {"{{ d is mapping }}{{ l is mapping }}{{ l is iterable }}{{ n is iterable }}{{ d.items() "
         "is sequence }}{{ l is sequence }}{{ (l|select) is sequence }}",
         "TrueFalseTrueFalseFalseTrueFalse"},
        {"{{ 3 is odd }}{{ 3 is divisibleby 2 }}{{ 3 is not divisibleby(2) }}{{ 3 is in [3] }}{{ 3 "
         "is eq 3 }}{{ 3 is ge(4) }}{{ 'a' is lower }}{{ 'AB' is upper }}",
         "TrueFalseTrueTrueTrueFalseTrueTrue"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void markup_escapes_what_is_added_to_it(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ '<'+('<'|safe) }}{{ ('<'|safe)~'<' }}{{ '<a href=\"x\">\\'&'|e }}{{ ('<b>'|safe)|e }}",
         "&lt;<<<&lt;a href=&#34;x&#34;&gt;&#39;&amp;<b>"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void loops_know_where_they_are(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ "
         "loop.last }}{{ loop.length }}[{{ loop.previtem }}{{ loop.nextitem }}]{{ "
         "loop.cycle('a','b') }}{% endfor %}",
         "103TrueFalse3[1]a212FalseFalse3[32]b321FalseTrue3[1]a"},
        {"{% for i in [1,1,2] %}{{ loop.changed(i) }}{% endfor %}", "TrueFalseTrue"},
        {"{% for i in l %}{% for j in l %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor "
         "%}",
         "1231;1232;1233;"},
        {"{% for i in l if i>1 %}{{ loop.index }}/{{ loop.length }}:{{ i }};{% endfor %}",
         "1/2:3;2/2:2;"},
        {"{% for i in l if i>9 %}a{% else %}b{% endfor %}", "b"},
        {"{% for k,v in d|items %}{{ k }}={{ v }}{% if not loop.last %},{% endif %}{% endfor %}",
         "b=1,a=x,items=5,C=None"},
        {"{% for k in d %}{{ k }}{% endfor %}{% for c in s %}{{ c }}.{% endfor %}",
         "baitemsCh.\303\251.l.l.o. .w.\303\266.r.l.d."},
        {"{% for i in l %}{% if i==1 %}{% break %}{% endif %}{{ i }}{% endfor %}", "3"},
        {"{% for i in l %}{% if i==1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "32"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void sets_end_with_their_scope_and_namespaces_do_not(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{% set x=1 %}{% for i in l %}{{ x }}{% set x=i %}{{ x }}{% endfor %}{{ x }}", "1311121"},
        {"{% set ns=namespace(x=1) %}{% for i in l %}{% set ns.x=ns.x+i %}{% endfor %}{{ ns.x }}{{ "
         "ns.q }}",
         "7"},
        {"{% if t %}{% set x=1 %}{% endif %}{{ x }}", "1"},
        {"{% set a,b=1,2 %}{{ a }}{{ b }}{% set (c,e)=(3,4) %}{{ c }}{{ e }}", "1234"},
        {"{% set a|upper|trim %} x{{ n }} {% endset %}[{{ a }}]", "[X3]"},
        {"{% with a=1,b=2 %}{{ a }}{{ b }}{% endwith %}[{{ a }}]", "12[]"},
        {"{% filter replace('a','b')|upper %}aa{% endfilter %}", "BB"},
        {"{% for i in l %}{% generation %}{{ loop.index }}{% set k=1 %}{% endgeneration %}{{ k is "
         "defined }}{% endfor %}",
         "1False2False3False"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void macros_take_defaults_and_names_and_recurse(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{% macro m(a,b=2) %}({{ a }},{{ b }}){% endmacro %}{{ m(1) }}{{ m(1,3) }}{{ m(b=1,a=5) "
         "}}{{ m() }}",
         "(1,2)(1,3)(5,1)(,2)"},
        {"{% macro f(k) %}{% if k > 0 %}{{ k }}{{ f(k-1) }}{% endif %}{% endmacro %}{{ f(5) }}",
         "54321"},
        {"{% macro m() %}{{ y }}{{ i }}{% endmacro %}{% set y=5 %}{% for i in l %}{{ m() }}{% "
         "endfor %}",
         "555"},
        {"{% macro m(a) %}{{ a }}{% endmacro %}{{ m('abc')|length }}{{ m('abc')+'x' }}", "3abcx"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void functions_are_those_of_transformers(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"{{ range(3)|list }}{{ range(5,0,-2)|list }}{{ dict({'x':1},y=2) }}{{ namespace(a=1).a }}",
         "[0, 1, 2][5, 3, 1]{'x': 1, 'y': 2}1"},
        {"{{ strftime_now('%Y-%m-%d %H:%M:%S') }}[{{ strftime_now('') }}]",
         "2025-01-15 12:00:00[]"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

static void whitespace_is_trimmed_as_trim_and_lstrip_blocks_say(void **state)
{
    (void)state;
    static const struct rendering list[] = {
        {"a\n", "a"},
        {"a\n\n", "a\n"},
        {"a\r\nb\rc\n", "a\nb\nc"},
        {"a {%- if t %} b {%- endif %} c", "a b c"},
        {"  {% if t %}\n  x\n  {% endif %}\n  y", "  x\n  y"},
        {"x  {% if t %}\n  x\n  {% endif %}\n  y", "x    x\n  y"},
        {"  {%+ if t %}\n x {%+ endif %}\n y", "   x  y"},
        {"  {% if t +%}\n x {% endif -%}\n\n y", "\n x y"},
        {"  {# c #}\n z", " z"},
        {" {#- c -#} \n z", "z"},
        {" {#+ c +#} \n z", "  \n z"},
        {" {%- raw -%} {{ x }} {%- endraw -%} \n z", "{{ x }}z"},
        {"  {% raw %}\n{{ x }}\n  {% endraw %}\n z", "\n{{ x }}\n z"},
        {"  {{ n }}  \n  {{- n -}}  \n  x", "  33x"},
        {"{{+ n }}{{-n}}", "33"},
        {"{% for i in l %}\n{{ i }}\n{% endfor %}\n", "3\n1\n2\n"},
        {"{%- for m in messages -%}\n  {{ m.role }}\n  {%- if m.content %}\n    {{- m.content|trim "
         "}}\n  {%- endif %}\n{%- endfor -%}\n",
         "systemSys \303\251<b>userHi 'x' \"y\"\n\tzassistantA</think>\n\nBtool"},
        {"\342\200\203 {%- if t %}x{% endif %} {% if t %}y{% endif %}", "x y"},
        {"{% if t %} {% if t %}a{% endif %}{% endif %}", " a"},
        {"{ {a} }}}%}", "{ {a} }}}%}"},
        {"{{ \"}}\" }}{% if \"%}\" %}a{% endif %}", "}}a"},
    };
    expect_all(list, SC_ARRAY_LEN(list));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_of_literals_is_what_python_prints),
        cmocka_unit_test(arithmetic_follows_python),
        cmocka_unit_test(comparisons_chain_and_mix_types),
        cmocka_unit_test(logic_gives_the_deciding_value),
        cmocka_unit_test(undefined_values_are_lenient_until_used),
        cmocka_unit_test(items_and_attributes_are_found_as_jinja_finds_them),
        cmocka_unit_test(slices_follow_python),
        cmocka_unit_test(string_methods_follow_python),
        cmocka_unit_test(dict_methods_follow_python),
        cmocka_unit_test(tojson_is_json_dumps_without_ascii),
        cmocka_unit_test(filters_of_text),
        cmocka_unit_test(filters_of_lists),
        cmocka_unit_test(default_replaces_undefined_or_falsy),
        cmocka_unit_test(tests_tell_types_apart),
        cmocka_unit_test(markup_escapes_what_is_added_to_it),
        cmocka_unit_test(loops_know_where_they_are),
        cmocka_unit_test(sets_end_with_their_scope_and_namespaces_do_not),
        cmocka_unit_test(macros_take_defaults_and_names_and_recurse),
        cmocka_unit_test(functions_are_those_of_transformers),
        cmocka_unit_test(whitespace_is_trimmed_as_trim_and_lstrip_blocks_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
