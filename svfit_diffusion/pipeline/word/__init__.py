"""The learned word: rows beside a text encoder's table, and a tokenizer that gives their ids.

rows.py holds the rows and embedding.py puts them into a text encoder; words.py finds words in a
text, marks.py the ids that stand there, and tokenizer.py lets a tokenizer hear them, through
instance_class.py; saving.py saves both with the words of fused concepts.
"""

from ..._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "embedding": ["install_rows", "rows_of", "uninstall_rows"],
        "rows": ["Word"],
        "saving": ["SavesWords", "with_words"],
        "tokenizer": ["heard_words", "listen", "new_ids", "plain_ids", "stop_listening"],
        "words": ["find_words", "put_names", "token_names"],
    },
)
