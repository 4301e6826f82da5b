"""A guessing game: the policy gets a hint after each wrong answer, and less for each turn that it needs."""

from openai import OpenAI

from grpo_core import Agent

MAX_TURNS = 4


def play(base_url: str, number: int) -> float:
    chat = [{"role": "user", "content": "Guess a number from 0 to 9. Answer with the number only."}]
    with OpenAI(base_url=base_url, api_key="none") as client:
        for turn in range(1, MAX_TURNS + 1):
            answer = client.chat.completions.create(model="policy", messages=chat).choices[0].message.content
            if answer.strip() == str(number):
                return 1 / turn
            chat += [{"role": "assistant", "content": answer}, {"role": "user", "content": hint(answer, number)}]
    return 0.0


def hint(answer: str, number: int) -> str:
    if not answer.strip().isdecimal():
        return "That is no number."
    return "Higher." if int(answer) < number else "Lower."


game = Agent(play, tasks=range(10))
