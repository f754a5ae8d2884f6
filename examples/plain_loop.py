"""PromptSampler in a loop of your own, without a trainer.

Prints how many groups carried a learning signal, with depo and without.

    python examples/plain_loop.py

The policy is a few thousand numbers that answer in one token, so that it runs in seconds on a CPU;
the loop around it is the one for any policy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depo import Prompt, PromptSampler, SelectorConfig

GROUP_SIZE, BATCH, STEPS = 8, 32, 200
OPERATORS = ("max", "?", "#", "@")
# One question in four asks for the larger number, which can be learned; to the others no answer is
# right.
PROMPTS = [
    Prompt(text=f"{a} {name} {b}", answer=max(a, b) if name == "max" else None)
    for name in OPERATORS
    for a in range(16)
    for b in range(16)
]


class Policy(nn.Module):
    """Reads the three tokens of a question and gives logits of the answers 0 to 15."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = {
            token: index for index, token in enumerate([*map(str, range(16)), *OPERATORS])
        }
        self.layers = nn.Sequential(
            nn.Embedding(20, 32), nn.Flatten(), nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 16)
        )

    def forward(self, texts: list[str]) -> Tensor:
        """Return logits [B, 16]."""
        logits: Tensor = self.layers(
            torch.tensor([[self.tokens[token] for token in text.split()] for text in texts])
        )
        return logits


def train(preset: str, steps: int, seed: int = 0) -> list[float]:
    """Train a policy by GRPO and return the share of informative groups of each step."""
    torch.manual_seed(seed)
    policy = Policy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-4)
    sampler = PromptSampler(PROMPTS, GROUP_SIZE, SelectorConfig.from_preset(preset), seed=seed)
    shares = []
    for step in range(steps):
        draws = sampler.sample(
            BATCH, policy_version=step
        )  # before the rollouts: which prompts are worth one
        logits_BV = policy([draw.prompt.text for draw in draws])
        answers_BG = torch.multinomial(logits_BV.softmax(-1), GROUP_SIZE, replacement=True)
        rewards_BG = torch.tensor(
            [
                [float(answer == draw.prompt.answer) for answer in row]
                for draw, row in zip(draws, answers_BG.tolist(), strict=True)
            ]
        )
        verdicts = sampler.observe(
            draws, rewards_BG.numpy(), policy_version=step
        )  # after them: what they said
        advantages_BG = (rewards_BG - rewards_BG.mean(1, keepdim=True)) / (
            rewards_BG.std(1, keepdim=True) + 1e-4
        )
        loss = -(advantages_BG * logits_BV.log_softmax(-1).gather(-1, answers_BG)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shares.append(sum(verdict.informative for verdict in verdicts) / len(verdicts))
    return shares


if __name__ == "__main__":
    for preset in ("uniform", "depo"):
        shares = train(preset, STEPS)
        print(
            f"{preset:8} informative groups, by 25 steps:",
            *(f"{sum(shares[first : first + 25]) / 25:.2f}" for first in range(0, STEPS, 25)),
        )
