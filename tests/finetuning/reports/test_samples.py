"""Whatever a run does with held-out prompts after training has been tried before."""

import datetime
import json

import numpy as np
import pytest
from flax import nnx

from dpjax.data import encode_language, read_language_records
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.reports.samples import write_samples
from dpjax.finetuning.setup.plan import prepare
from dpjax.models import CausalLM, Trainable, load_tokenizer, parse_config, split_trainable
from tests.support.tiny_tokenizers import make_tokenizer

# Refuses what does not begin with the user; says what day it is.
TEMPLATE = (
    "{{ strftime_now('%j ') }}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{{ eos_token }}{% endgeneration %}{% else %}{{ m.content + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role == 'system' %}"
    "{{ raise_exception('nobody has asked') }}{% endif %}"
)
RAW = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 1,
    "n_positions": 48,
}
START = datetime.datetime(2024, 2, 3, 4, 5)


def says(*turns):
    names = {"u": "user", "a": "assistant", "s": "system"}
    return [{"role": names[who], "content": f"{said} film"} for who, said in turns]


USUAL = says(("u", "good"), ("a", "bad"))
GREETING = says(("a", "good"), ("u", "bad"))
LONGER = says(("u", "a"), ("a", "good"), ("u", "is it"), ("a", "bad"), ("u", "long"))
UNASKED = says(("s", "good"), ("a", "bad"))


@pytest.fixture
def config(tmp_path):
    """Function from held-out conversations to a run's configuration; there are no weights."""

    def make(*held_out, **options):
        folder = tmp_path / "base"
        tokenizer = make_tokenizer(chat_template=TEMPLATE)
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(RAW | {"vocab_size": len(tokenizer)}))
        for name, talks in (("train", [USUAL] * 20), ("dev", held_out)):
            lines = [json.dumps({"messages": talk}) + "\n" for talk in talks]
            (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        return FinetuneConfig.from_options(
            {
                "model": str(folder),
                "task": "causal_lm",
                "train_data": str(tmp_path / "train.jsonl"),
                "eval_data": str(tmp_path / "dev.jsonl"),
                "output_dir": str(tmp_path / "run"),
                "privacy": {"noise_multiplier": 1.0},
                "training": {"expected_batch_size": 5, "num_steps": 1, "max_length": 32},
                "generation": {"num_prompts": 2, "max_new_tokens": 4},
            }
            | options
        )

    return make


def test_conversations_without_a_prompt_are_counted(config):
    plan = prepare(config(GREETING, USUAL, GREETING, LONGER, USUAL), started_at=START)
    assert [prompt.number for prompt in plan.prompts.prompts] == [2, 4]
    assert plan.prompts.num_without == 2
    tokenizer = load_tokenizer(plan.checkpoint, needs_padding=False)
    mask = plan.prompts.encoded.attention_mask
    written = [
        tokenizer.decode(row[keep])
        for row, keep in zip(plan.prompts.encoded.input_ids, mask, strict=True)
    ]
    first = "034 a film\ngood film<|endoftext|>is it film\n"
    assert written == ["034 good film\n", first]
    model = CausalLM(
        parse_config(json.loads((plan.checkpoint / "config.json").read_text())), rngs=nnx.Rngs(0)
    )
    split = split_trainable(model, Trainable.full())
    shown = [(sample.prompt, sample.expected) for sample in write_samples(plan, split)]
    assert shown == [
        ("user: good film", "bad film"),
        ("user: a film / assistant: good film / user: is it film", "bad film"),
    ]


def test_no_conversation_has_a_prompt(config):
    plan = prepare(config(GREETING, GREETING), started_at=START)
    assert (plan.prompts.prompts, plan.prompts.num_without) == ([], 2)
    assert write_samples(plan, None) == []


def test_a_prompt_that_the_template_refuses_is_refused_before_training(config):
    with pytest.raises(ValueError, match=r"dev\.jsonl: .* record 2: nobody has asked"):
        prepare(config(USUAL, UNASKED), started_at=START)
    # Only the prompts that are answered are tried.
    assert len(prepare(config(USUAL, LONGER, UNASKED), started_at=START).prompts.prompts) == 2
    unanswered = config(UNASKED, generation={"num_prompts": 0})
    assert prepare(unanswered, started_at=START).prompts is None


def test_a_record_that_the_template_refuses_is_named_with_its_file(config, tmp_path):
    options = config(USUAL)
    template = "{{ 1 / (messages | length - 2) }}" + TEMPLATE
    (tmp_path / "base" / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match=r"train\.jsonl: .* record 1 \(ZeroDivisionError\)"):
        prepare(options)


def test_a_resumed_run_has_the_date_of_its_start(config):
    options = config(USUAL, LONGER)
    first, again = (prepare(options, started_at=START) for _ in range(2))
    assert first.fingerprint() == again.fingerprint()
    assert first.started_at == START
    for name in ("evaluation", "train"):
        assert getattr(first, name).fingerprint() == getattr(again, name).fingerprint()
    later = prepare(options, started_at=START + datetime.timedelta(days=1))
    assert later.fingerprint() != first.fingerprint()
    # The report's prompts have the date that the model has learnt.
    records = read_language_records(options.eval_data)
    tokenizer = load_tokenizer(first.checkpoint, needs_padding=False)
    data = encode_language(records, tokenizer, 32, today=START)
    np.testing.assert_array_equal(data.input_ids, first.evaluation.input_ids)
    before = datetime.datetime.now()
    assert before <= prepare(options).started_at <= datetime.datetime.now()
