"""Completions of a pattern are exactly the texts that match it, each in the tokenizer's own tokenization."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
from grpo_core.errors import ConstraintError
from grpo_core.model.tokenizer import Tokenizer, load_tokenizer
from grpo_core.rollout.constraints import regex, token_automaton, writing
from grpo_core.rollout.constraints.ending_choices import NEVER, Numbers
from grpo_core.rollout.constraints.lines import Line
from grpo_core.rollout.constraints.regex import RegexConstraint, compile_regex
from grpo_core.rollout.constraints.token_bytes import MIN_BATCH, token_bytes_of
from grpo_core.types import Int32

LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)
TOKENIZERS = ("tiny", "gpt2", "llama3")

# Infinite or very large languages; the second is text with which any completion of the first can come to an end.
LARGE = (
    (r"-?[0-9]+(\.[0-9]+)?", ""),
    (r"[0-9]{9,14}x*", "0123"),
    (r"[a-z]{13}", "a"),
    (r"[a-z ]+", ""),
    (r"(?s).{1,20}", ""),
    (r'\{"name": "[^"]{0,9}", "n": [0-9]+\}', '", "n": 1}'),
    (r"<answer>[0-9]+</answer>", "</answer>"),
    (r"[é中🎉]{1,9}", ""),
    (r"(\n {0,4}[a-zé]+)+;", ";"),
    (r"(\n  [0-9]+)+", "\n  1"),  # two blanks before a digit are two tokens, before a letter they are not
    (r"x {2,}1+", "1"),
    (r"( |\n|\t|'|s|ll|1|x)+", ""),
    (r"[!' s]+", ""),
    (r"(don|I|we|!|)'(s|t|ll|x)+.{0,9}", ""),
    (r"<\|?[a-z]+\|?>", ">"),
)
SMALL = (
    r"yes|no|maybe so",
    r"yes|yes please|yes pleased",  # the first alternative is the beginning of the others
    r" [0-9]{1,2}",
    r"(A|F) (PAR|BUR|MAR)( - (PAR|BUR|MAR)| H)\n",
    r"[é中🎉]{1,2}",
    r"[ \n1x]{1,3}",
    r"['slx!]{1,3}",
    r"(we|!|)'[elrsvx]{1,3}",
    r"a{0,6}",
    r"[01]{3}[0-9]x?y??",
)


@pytest.fixture(scope="module", params=TOKENIZERS)
def spelled(request: pytest.FixtureRequest) -> Tokenizer:
    """Tokenizers with different splitting rules: the preset's (Qwen2), GPT-2's, Llama 3's."""
    if request.param == "tiny":
        return load_tokenizer("tiny")
    return request.getfixturevalue("tokenizer") if request.param == "gpt2" else _llama_3_tokenizer()


@lru_cache(maxsize=1)
def _llama_3_tokenizer() -> Tokenizer:
    """Numbers in pieces of three digits, and whole words before merges."""
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(0)
    texts = [Path(__file__).read_text(), " ".join(str(rng.randrange(10 ** rng.randint(1, 6))) for _ in range(300))]
    backend = Backend(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA_3_SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", clean_up_tokenization_spaces=False)
    return Tokenizer(fast)


def text_of(tokenizer: Tokenizer, ids: Line, pattern: str) -> str:
    """The text of a whole completion, which is checked."""
    text = tokenizer.decode(ids)
    assert re.fullmatch(pattern, text), text
    assert tokenizer.stop_id not in ids[:-1]
    body = ids[:-1] if ids[-1:] == (tokenizer.stop_id,) else ids
    assert tuple(tokenizer.encode(text).tolist()) == body, text
    return text


def walk(constraint: RegexConstraint, tokenizer: Tokenizer, rng: random.Random, way_out: str) -> Line:
    """A random completion; after some tokens the stop id is taken where it may, and else a token of ``way_out``."""
    cursor, ids = constraint.start(), []
    while not cursor.finished:
        allowed = cursor.allowed()
        assert len(allowed), tokenizer.decode(ids)
        assert list(allowed) == sorted(set(allowed))
        token = rng.choice(allowed)
        if len(ids) > 6:
            out = [other for other in allowed if (text := tokenizer.decode([other])) and way_out.startswith(text)]
            token = tokenizer.stop_id if tokenizer.stop_id in allowed else (out or [token])[-1]
        cursor.advance(token)
        ids.append(token)
        assert len(ids) <= (constraint.max_tokens or 200)
    return tuple(ids)


def is_allowed(constraint: RegexConstraint, tokenizer: Tokenizer, ids: Iterable[int]) -> bool:
    cursor = constraint.start()
    for token in ids:
        if token not in cursor.allowed():
            return False
        cursor.advance(token)
    return cursor.finished or tokenizer.stop_id in cursor.allowed()


def all_completions(constraint: RegexConstraint) -> set[Line]:
    """Every completion of a small language."""
    found: set[Line] = set()
    beginnings: list[Line] = [()]
    while beginnings:
        ids = beginnings.pop()
        cursor = constraint.start()
        for token in ids:
            cursor.advance(token)
        if cursor.finished:
            found.add(ids)
        beginnings.extend((*ids, token) for token in cursor.allowed())
    return found


@pytest.mark.parametrize(("pattern", "way_out"), LARGE)
def test_random_completions_match_and_are_spelled_by_the_tokenizer(
    pattern: str, way_out: str, spelled: Tokenizer
) -> None:
    constraint = compile_regex(pattern, spelled)
    rng = random.Random(0)
    texts = {text_of(spelled, walk(constraint, spelled, rng, way_out), pattern) for _ in range(4)}
    assert len(texts) > 1


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in LARGE])
def test_every_matching_text_is_a_completion(pattern: str, spelled: Tokenizer) -> None:
    constraint = compile_regex(pattern, spelled)

    @settings(max_examples=3, database=None, deadline=None, derandomize=True, suppress_health_check=SLOW)
    @given(st.from_regex(pattern, fullmatch=True))
    def check(text: str) -> None:
        ids = spelled.encode(text)
        if "\0" not in text and spelled.decode(ids) == text:  # some texts are normalised
            assert is_allowed(constraint, spelled, ids.tolist()), text

    check()


