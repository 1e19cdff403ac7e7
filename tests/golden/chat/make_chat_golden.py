#!/usr/bin/env python3
"""Makes cases.jsonl: chat templates in the shapes that model families use, and small templates for
one feature each, rendered by Jinja2 (PyPI) as transformers sets it up. A line is
{"template", "messages", "options": {…}, "text"} or, where Jinja2 refuses, "error": true.
Usage: make_chat_golden.py [--out FILE]
"""
import argparse
import json
import pathlib

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATES = {
    "llama2": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate: user, assistant, user, ...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "llama3": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- The first message may set the stage. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "Tools:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One tool call at a time") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "chatml": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "qwen3": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "deepseek": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is none %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls']%}{%- if not ns.is_first %}{{'<｜Assistant｜><｜tool▁calls▁begin｜>' + tool['type'] + '\\n' + '```json' + '\\n' + tool['function']['arguments'] + '\\n' + '```'}}{%- set ns.is_first = true -%}{%- else %}{{'\\n' + tool['function']['arguments']}}{{'<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor %}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{%- if ns.is_tool %}{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<｜tool▁outputs▁begin｜>' + message['content']}}{%- set ns.is_output_first = false %}{%- else %}{{'\\n' + message['content']}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'<｜tool▁outputs▁end｜>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\\n'}}{% endif %}""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and tools is defined and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS][" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}""",
    "macro": """{%- macro show(message, prefix='> ') -%}
{{ prefix }}{{ message.role|upper }}: {% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}{{ part.text if part.type == 'text' else '<image>' }}{% endfor %}{% endif %}
{%- endmacro %}
{% for m in messages %}
  {% if m.role == 'system' %}{% continue %}{% endif %}
  {{ show(m) }}
  {% if loop.index >= 4 %}
    {% break %}
  {% endif %}
{% else %}
  nobody
{% endfor %}
{% set tail %}
 ({{ messages|map(attribute='role')|unique|join(', ') }})
{% endset %}
{{ tail|trim }}
{% generation %}{{ show(messages[-1], prefix='') }}{% endgeneration %}""",
    "parts": """{% for message in messages %}
    {% if message['content'] is string %}
{{ message['content'] }}
    {% else %}
        {% for content in message['content'] | selectattr('type', 'equalto', 'text') %}
            {%- if not loop.first %}, {% endif -%}
            {{ content['text'] }}
        {%- endfor %}

    {% endif %}
{% endfor %}
{# end #}
{% if add_generation_prompt %}->{% endif %}
""",
}

