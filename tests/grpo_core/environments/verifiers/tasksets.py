"""Environments of the real package, as the tests put them into a working folder: one turn, a tool, several turns."""

ONE_TURN = """
import verifiers.v1 as vf

class Data(vf.TaskData):
    answer: str

class Sum(vf.Task[Data, vf.State, vf.TaskConfig]):
    @vf.reward
    async def exact(self, trace) -> float:
        return float(trace.last_reply == self.data.answer)

    @vf.reward(weight=0.5)
    async def short(self, trace) -> float:
        return float(len(trace.last_reply) < 3)

class Config(vf.TasksetConfig):
    num_sums: int = 4

class Sums(vf.Taskset[Sum, Config]):
    def load(self):
        for n in range(self.config.num_sums):
            yield Sum(Data(prompt=f"{n} + 1 =", answer=str(n + 1), system_prompt="Add."), self.config.task)

__all__ = ["Sums"]
"""

TOOLS = '''
import verifiers.v1 as vf

class Abacus(vf.Toolset[vf.ToolsetConfig]):
    @vf.tool
    async def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

class Data(vf.TaskData):
    answer: str

class Sum(vf.Task[Data, vf.State, vf.TaskConfig]):
    @classmethod
    def toolsets(cls, config):
        return [Abacus(vf.ToolsetConfig())]

    @vf.reward
    async def exact(self, trace) -> float:
        return float(trace.last_reply == self.data.answer)

class Sums(vf.Taskset[Sum, vf.TasksetConfig]):
    def load(self):
        yield Sum(Data(prompt="17 + 4 =", answer="21"), self.config.task)

__all__ = ["Sums"]

if __name__ == "__main__":
    Abacus.run()
'''

TURNS = """
import verifiers.v1 as vf

class Guess(vf.Task[vf.TaskData, vf.State, vf.TaskConfig]):
    pass

class Guesses(vf.Taskset[Guess, vf.TasksetConfig]):
    def load(self):
        yield Guess(vf.TaskData(prompt="Guess a number up to 9."), self.config.task)

class GameConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()

class Game(vf.Env[GameConfig]):
    async def run(self, task, agents):
        num_turns = 1
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated and segment.last_reply != "7" and num_turns < 4:
                segment = await interaction.turn("No.")
                num_turns += 1
        interaction.trace.record_reward("guessed", 1 / num_turns, 1.0)

__all__ = ["Guesses", "Game"]
"""
