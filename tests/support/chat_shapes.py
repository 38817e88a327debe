"""Small chat templates of the shapes that well-known models have, and what each should write.

`Shape.pieces` is a naive reference in Python: the pieces of a conversation's text, each with
whether it is the assistant's. The templates have `{% generation %}` marks; `unmarked` takes them
out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

Pieces = Iterator[tuple[str, bool]]


class Shape(NamedTuple):
    """A template with marks, its special tokens (the last ends a text), and the reference."""

    template: str
    specials: tuple[str, ...]
    pieces: Callable[[list], Pieces]
    writes_tools: bool


def unmarked(template: str) -> str:
    return re.sub(r"\{%-? *(end)?generation *-?%\}", "", template)


def _calls(message, before="", after="", between=""):
    calls = [json.dumps(call["function"]) for call in message.get("tool_calls", [])]
    return between.join(before + call + after for call in calls)


_WRITE_CALLS = (
    "{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "{{ 'BEFORE' + (c.function | tojson) + 'AFTER' }}{% endfor %}{% endif %}"
)


def _write_calls(before="", after=""):
    return _WRITE_CALLS.replace("BEFORE", before).replace("AFTER", after)


# Llama 3: a dated system turn, trimmed contents, tool results as "ipython".
_LLAMA_3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set system = messages[0].content | trim %}{% set messages = messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}"
    "{{ '<|head|>system<|headed|>\n\nToday: ' + strftime_now('%d %b %Y') + '\n\n' + system"
    " + '<|eot|>' }}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|head|>assistant<|headed|>\n\n' }}"
    "{% generation %}{% if m.tool_calls %}" + _write_calls() + "{% else %}{{ m.content | trim }}"
    "{% endif %}{{ '<|eot|>' }}{% endgeneration %}"
    "{% else %}{{ '<|head|>' + ('ipython' if m.role == 'tool' else m.role) + '<|headed|>\n\n'"
    " + m.content | trim + '<|eot|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|headed|>\n\n' }}{% endif %}"
)


def _llama_3(talk) -> Pieces:
    system = ""
    if talk[0]["role"] == "system":
        system, talk = talk[0]["content"].strip(), talk[1:]
    yield f"<s><|head|>system<|headed|>\n\nToday: 26 Jul 2024\n\n{system}<|eot|>", False
    for said in talk:
        role = {"tool": "ipython"}.get(said["role"], said["role"])
        yield f"<|head|>{role}<|headed|>\n\n", False
        text = _calls(said) or said["content"].strip()
        yield f"{text}<|eot|>", role == "assistant"


# Qwen 2.5: a system turn by default, tool results in the user's turn.
_IM_TOOL = "{{ '<|im|>user\n<tool_response>\n' + m.content + '\n</tool_response><|end|>\n' }}"
_QWEN_2 = (
    "{% if messages[0].role != 'system' %}{{ '<|im|>system\nbe good<|end|>\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im|>assistant\n' }}"
    "{% generation %}{{ m.content or '' }}" + _write_calls("\n<tool_call>\n", "\n</tool_call>")
    + "{{ '<|end|>\n' }}{% endgeneration %}"
    "{% elif m.role == 'tool' %}" + _IM_TOOL
    + "{% else %}{{ '<|im|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im|>assistant\n' }}{% endif %}"
)  # fmt: skip


def _im_turn(said) -> str:
    if said["role"] == "tool":
        content = said["content"]
        return f"<|im|>user\n<tool_response>\n{content}\n</tool_response><|end|>\n"
    return f"<|im|>{said['role']}\n{said['content']}<|end|>\n"


def _qwen_2(talk) -> Pieces:
    if talk[0]["role"] != "system":
        yield "<|im|>system\nbe good<|end|>\n", False
    for said in talk:
        if said["role"] == "assistant":
            yield "<|im|>assistant\n", False
            calls = _calls(said, "\n<tool_call>\n", "\n</tool_call>")
            yield f"{said['content'] or ''}{calls}<|end|>\n", True
        else:
            yield _im_turn(said), False


# Qwen 3: reasoning is written after the last question only, there even where it is empty.
_QWEN_3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% set thought = m.reasoning_content or '' %}{% set content = m.content or '' %}"
    "{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im|>assistant\n' }}{% generation %}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}"
    "{% else %}{{ content }}{% endif %}" + _write_calls("\n<tool_call>\n", "\n</tool_call>")
    + "{{ '<|end|>\n' }}{% endgeneration %}"
    "{% elif m.role == 'tool' %}" + _IM_TOOL
    + "{% else %}{{ '<|im|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im|>assistant\n' }}{% endif %}"
)  # fmt: skip


def _qwen_3(talk) -> Pieces:
    last = max(place for place, said in enumerate(talk) if said["role"] == "user")
    for place, said in enumerate(talk):
        if said["role"] != "assistant":
            yield _im_turn(said), False
            continue
        thought, content = said.get("reasoning_content", ""), said["content"] or ""
        if "</think>" in content:
            thought, content = content.split("</think>")
            thought, content = thought.removeprefix("<think>").strip("\n"), content.lstrip("\n")
        yield "<|im|>assistant\n", False
        is_end = place == len(talk) - 1
        if place > last and (is_end or thought):
            content = f"<think>\n{thought}\n</think>\n\n" + content.lstrip("\n")
        calls = _calls(said, "\n<tool_call>\n", "\n</tool_call>")
        yield f"{content}{calls}<|end|>\n", True


# Gemma 3: the system's words open the first question; roles must alternate; "model" answers.
_GEMMA_3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}"
    "{% else %}{% set first = '' %}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'assistant' %}{{ '<|turn|>model\n' }}{% generation %}"
    "{{ m.content | trim }}{{ '<|eot|>\n' }}{% endgeneration %}"
    "{% else %}{{ '<|turn|>' + m.role + '\n' + (first if loop.first else '') }}"
    "{{ m.content | trim }}{{ '<|eot|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>model\n' }}{% endif %}"
)


def _gemma_3(talk) -> Pieces:
    first = ""
    if talk[0]["role"] == "system":
        first, talk = talk[0]["content"] + "\n\n", talk[1:]
    yield "<s>", False
    for place, said in enumerate(talk):
        is_answer = said["role"] == "assistant"
        yield f"<|turn|>{'model' if is_answer else 'user'}\n", False
        yield f"{first if place == 0 else ''}{said['content'].strip()}<|eot|>\n", is_answer


# Mistral: no invitation, and a token that ends an answer.
_MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ '[SYS]' + m.content + '[/SYS]' }}"
    "{% elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL]' + m.content + '[/TOOL]' }}"
    "{% else %}{% generation %}{% if m.tool_calls %}" + _write_calls("[CALL]")
    + "{% else %}{{ ' ' + m.content | trim }}{% endif %}{{ eos_token }}{% endgeneration %}"
    "{% endif %}{% endfor %}"
)  # fmt: skip


def _mistral(talk) -> Pieces:
    names = {"system": "SYS", "user": "INST", "tool": "TOOL"}
    yield "<s>", False
    for said in talk:
        if said["role"] == "assistant":
            text = _calls(said, "[CALL]") or " " + said["content"].strip()
            yield f"{text}<|endoftext|>", True
        else:
            name = names[said["role"]]
            yield f"[{name}]{said['content']}[/{name}]", False


# Phi 3: without an invitation the text is closed by the end-of-sequence token.
_PHI_3 = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>\n' }}"
    "{% generation %}{{ m.content + '<|end|>\n' }}{% endgeneration %}"
    "{% else %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def _phi_3(talk) -> Pieces:
    for said in talk:
        yield f"<|{said['role']}|>\n", False
        yield f"{said['content']}<|end|>\n", said["role"] == "assistant"
    # The marks leave it out; without them it belongs to an answer that is the last message.
    yield "<|endoftext|>", False


# SmolLM 2: a system turn by default, one form for every role.
_SMOLLM_2 = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "{{ '<|im|>system\nbe good<|end|>\n' }}{% endif %}{{ '<|im|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|end|>\n' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im|>assistant\n' }}{% endif %}"
)


def _smollm_2(talk) -> Pieces:
    if talk[0]["role"] != "system":
        yield "<|im|>system\nbe good<|end|>\n", False
    for said in talk:
        yield f"<|im|>{said['role']}\n", False
        yield f"{said['content']}<|end|>\n", said["role"] == "assistant"


# SmolLM 3: a date; /no_think makes the invitation and every answer begin with empty reasoning.
_SMOLLM_3 = (
    "{% set quick = messages[0].role == 'system' and '/no_think' in messages[0].content %}"
    "{% set opening = '<think>\n\n</think>\n' if quick else '' %}"
    "{{ '<|im|>system\nToday: ' + strftime_now('%d %b %Y') + '\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content.replace('/no_think', '') }}"
    "{% endif %}{{ '<|end|>\n' }}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im|>assistant\n' + opening }}"
    "{% generation %}{{ m.content.lstrip('\n') + '<|end|>\n' }}{% endgeneration %}"
    "{% elif m.role != 'system' %}{{ '<|im|>user\n' + m.content + '<|end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im|>assistant\n' + opening }}{% endif %}"
)


def _smollm_3(talk) -> Pieces:
    system = talk[0]["content"] if talk[0]["role"] == "system" else ""
    opening = "<think>\n\n</think>\n" if "/no_think" in system else ""
    yield f"<|im|>system\nToday: 26 Jul 2024\n{system.replace('/no_think', '')}<|end|>\n", False
    for said in talk:
        if said["role"] == "assistant":
            yield f"<|im|>assistant\n{opening}", False
            yield said["content"].lstrip("\n") + "<|end|>\n", True
        elif said["role"] != "system":
            yield f"<|im|>user\n{said['content']}<|end|>\n", False


# Granite: the date only where no system speaks; the invitation is written inside the loop.
_GRANITE = (
    "{% if messages[0].role != 'system' %}"
    "{{ '<|role|>system<|said|>Today: ' + strftime_now('%d %b %Y') + '.' + eos_token + '\n' }}"
    "{% endif %}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|role|>assistant<|said|>' }}{% generation %}{{ m.content or '' }}"
    + _write_calls("<tool_call>")
    + "{{ eos_token + '\n' }}{% endgeneration %}"
    "{% else %}{{ '<|role|>' + m.role + '<|said|>' + m.content + eos_token + '\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|role|>assistant<|said|>' }}{% endif %}"
    "{% endfor %}"
)


def _granite(talk) -> Pieces:
    if talk[0]["role"] != "system":
        yield "<|role|>system<|said|>Today: 26 Jul 2024.<|endoftext|>\n", False
    for said in talk:
        yield f"<|role|>{said['role']}<|said|>", False
        text = f"{said['content'] or ''}{_calls(said, '<tool_call>')}<|endoftext|>\n"
        yield text, said["role"] == "assistant"


# OLMo 2: the last answer has no line break after its end.
_OLMO_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>\n' }}"
    "{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}"
    "{% else %}{{ '<|' + m.role + '|>\n' + m.content + '\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)


def _olmo_2(talk) -> Pieces:
    yield "<s>", False
    for place, said in enumerate(talk):
        yield f"<|{said['role']}|>\n", False
        if said["role"] == "assistant":
            yield f"{said['content']}<|endoftext|>", True
            yield "" if place == len(talk) - 1 else "\n", False
        else:
            yield f"{said['content']}\n", False


# DeepSeek-R1 distilled: the invitation opens <think>, no answer has its reasoning.
_R1 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% elif m.role == 'tool' %}{{ '<|outputs|>' + m.content + '<|put|>' }}"
    "{% elif m.role == 'assistant' %}{{ '<|Assistant|>' }}{% generation %}"
    "{% if m.tool_calls %}" + _write_calls("<|call|>") + "{% else %}"
    "{{ m.content.split('</think>')[-1] if '</think>' in m.content else m.content }}{% endif %}"
    "{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)


def _r1(talk) -> Pieces:
    yield "<s>", False
    for said in talk:
        if said["role"] == "assistant":
            yield "<|Assistant|>", False
            text = _calls(said, "<|call|>") or said["content"].split("</think>")[-1]
            yield f"{text}<|endoftext|>", True
        else:
            form = {"user": "<|User|>{}", "tool": "<|outputs|>{}<|put|>"}.get(said["role"], "{}")
            yield form.format(said["content"]), False


_IM = ("<|im|>", "<|end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
SHAPES = {
    "Llama 3": Shape(_LLAMA_3, ("<|head|>", "<|headed|>", "<|eot|>"), _llama_3, True),
    "Qwen 2.5": Shape(_QWEN_2, _IM, _qwen_2, True),
    "Qwen 3": Shape(_QWEN_3, _IM, _qwen_3, True),
    "Gemma 3": Shape(_GEMMA_3, ("<|turn|>", "<|eot|>"), _gemma_3, False),
    "Mistral": Shape(_MISTRAL, ("[INST]", "[/INST]", "[SYS]", "[/SYS]", "[CALL]"), _mistral, True),
    "Phi 3": Shape(_PHI_3, _ROLES, _phi_3, False),
    "SmolLM 2": Shape(_SMOLLM_2, _IM, _smollm_2, False),
    "SmolLM 3": Shape(_SMOLLM_3, _IM, _smollm_3, False),
    "Granite": Shape(_GRANITE, ("<|role|>", "<|said|>", "<tool_call>"), _granite, True),
    "OLMo 2": Shape(_OLMO_2, _ROLES, _olmo_2, False),
    "DeepSeek-R1 distilled": Shape(
        _R1, ("<|User|>", "<|Assistant|>", "<think>", "</think>", "<|outputs|>"), _r1, True
    ),
}
