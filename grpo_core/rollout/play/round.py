"""One round of many episodes, that is, one turn of every agent that must act.

The requests of all episodes decode as one batch. Environments step in another thread as soon as they have answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from grpo_core.errors import AdapterError, GrpoError, PromptError
from grpo_core.ledger import spans
from grpo_core.ledger.recorder import recording_beside
from grpo_core.rollout.play.episode import Episode
from grpo_core.rollout.protocol import Outcome, RolloutEngine


class Round:
    """Runs the requests of all episodes on ``engine``, and steps finished episodes in one other thread.

    That thread calls ``advance`` when all requests of an episode have completions, ``replace`` when one has an error.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        advance: Callable[[Episode], None],
        replace: Callable[[Episode, GrpoError], None],
    ) -> None:
        self._engine = engine
        self._advance = advance
        self._replace = replace
        self._tickets: dict[int, tuple[Episode, int]] = {}  # the episode, and the index of the request in it

    def play(self, episodes: Sequence[Episode]) -> None:
        """Run until every episode has been advanced or replaced. An error or a Ctrl-C cancels all requests.

        Raises:
            GrpoError: of a request, when a retry would fail alike.
            Exception: the first that ``advance`` or ``replace`` raise, in the order in which episodes end.
        """
        with spans.PROMPT, _environment_thread() as thread:
            try:
                for episode in episodes:
                    for place, request in enumerate(episode.requests):
                        self._tickets[self._engine.submit(request)] = episode, place
                work: list[Future[None]] = []
                while self._tickets:
                    for outcome in self._engine.step():
                        work += self._take(outcome, thread)
                with spans.WAIT_ENVIRONMENT:
                    for done in work:
                        done.result()
            finally:
                for ticket in self._tickets:
                    self._engine.cancel(ticket)

    def _take(self, outcome: Outcome, thread: ThreadPoolExecutor) -> list[Future[None]]:
        """Hand the episode of an ended request to the thread, if it has to do something now."""
        if outcome.ticket not in self._tickets:  # another request of its episode had an error
            return []
        episode, place = self._tickets.pop(outcome.ticket)
        if isinstance(outcome.result, GrpoError):
            if _would_recur(outcome.result, episode):
                raise outcome.result
            self._cancel(episode)
            return [thread.submit(_recorded(self._replace), episode, outcome.result)]
        episode.answers[place] = outcome.result
        return [thread.submit(_recorded(self._advance), episode)] if episode.is_answered else []

    def _cancel(self, episode: Episode) -> None:
        for ticket in [ticket for ticket, (other, _) in self._tickets.items() if other is episode]:
            self._engine.cancel(ticket)
            del self._tickets[ticket]


@contextmanager
def _environment_thread() -> Iterator[ThreadPoolExecutor]:
    """One thread for the length of the ``with`` block. A Ctrl-C does not wait for it."""
    with recording_beside("environments", spans.WAIT_ANSWERS.name) as begin:
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="environments", initializer=begin)
        is_urgent = False
        try:
            yield thread
        except KeyboardInterrupt:
            is_urgent = True
            raise
        finally:
            with spans.WAIT_ENVIRONMENT:
                thread.shutdown(wait=not is_urgent, cancel_futures=True)


def _recorded(work: Callable[..., None]) -> Callable[..., None]:
    """``work`` that counts as such in the ledger of its thread, which waits for answers else."""

    def run(*arguments: object) -> None:
        with spans.UNNAMED:
            work(*arguments)

    return run


def _would_recur(error: GrpoError, episode: Episode) -> bool:
    """Whether every attempt at ``episode`` would end with ``error``."""
    in_starting_state = episode.num_rounds == 0
    return isinstance(error, AdapterError) or (isinstance(error, PromptError) and in_starting_state)