def check_all(pattern: str, tokenizer: Tokenizer, constraint: RegexConstraint) -> set[Line]:
    completions = all_completions(constraint)
    texts = [text_of(tokenizer, ids, pattern) for ids in completions]
    assert len(set(texts)) == len(texts)
    assert constraint.max_tokens is not None
    assert max(map(len, completions)) <= constraint.max_tokens
    return completions


@pytest.mark.parametrize("pattern", SMALL)
def test_a_small_language_is_the_same_written_out_and_as_an_automaton(
    pattern: str, spelled: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_out = compile_regex(pattern, spelled)
    completions = check_all(pattern, spelled, written_out)
    assert max(map(len, completions)) == written_out.max_tokens

    monkeypatch.setattr(regex, "MAX_STRINGS", 0)
    automaton = compile_regex.__wrapped__(pattern, spelled)
    assert type(automaton.first) is not type(written_out.first)
    assert check_all(pattern, spelled, automaton) == completions


@settings(max_examples=30, database=None, deadline=None, suppress_health_check=SLOW)
@given(
    st.recursive(
        st.sampled_from(["a", "yes", " ", "1", r"\n", "é", "'s", "[a-c]", "[0-9 ]", "(, )", r"\."]),
        lambda parts: (
            st.lists(parts, min_size=2, max_size=3).map("".join)
            | st.lists(parts, min_size=2, max_size=3).map(lambda some: f"({'|'.join(some)})")
            | st.tuples(parts, st.sampled_from(["?", "*", "+", "{2}", "{0,3}", "??", "+?"])).map(
                lambda pair: f"({pair[0]}){pair[1]}"
            )
        ),
        max_leaves=6,
    ),
    st.integers(0, 1000),
    st.booleans(),
)
def test_made_up_patterns(pattern: str, seed: int, written_out: bool) -> None:
    tokenizer, rng = load_tiny(), random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regex, "MAX_STRINGS", regex.MAX_STRINGS if written_out else 0)
        constraint = compile_regex.__wrapped__(pattern, tokenizer)
    for _ in range(2):
        cursor, ids = constraint.start(), []
        while not cursor.finished and len(ids) < 30:
            allowed = cursor.allowed()
            assert len(allowed)
            is_stop = tokenizer.stop_id in allowed and rng.random() < 0.2
            ids.append(tokenizer.stop_id if is_stop else rng.choice(allowed))
            cursor.advance(ids[-1])
        if cursor.finished:
            text_of(tokenizer, tuple(ids), pattern)


load_tiny = lru_cache(maxsize=1)(lambda: load_tokenizer("tiny"))


def test_the_stop_id_is_allowed_where_a_match_may_end_and_go_on(spelled: Tokenizer) -> None:
    first, second = "yes", "yes please"
    constraint = compile_regex(f"{first}|{second}", spelled)
    cursor = constraint.start()
    for token in spelled.encode(first).tolist():
        assert spelled.stop_id not in cursor.allowed()
        cursor.advance(token)
    assert spelled.stop_id in cursor.allowed()
    assert len(cursor.allowed()) == 2
    assert not cursor.finished

    for token in spelled.encode(second).tolist()[len(spelled.encode(first)) :]:
        cursor.advance(token)
    assert cursor.finished  # nothing can follow: no stop id
    assert cursor.allowed() == ()

    cursor = constraint.start()
    for token in [*spelled.encode(first).tolist(), spelled.stop_id]:
        cursor.advance(token)
    assert cursor.finished


