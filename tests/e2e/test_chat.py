"""Messages become the prompt that the model's chat template writes."""

import pathlib
import shutil
import tempfile
import unittest

import harness as h
from harness import Code, ask, exact

CHATML = """\
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('Unknown role ' + message.role) }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
TEXT = "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n"


def chat(*messages, **options):
    request = ask(kv=exact(), sampling={"max_tokens": 8, "temperature": 0.0})
    for role, content in messages:
        request.messages.messages.add(role=role, content=content.encode())
    for name, value in options.items():
        setattr(request.messages, name, value)
    return request


class Chat(unittest.TestCase):
    def serve(self, template):
        folder = tempfile.TemporaryDirectory(prefix="sc-chat-")
        self.addCleanup(folder.cleanup)
        model = pathlib.Path(folder.name, "model")
        shutil.copytree(h.GOLDEN / "llama31", model)
        if template is not None:
            (model / "chat_template.jinja").write_text(template)
        daemon = h.Daemon(model)
        self.addCleanup(daemon.kill)
        return daemon

    def refused(self, daemon, request, code, *words):
        with self.assertRaises(h.grpc.RpcError) as caught:
            daemon.client.generate(request)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        for word in words:
            self.assertIn(word, caught.exception.details())

    def test_messages_continue_as_their_rendered_text_does(self):
        daemon = self.serve(CHATML)
        for prompt, text in ((None, TEXT), (False, TEXT[: TEXT.index("<|im_start|>assistant")])):
            options = {} if prompt is None else {"add_generation_prompt": prompt}
            got = daemon.client.generate(chat(("user", " Hello there\n"), **options))
            plain = ask(text=text, kv=exact(), sampling={"max_tokens": 8, "temperature": 0.0})
            plain.add_special_tokens = False
            want = daemon.client.generate(plain)
            self.assertEqual(got.outputs[0].token_ids, want.outputs[0].token_ids)
            self.assertEqual(got.usage.prompt_tokens, want.usage.prompt_tokens)
        self.refused(
            daemon, chat(("alien", "Hi")), Code.INVALID_ARGUMENT, "messages: Unknown role alien"
        )
        self.assertEqual(daemon.stop(), 0, daemon.tail())

    def test_without_a_template_only_messages_are_refused(self):
        for template, reason in (
            (None, "no chat_template.jinja"),
            ("{{ messages|nosuch }}", "1:13: filter nosuch is not supported"),
        ):
            with self.subTest(template=template):
                daemon = self.serve(template)
                self.refused(daemon, chat(("user", "Hi")), Code.UNIMPLEMENTED, "messages", reason)
                answer = daemon.client.generate(
                    ask(text="Hi", kv=exact(), sampling={"max_tokens": 1})
                )
                self.assertEqual(len(answer.outputs), 1)
                self.assertEqual(daemon.stop(), 0, daemon.tail())


if __name__ == "__main__":
    h.main()
