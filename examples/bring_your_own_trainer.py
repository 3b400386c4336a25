"""A trainer in 20 lines: `python examples/bring_your_own_trainer.py localhost:50051`.

Rollouts are simulated: prompt i is solved with probability i / 100, whatever the policy does.
"""

import sys

import numpy as np

from trainer_client.client import Action, CurriculumClient

rng = np.random.default_rng(0)
with CurriculumClient(sys.argv[1]) as client:
    client.create_curriculum("bring-your-own", "frontier", exist_ok=True)
    client.add_prompts("bring-your-own", [f"prompt-{i}" for i in range(101)])
    # A second run goes on where the first ended.
    start = client.get_curriculum("bring-your-own").policy_version
    for step in range(start, start + 20):
        batch = client.next_batch("bring-your-own", batch_size=16, policy_version=step)
        pending = dict(zip(batch.prompt_ids, batch.quotas.tolist(), strict=True))
        spent = solved = 0
        while pending:
            rewards = [rng.binomial(1, int(p.rsplit("-")[1]) / 100, size=n) for p, n in pending.items()]
            result = client.report(batch, list(pending), rewards=rewards)
            spent, solved = spent + sum(map(len, rewards)), solved + int(sum(map(np.sum, rewards)))
            pending = {d.prompt_id: d.rollouts for d in result.directives.with_action(Action.SAMPLE_MORE)}
        client.advance_policy("bring-your-own", step + 1)
        print(f"step {step:2d}: {len(batch)} prompts, {spent} rollouts, {solved / max(spent, 1):.0%} solved")