def test_what_is_forced_is_the_tokenizers_own_tokenization(spelled: Tokenizer) -> None:
    """The text before a choice is one run, and no other tokenization of it is offered."""
    forced = '{"orders": ["A PAR - BUR", "'
    constraint = compile_regex(re.escape(forced) + r'[^"]+"\]\}', spelled)
    cursor, run = constraint.start(), []
    while len(cursor.allowed()) == 1:
        run.append(cursor.allowed()[0])
        cursor.advance(run[-1])
    own = spelled.encode(forced).tolist()
    assert run == own[: len(run)]
    assert len(own) - len(run) <= 1  # the last token may be one that goes on


def test_real_orders_as_a_pattern_are_those_of_the_trie(spelled: Tokenizer) -> None:
    lines = DiplomacyEnvironment(horizon=1).observe()[0].choices
    assert lines is not None
    pattern = "|".join(map(re.escape, lines[0]))

    completions = all_completions(compile_regex(pattern, spelled))

    assert completions == {tuple(spelled.encode(line).tolist()) for line in lines[0]}


def test_patterns_are_compiled_once_and_compare_by_pattern_and_tokenizer(spelled: Tokenizer) -> None:
    constraint = compile_regex("[a-z]+", spelled)
    assert compile_regex("[a-z]+", spelled) is constraint
    assert compile_regex.__wrapped__("[a-z]+", spelled) == constraint
    assert len({constraint, compile_regex("[a-y]+", spelled), compile_regex("[a-z]+", load_tokenizer("tiny"))}) == 3
    assert constraint.max_tokens is None


def test_forgotten_nodes_are_made_again_alike(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, way_out = r"[a-z ]+[0-9]", "1"
    kept = [walk(compile_regex(pattern, tokenizer), tokenizer, random.Random(seed), way_out) for seed in range(5)]
    monkeypatch.setattr(token_automaton, "CACHED_IDS", 1)
    constraint = compile_regex.__wrapped__(pattern, tokenizer)
    assert [walk(constraint, tokenizer, random.Random(seed), way_out) for seed in range(5)] == kept
    assert len(constraint.first._automaton._nodes) == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_where_no_ending_shows_a_way_the_known_one_is_taken(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no text to try, only the tokenization of one whole match is known to lead to the end."""
    monkeypatch.setattr(writing.Writing, "choices_of", lambda self, context, state, moves: _none(moves.of(state)[0]))
    constraint = compile_regex.__wrapped__(r"[a-z]{30}", tokenizer)
    ids = walk(constraint, tokenizer, random.Random(0), "")
    assert len(text_of(tokenizer, ids, r"[a-z]{30}")) == 30


def _none(tokens: Int32) -> tuple[Int32, Numbers]:
    return tokens, np.full(len(tokens), NEVER, dtype=np.uint8)


def test_only_allowed_tokens_can_be_taken(tokenizer: Tokenizer) -> None:
    for pattern in ("ab|ac", "a+b"):
        cursor = compile_regex(pattern, tokenizer).start()
        for token in {tokenizer.stop_id, *tokenizer.encode("z").tolist()}:
            with pytest.raises(KeyError):
                cursor.advance(token)


def test_many_texts_are_spelled_like_few(tokenizer: Tokenizer) -> None:
    token_bytes = token_bytes_of(tokenizer)
    texts = [f"{number} é".encode() for number in range(MIN_BATCH)]
    assert token_bytes.encode_all(texts) == [token_bytes.encode_all([text])[0] for text in texts]
    assert b"".join(token_bytes.bytes_of[token] for token in token_bytes.encode_all(texts)[7]) == texts[7]


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("(", "unterminated subpattern"),
        ("a)(b", "unbalanced parenthesis"),
        ("[z-a]", "bad character range"),
        ("a{5,2}", "min repeat greater than max"),
        (r"(a)\1", "without look-around, back-references and anchors"),
        ("a(?=b)", "without look-around"),
        ("(?<!a)b", "without look-around"),
        ("^ab$", "all of a completion must match"),
        (r"\bab", "anchors such as"),
        ("[a&&b]", "every branch matches some text"),
        (r"\x00", "no text matches it"),
        ("", "matches no text that the tokenizer can produce, or only the empty one"),
        ("()*", "only the empty one"),
        (r"<\|endoftext\|>", "matches no text that the tokenizer can produce"),
        (r"e\u0301+", "matches no text that the tokenizer can produce"),
    ],
)
def test_patterns_that_cannot_be_used_are_refused_in_one_line(pattern: str, match: str) -> None:
    with pytest.raises(ConstraintError, match=match) as error:
        compile_regex(pattern, load_tiny())
    assert repr(pattern) in str(error.value)
    assert "allowed is" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_bytes_is_refused() -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.WordLevel({"<end>": 0, "▁yes": 1}, unk_token="<end>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    with pytest.raises(ConstraintError, match="'▁yes' is not a string of bytes; patterns need a byte-level BPE"):
        compile_regex("yes", Tokenizer(fast))
