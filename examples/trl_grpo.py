"""TRL's GRPOTrainer under a curriculum: `python examples/trl_grpo.py localhost:50051 [MODEL]`.

Without a model a tiny random one is trained, which shows that it turns and no more. On several GPUs:
`accelerate launch examples/trl_grpo.py ...`.
"""

import sys

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from trainer_client.client import CurriculumClient
from trainer_client.integrations.trl import TrlCurriculum
from trainer_client.models.tiny import tiny_model, tiny_tokenizer


def is_correct(completions: list[str], answer: list[str], **_: object) -> list[float]:
    """1 for a completion that says the answer first. TRL hands over the columns of `prompts` by name."""
    return [float(text.strip().startswith(right)) for text, right in zip(completions, answer, strict=True)]


sums = [(a, b) for a in range(10) for b in range(10)]
prompts = Dataset.from_dict(
    {"prompt": [f"{a}+{b}=" for a, b in sums], "answer": [str(a + b) for a, b in sums]}
)
args = GRPOConfig(
    output_dir="runs/trl",
    max_steps=4,
    per_device_train_batch_size=8,
    num_generations=4,
    max_completion_length=4,
    shuffle_dataset=False,  # the service decides what comes next
    bf16=torch.cuda.is_available(),
    report_to=[],
)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2]) if len(sys.argv) > 2 else tiny_tokenizer()
model = AutoModelForCausalLM.from_pretrained(sys.argv[2]) if len(sys.argv) > 2 else tiny_model(tokenizer)
with CurriculumClient(sys.argv[1]) as client:
    curriculum = TrlCurriculum(client, "trl-sums", prompts, args)
    trainer = GRPOTrainer(
        model,
        reward_funcs=curriculum.reporting(is_correct),
        args=args,
        train_dataset=curriculum.dataset,
        processing_class=tokenizer,
        callbacks=[curriculum],
    )
    trainer.train()
    summary = client.summary("trl-sums")
    print(f"{summary.groups} groups, {summary.rollouts_spent} rollouts reported")
