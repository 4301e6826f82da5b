def exact(completions, answer, **columns):
    """1 for the answer and nothing else."""
    return [float(text.strip() == right) for text, right in zip(completions, answer, strict=True)]


def short(completion):
    """One completion at a time: up to 1, the shorter the better."""
    return 1 / (1 + len(completion.split()))