CONVERSATIONS = [
    [("user", "Hi")],
    [("system", "  Be brief.\n"), ("user", "Who are you?")],
    [("user", "1+1?"), ("assistant", "<think>\nhm\n</think>\n\n2"), ("user", "Sure? ")],
    [("system", "S"), ("user", "你好 <|im_end|>"), ("assistant", " ok "), ("user", "\"quoted\" 'x' \\ \t é")],
    [("user", "a"), ("user", "b")],
    [("user", "weather?"), ("assistant", None, {"tool_calls": [{"type": "function", "function": {"name": "get", "arguments": {"city": "München", "n": 1.5, "ok": True, "x": None}}}]}),
     ("tool", "{\"t\": 20}"), ("tool", "more"), ("assistant", "20 degrees")],
    [("user", "q"), ("assistant", "A", {"reasoning_content": "R", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}, {"name": "g", "arguments": [1]}]}), ("tool", "res")],
    [("user", [{"type": "text", "text": "see"}, {"type": "image"}, {"type": "text", "text": "this"}])],
    [("assistant", "only me")],
]
TOOLS = [{"type": "function", "function": {"name": "get", "description": "Gets \"it\" & <more>", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": []}, "return": {"x": 1}}},
         {"type": "function", "function": {"name": "f", "description": "é", "parameters": {}}}]

SNIPPETS = r"""
{{ 1 + 2 * 3 - 4 // 3 % 2 }} {{ 7 / 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2.5 * 2 }} {{ 1e3 }} {{ 1e16 }} {{ 0.1 + 0.2 }} {{ 1_000 }}
{{ 'a' ~ 1 ~ none ~ true ~ x }} {{ 'ab' * 3 }} {{ [1] * 2 + [3] }} {{ 'a' 'b' }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ 'a' != 'b' }} {{ not 1 == 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ none == none }} {{ x == y }}
{{ 'el' in 'hello' }} {{ 3 not in [1, 2] }} {{ 'a' in {'a': 1} }} {{ 1 in (1, 2) }} {{ 'x' in undefined_thing }}
{{ true and 0 or 'z' }} {{ none or 'd' }} {{ '' and x.y }} {{ 1 if 0 }}|{{ 1 if 0 else 2 if 0 else 3 }}
{{ 'héllo'[1] }}{{ 'héllo'[-1] }}{{ 'héllo'[1:3] }}{{ 'héllo'[::-1] }}{{ 'héllo'[::2] }}{{ 'abc'[5:] }}|{{ 'abc'[-2:] }}{{ 'abc'[:-1] }}{{ 'abc'[-9:2] }}{{ 'abc'[2:0:-1] }}
{{ [1, 2, 3][1:] }} {{ [1, 2, 3][-1] }} {{ (1, 2)[:1] }} {{ (1,) }} {{ () }} {{ [] }} {{ {} }} {{ [1, 2, 3][::-1] }} {{ [0,1,2,3,4][-100:100:3] }} {{ [0,1,2][10:-10:-1] }}
{{ {'a': 1, 'b': [true, none, 1.5, 'it\'s', "q\"", 'b\\', 'é', '\n\t']} }} {{ ["'\""] }}
{{ {'a': 1}.a }} {{ {'a': 1}['a'] }} {{ {'a': 1}.b is defined }} {{ {'a': 1}.get('b', 7) }} {{ {'a': 1}.get('b') }} {{ {'a': {'b': 2}}.a.b }} {{ [[1, 2]][0].1 }}
{{ {'b': 1, 'a': 2}.items()|list }} {{ {'b': 1}.keys()|list }} {{ {'b': 1}.values()|list }} {{ {'b': 1, 'A': 2}|dictsort }} {{ {'b': 1}|items|list }}
{{ ' a b '.strip() }}|{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'a,b,c'.split(',') }}|{{ ' a  b '.split() }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ ''.split() }}|{{ ''.split(',') }}
{{ 'abc'.startswith('a') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('bc') }} {{ 'aXbX'.replace('X', '-') }} {{ 'aXbX'.replace('X', '-', 1) }} {{ 'abc'.replace('', '.') }} {{ 'abc'.find('c') }} {{ 'éb'.find('b') }} {{ 'abab'.count('ab') }} {{ 'x'.join(['a', 'b']) }}
{{ 'hello World'.title() }} {{ 'hello World'.capitalize() }} {{ 'ÄB'.lower() }} {{ 'äb'.upper() }} {{ 'straße'|upper }} {{ '12'.isdigit() }} {{ "a\nb\r\nc".splitlines() }} {{ 'prefix-x'.removeprefix('prefix-') }}
{{ ' x '|trim }}|{{ [1, 2]|length }} {{ 'äö'|length }} {{ {'a': 1}|count }} {{ [1, 'a']|join('-') }} {{ [{'n': 1}, {'n': 2}]|join(',', attribute='n') }} {{ nope|default('d') }} {{ ''|default('d', true) }} {{ ''|d('x') }}|{{ none|default('n') }}
{{ [3, 1, 2]|sort }} {{ ['b', 'A']|sort }} {{ [3, 1]|sort(reverse=true) }} {{ [{'a': 2}, {'a': 1}]|sort(attribute='a') }} {{ [1, 1, 2]|unique|list }} {{ [1, 2]|reverse|list }} {{ 'abc'|reverse }} {{ [1, 2, 3]|sum }} {{ [1, 5, 3]|max }} {{ [4, 2]|min }}
{{ [1, 2, 3]|first }} {{ [1, 2, 3]|last }} {{ 'abc'|first }} {{ []|first is defined }} {{ '42'|int + 1 }} {{ 'x'|int }} {{ '3.7'|int }} {{ 3.7|int }} {{ '1.5'|float }} {{ 'x'|float }} {{ 5|string + '1' }} {{ -3|abs }} {{ 'abc'|list }} {{ 'x'|upper|lower|title }}
{{ [1, 2, 3, 4]|select('odd')|list }} {{ [1, 2, 3]|reject('equalto', 2)|list }} {{ [0, 1, '']|select|list }} {{ [{'r': 'u', 'v': 1}, {'r': 'a'}]|selectattr('r', 'equalto', 'u')|list }} {{ [{'r': 'u', 'v': 1}, {'r': 'a'}]|selectattr('v')|list }} {{ [{'r': 'u'}, {'r': 'a'}]|rejectattr('r', 'in', ['u'])|map(attribute='r')|list }}
{{ ['a', 'b']|map('upper')|join }} {{ [{'x': {'y': 1}}]|map(attribute='x.y')|list }} {{ [{'x': 1}, {}]|map(attribute='x', default=0)|list }} {{ [[1, 2], [3]]|map('length')|list }}
{{ {'a': [1, {'b': null_thing is defined}], 'é': "x\u0001\n</s>'"}|tojson }} {{ [1, 2.0, 1e20, true, none]|tojson }} {{ {'b': 1, 'a': {}}|tojson(indent=2) }} {{ []|tojson(indent=2) }} {{ 'é'|tojson(ensure_ascii=true) }} {{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }}
{{ "a\nb\n\nc"|indent }}|{{ "a\nb"|indent(2, true) }}|{{ "a\n\nb"|indent(2, blank=true) }}
{{ 4 is divisibleby 2 }} {{ 3 is odd }} {{ 3 is not even }} {{ 'a' is string }} {{ 1 is number }} {{ 1 is string }} {{ true is boolean }} {{ 1 is boolean }} {{ 1 is integer }} {{ true is integer }} {{ 1.5 is float }} {{ [] is iterable }} {{ [] is sequence }} {{ {} is mapping }} {{ none is none }} {{ x is undefined }} {{ 1 is eq 1 }} {{ 1 is in [1] }} {{ 2 is gt 1 }} {{ 2 is le 1 }} {{ 'a' is lower }} {{ 'A' is upper }} {{ true is true }} {{ 1 is true }} {{ range is callable }} {{ 1 is sameas 1 }}
{% for i in range(3) %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %} {% for i in range(5, 0, -2) %}{{ i }}{% endfor %} {% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %} {% for c in 'né' %}[{{ c }}]{% endfor %} {% for x in [] %}x{% else %}none{% endfor %} {% for x in nope %}x{% endfor %}
{% for i in [1, 2, 3, 4] if i is even %}{{ loop.index }}/{{ loop.length }}:{{ i }} {% endfor %}{% for i in [1,2,3] %}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.previtem|default('-') }}{{ loop.nextitem|default('-') }}{{ loop.cycle('o', 'e') }} {% endfor %}
{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }} {% set ns = namespace(v=0) %}{% for i in [1, 2] %}{% set ns.v = ns.v + i %}{% endfor %}{{ ns.v }} {% if true %}{% set y = 5 %}{% endif %}{{ y }} {% set a, b = 1, 2 %}{{ a + b }} {% set t = 1, 2 %}{{ t }}
{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(a=5) }} {{ m() }}|{{ m(1, b=9)|length }} {% macro n() %}{{ m('in') }}{% endmacro %}{{ n() }}
{% set q %}  a{{ 1 }} {% endset %}[{{ q }}] {% raw %}{{ not }} {% x %}{% endraw %} {# c #}|{{ '{{' }}{{ "%}" }}{{ {'a': {'b': 1}}}}
{{ dict(a=1, b='x') }} {{ range(3)|list }} {{ 'a%sb' }} {{ "\u00e9\x41\t|\'" }} {{ 'é'.upper() }} {{ 10 // 3.0 }} {{ 5 % 2.5 }} {{ +3 }} {{ - 2 }} {{ 'b' > 'a' }} {{ 2 >= 2 }} {{ true + 1 }} {{ 1 == true }}
{%- for i in [1, 2, 3] -%} {{ i }} {%- if i == 2 %}{% break %}{% endif -%} {%- endfor -%} | {%- for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}
{{ nope.x }}
{{ nope + 'a' }}
{{ 1 + 'a' }}
{{ nope() }}
{{ 'a'.nope() }}
{{ raise_exception('no') }}
{{ 1 / 0 }}
{% for x in 5 %}{% endfor %}
{% if x %}
{{ 'a' | nofilter }}
{{ 1 is notest }}
{% unknown %}
{{ (1 }}
{{ 'a }}
{% for i in [1] %}{{ i }}{% endif %}
{% set m = messages %}{{ m[0].role }}{{ m[0]['content'] }}{{ m|length }}{{ messages[-1].content }}{{ messages[5] is defined }}{{ messages[0].items()|list|length }}
{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ extra.a[1] }}{{ extra }}
{{ messages | map(attribute='content') | join('+') }}{{ messages|selectattr('role', 'ne', 'user')|list|length }}
{{ [1,2,3].index(2) }}{{ [1,1].count(1) }}{{ 'a-b_c d'.title() }}{{ ("x" if messages else "y") ~ '!' }}{{ {'a':1} == {'a':1.0} }}
""".strip("\n").split("\n")
LAYOUTS = ["a\n{% if true %}\nb\n{% endif %}\nc\n", "  {% if true %}  \n  b\n  {% endif %}\nc", "x {% if true %}y{% endif %} z\n\n", "{% if true +%}\na{% endif %}", "a\n  {%+ if true %}b{% endif %}",
           "a \n {{- 'b' -}} \n c", "{# c #}\na\n  {# d #}\nb", "a{#- c -#} b", "\n\n{{ 1 }}\n\n", "{% for i in [1,2] %}\n  {{ i }}\n{% endfor %}\n", "{% for i in [1,2] -%}\n  {{ i }}\n{%- endfor %}\n.",
           "a\r\n{% if true %}\r\nb\r\n{% endif %}\r\n", "\t{% set x = 1 %}\t\n{{ x }}", "{%- if true -%}\n\n  a  \n\n{%- endif -%}", "{% raw %}\n {{ x }} \n{% endraw %}\nend", "a  {% raw -%}  b {%- endraw %} c",
           "{{ 'a' }}\n{{ 'b' }}\n", "\u00a0{% if true %}a{% endif %}", "{{ 'x' -}}\n\n y", "{ {% if true %}{{% endif %} }", "a {%if true%}b{%endif%} c{{1}}", "{{ {'a': 1}.a }}}"]


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            lineno = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(lineno)

        def _pass(self, caller):
            return caller()

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    for name in ("lipsum", "cycler", "joiner"):
        env.globals.pop(name)
    return env


def cases():
    for name, template in TEMPLATES.items():
        for conversation in CONVERSATIONS:
            for options in ({}, {"add_generation_prompt": False, "variables": {"tools": TOOLS, "enable_thinking": False}}):
                yield template, conversation, options
    for template in SNIPPETS + LAYOUTS:
        yield template, CONVERSATIONS[2], {"variables": {"extra": {"a": [1, "two", None], "b": 1.5}}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent / "cases.jsonl")
    out = parser.parse_args().out
    env = environment()
    count = refused = 0
    with open(out, "w", encoding="utf-8", newline="\n") as f:
        for template, conversation, options in cases():
            messages = [dict({"role": m[0], "content": m[1]}, **(m[2] if len(m) > 2 else {})) for m in conversation]
            case = {"template": template, "messages": messages, "options": options}
            try:
                case["text"] = env.from_string(template).render(
                    messages=messages, bos_token="<s>", eos_token="</s>",
                    add_generation_prompt=options.get("add_generation_prompt", True), **options.get("variables", {}))
            except Exception:
                case["error"] = True
                refused += 1
            f.write(json.dumps(case) + "\n")
            count += 1
    print(count, "cases,", refused, "refused")


main()
