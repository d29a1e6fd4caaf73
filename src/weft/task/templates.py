"""Ways to write a conversation as text that are known by a name, as data, and prompts that a recipe writes itself.

Each named format is a Jinja template of the kind that tokenizers carry, with ``{% generation %}`` around what the
assistant says, written from the format's public definition. ``{{ end }}`` is its mark behind a message where the
tokenizer has it as one token, else the tokenizer's own end token. What opens a text (BOS) is the tokenizer's business.
User messages also have ``instruction`` and ``input`` apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from weft.errors import nearest

FIELDS = ("system", "instruction", "input")
DEFAULT_TEMPLATE = "{system}\n\n### Task\n{instruction}\n\n### Given\n{input}\n\n### Answer\n"

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Format:
    """A named way to write a conversation.

    Attributes:
        template: in Jinja.
        end: the mark behind a message, empty for the tokenizer's own end token.
    """

    template: str
    end: str = ""


def _blocks(head: str, end: str, after: str, *, content: str = "message.content") -> Format:
    """Return a format that writes every message as a block: head, content, end mark.

    Args:
        head: Jinja expression of what stands before a message of ``role``.
        end: the mark behind a message.
        after: Jinja expression of what stands behind the mark.
        content: Jinja expression of what is said.
    """
    asked = head.replace("role", "'assistant'")
    return Format(
        "{%- for message in messages %}{%- set role = message.role %}{%- if role == 'assistant' %}"
        f"{{{{- {asked} }}}}{{%- generation %}}{{{{- {content} + end }}}}{{%- endgeneration %}}{{{{- {after} }}}}"
        f"{{%- else %}}{{{{- {head} + {content} + end + {after} }}}}{{%- endif %}}{{%- endfor %}}"
        f"{{%- if add_generation_prompt %}}{{{{- {asked} }}}}{{%- endif %}}",
        end,
    )


_QWEN = (
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}"
    "{%- else %}{%- set system = 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' %}{%- endif %}"
    "{{- '<|im_start|>system\\n' + system }}"
    "{%- if tools %}{{- '\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n"
    "You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}"
    "{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}"
    "{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\\n<tool_call>\\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>'
    "' }}{%- endif %}{{- end + '\\n' }}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' %}{{- '<|im_start|>user\\n' + message.content + end + '\\n' }}"
    "{%- elif message.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}{%- generation %}{{- message.content or '' }}"
    "{%- for call in message.tool_calls or [] %}{%- if message.content or not loop.first %}{{- '\\n' }}{%- endif %}"
    '{{- \'<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}{%- endfor %}"
    "{{- end }}{%- endgeneration %}{{- '\\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{%- if loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"
    "{%- if loop.last or loop.nextitem.role != 'tool' %}{{- end + '\\n' }}{%- endif %}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
_ANSWER = "{%- generation %}{{- ANSWER }}{%- endgeneration %}"
_LLAMA2 = (
    "{%- set ns = namespace(system='') %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}{%- set ns.system = '<<SYS>>\\n' + message.content + '\\n<</SYS>>\\n\\n' %}"
    "{%- elif message.role == 'user' %}"
    "{{- '[INST] ' + ns.system + message.content + ' [/INST]' }}{%- set ns.system = '' %}"
    "{%- else %}" + _ANSWER.replace("ANSWER", "' ' + message.content + ' ' + end") + "{{- bos_token }}"
    "{%- endif %}{%- endfor %}"
)
_MISTRAL = (
    "{%- set ns = namespace(system='') %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}{%- set ns.system = message.content + '\\n\\n' %}"
    "{%- elif message.role == 'user' %}"
    "{{- '[INST] ' + ns.system + message.content + ' [/INST]' }}{%- set ns.system = '' %}"
    "{%- else %}" + _ANSWER.replace("ANSWER", "' ' + message.content + end") + "{%- endif %}{%- endfor %}"
)
_GEMMA = (
    "{%- set ns = namespace(system='') %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}{%- set ns.system = message.content + '\\n\\n' %}"
    "{%- elif message.role == 'user' %}"
    "{{- '<start_of_turn>user\\n' + ((ns.system + message.content) | trim) + end + '\\n' }}{%- set ns.system = '' %}"
    "{%- else %}{{- '<start_of_turn>model\\n' }}"
    + _ANSWER.replace("ANSWER", "(message.content | trim) + end")
    + "{{- '\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"
)
_VICUNA = (
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + ' ' }}"
    '{%- else %}{{- "A chat between a curious user and an artificial intelligence assistant. The assistant gives '
    "helpful, detailed, and polite answers to the user's questions. \" }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' %}{{- 'USER: ' + message.content + ' ASSISTANT:' }}"
    "{%- elif message.role == 'assistant' %}"
    + _ANSWER.replace("ANSWER", "' ' + message.content + end")
    + "{%- endif %}{%- endfor %}"
)
_ALPACA = (
    "{%- set asked = messages | selectattr('role', 'equalto', 'user') | first %}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}"
    "{%- elif asked.input %}{{- 'Below is an instruction that describes a task, paired with an input that provides "
    "further context. Write a response that appropriately completes the request.\\n\\n' }}"
    "{%- else %}{{- 'Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\\n\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' %}{{- '### Instruction:\\n' + (message.instruction | default(message.content)) }}"
    "{%- if message.input %}{{- '\\n\\n### Input:\\n' + message.input }}{%- endif %}{{- '\\n\\n### Response:\\n' }}"
    "{%- elif message.role == 'assistant' %}"
    + _ANSWER.replace("ANSWER", "message.content + end")
    + "{{- '\\n\\n' }}{%- endif %}{%- endfor %}"
)

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "alpaca": Format(_ALPACA),
        "chatml": _blocks(r"'<|im_start|>' + role + '\n'", "<|im_end|>", r"'\n'"),
        "gemma": Format(_GEMMA, "<end_of_turn>"),
        "llama2": Format(_LLAMA2),
        "llama3": _blocks(
            r"'<|start_header_id|>' + role + '<|end_header_id|>\n\n'",
            "<|eot_id|>",
            "''",
            content="(message.content | trim)",
        ),
        "mistral": Format(_MISTRAL),
        "phi3": _blocks(r"'<|' + role + '|>\n'", "<|end|>", r"'\n'"),
        "qwen": Format(_QWEN, "<|im_end|>"),
        "vicuna": Format(_VICUNA),
        "zephyr": _blocks(r"'<|' + role + '|>\n'", "", r"'\n'"),
    }
)
"""Formats by name."""


def check_template(template: str) -> str:
    """Return ``template`` unchanged if it is the name of a format, or a prompt that can be filled.

    Raises:
        ValueError: no such name, no ``{instruction}``, or an unknown field.
    """
    fields = _FIELD.findall(template)
    if template in FORMATS or ("{instruction}" in template and set(fields) <= set(FIELDS)):
        return template
    unknown = [name for name in fields if name not in FIELDS]
    raise ValueError(
        "template must be a format's name, or have {instruction} and may have {input} and {system}, but "
        + (f"has {{{unknown[0]}}}" if unknown else "has no {instruction}")
        + f". {nearest(template, FORMATS)}"
    )


def fill(template: str, *, system: str, instruction: str, given: str) -> str:
    r"""Return ``template`` filled; a paragraph whose fields are all empty is left out.

    Nothing is lost in a template without its field: the system's words open the text, what is given is under the
    instruction.

    Example:
        >>> fill("{system}\n\nDo: {instruction}\n\n", system="", instruction="sing", given="")
        'Do: sing\n\n'
    """
    if system and "{system}" not in template:
        template = f"{{system}}\n\n{template}"
    if given and "{input}" not in template:
        instruction = f"{instruction}\n\n{given}"
    values = {"system": system, "instruction": instruction, "input": given}
    return "\n\n".join(_filled_paragraphs(template.split("\n\n"), values))


def _filled_paragraphs(paragraphs: Sequence[str], values: Mapping[str, str]) -> list[str]:
    filled: list[str] = []
    for paragraph in paragraphs:
        names = _FIELD.findall(paragraph)
        if not names or any(values[name] for name in names):
            filled.append(_FIELD.sub(lambda match: values[match[1]], paragraph))
    return filled
