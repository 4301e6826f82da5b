"""How a tokenizer writes a text: whether it would write a token after a context and before some text.

The literature calls this canonical tokenization. A policy is trained on the ids that it drew. What reads the text
later, in the next turn or in another program, sees the ids that the tokenizer writes. Both are the same only if each
token that is drawn is one that the tokenizer would write there. With Llama 3.1's tokenizer::

    pattern  [a-z]{1,9}\\n      drawn so far  "hel"

    token  "met"   it writes "helmet" as "hel", "met": allowed
    token  "lo"    it writes "hello" as one token: refused

Terms:

- *context*: the tokens drawn so far. Contexts of one *kind* are split alike, whatever follows them.
- *ending*: a text that may follow a token, such as a line end. A token is allowed if the tokenizer writes it before
  one of the endings at least.
- *nearly*: a token that no ending allows, but only since the next token would be another one; texts of several tokens
  are tried (``constraints/continuations.py``).
- *shape*: texts of one shape are split alike by the rules that cut a text into pieces before it is merged.
"""
