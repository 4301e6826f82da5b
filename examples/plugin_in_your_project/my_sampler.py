"""A sampler in miniature, in the place of your own: greedy tokens of a small recurrent network."""

import torch

VOCABULARY, WIDTH = 512, 128

torch.set_num_threads(1)
torch.manual_seed(0)
embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
cell = torch.nn.GRUCell(WIDTH, WIDTH)
head = torch.nn.Linear(WIDTH, VOCABULARY)


@torch.no_grad()
def generate(prompts: list[int], num_tokens: int) -> list[list[int]]:
    """The ``num_tokens`` tokens that follow each prompt, a single token here; all prompts advance together."""
    token = torch.tensor(prompts)
    state = torch.zeros(len(prompts), WIDTH)
    answers = []
    for _ in range(num_tokens):
        state = cell(embedding(token), state)
        token = head(state).argmax(dim=-1)
        answers.append(token)
    return torch.stack(answers, dim=1).tolist()
