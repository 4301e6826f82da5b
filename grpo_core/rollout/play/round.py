"""One round of many episodes: their requests decode as one batch, and who has been answered plays on meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from grpo_core.errors import AdapterError, GrpoError, PromptError
from grpo_core.rollout.play.episode import Episode
from grpo_core.rollout.protocol import Outcome, RolloutEngine


class Round:
    """Feeds ``engine`` with the requests of all episodes, and one thread with what there is to do once they end.

    ``advance`` is called in that thread when all requests of an episode have completions, ``replace`` when one of them
    has an error.
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
        self._tickets: dict[int, tuple[Episode, int]] = {}  # of each the place among the episode's requests

    def play(self, episodes: Sequence[Episode]) -> None:
        """Until every episode was advanced or replaced. On an error or a Ctrl-C the engine is left with no request.

        Raises:
            GrpoError: of a request, when no other sampling would help.
            Exception: what ``advance`` or ``replace`` raise; of the first episode that does, in order of their ends.
        """
        with _environment_thread() as thread:
            try:
                for episode in episodes:
                    for place, request in enumerate(episode.requests):
                        self._tickets[self._engine.submit(request)] = episode, place
                work: list[Future[None]] = []
                while self._tickets:
                    for outcome in self._engine.step():
                        work += self._take(outcome, thread)
                for done in work:
                    done.result()
            finally:
                for ticket in self._tickets:
                    self._engine.cancel(ticket)

    def _take(self, outcome: Outcome, thread: ThreadPoolExecutor) -> list[Future[None]]:
        """What there is to do now that one request has ended: at most one thing."""
        if outcome.ticket not in self._tickets:  # another request of its episode had an error
            return []
        episode, place = self._tickets.pop(outcome.ticket)
        if isinstance(outcome.result, GrpoError):
            if _would_recur(outcome.result, episode):
                raise outcome.result
            self._cancel(episode)
            return [thread.submit(self._replace, episode, outcome.result)]
        episode.answers[place] = outcome.result
        return [thread.submit(self._advance, episode)] if episode.is_answered else []

    def _cancel(self, episode: Episode) -> None:
        for ticket in [ticket for ticket, (other, _) in self._tickets.items() if other is episode]:
            self._engine.cancel(ticket)
            del self._tickets[ticket]


@contextmanager
def _environment_thread() -> Iterator[ThreadPoolExecutor]:
    """One thread, for the length of the ``with`` block. A Ctrl-C does not wait for what it does."""
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="environments")
    is_urgent = False
    try:
        yield thread
    except KeyboardInterrupt:
        is_urgent = True
        raise
    finally:
        thread.shutdown(wait=not is_urgent, cancel_futures=True)


def _would_recur(error: GrpoError, episode: Episode) -> bool:
    """Whether every attempt at ``episode`` would end with ``error``, whatever is sampled in it."""
    in_starting_state = episode.num_rounds == 0
    return isinstance(error, AdapterError) or (isinstance(error, PromptError) and in_starting_state)
