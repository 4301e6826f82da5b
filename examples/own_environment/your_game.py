import random

from grpo_core import Observation


class Echo:
    """Say the word again."""

    in_opening = False

    def __init__(self, config):
        self.reset(0)

    def reset(self, seed):
        self.word = random.Random(seed).choice(["army", "fleet"])
        self.done, self.reward = False, 0.0

    def observe(self):
        choices = (("army\n", "fleet\n"),)  # one line of each segment; None leaves the answer free
        return () if self.done else (Observation("speaker", f"Say {self.word}:\n", choices),)

    def step(self, actions):
        self.done, self.reward = True, float(actions["speaker"].strip() == self.word)

    def rewards(self):
        return {"speaker": self.reward}

    def snapshot(self):
        return {"word": self.word}

    def restore(self, snapshot):
        self.word, self.done, self.reward = snapshot["word"], False, 0.0
