"""A run of TRL's trainer on two processes, as torchrun starts it: `trl_run TARGET FOLDER`."""

from __future__ import annotations

import sys
import zlib
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from trainer_client.client import CurriculumClient
from trainer_client.integrations.trl import TrlCurriculum
from trainer_client.models.tiny import tiny_model, tiny_tokenizer


def by_lot(completions: list[str], **columns: Any) -> list[float]:
    return [float(zlib.crc32(text.encode()) % 2) for text in completions]


def main(target: str, folder: str) -> None:
    prompts = Dataset.from_dict({"prompt": [f"{n}+1=" for n in range(40)]})
    # Two processes with 6 rollouts each: the group in the middle lies across them.
    args = GRPOConfig(
        output_dir=folder, max_steps=3, per_device_train_batch_size=6, num_generations=4,
        max_completion_length=3, shuffle_dataset=False, use_cpu=True, bf16=False, report_to=[],
        save_strategy="steps", save_steps=3, logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    tokenizer = tiny_tokenizer()
    with CurriculumClient(target) as client:
        curriculum = TrlCurriculum(client, "pair", prompts, args)
        GRPOTrainer(
            tiny_model(tokenizer),
            reward_funcs=curriculum.reporting(by_lot),
            args=args,
            train_dataset=curriculum.dataset,
            processing_class=tokenizer,
            callbacks=[curriculum],
        ).train()


if __name__ == "__main__":
    main(*sys.argv[1:])
