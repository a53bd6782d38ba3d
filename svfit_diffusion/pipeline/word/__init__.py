"""The learned word: rows beside a text encoder's table, and a tokenizer that gives their ids; or
vectors in a text encoder's output, and a tokenizer that tags the ids of the word as it is typed.

rows.py holds the rows and embedding.py puts them into a text encoder; words.py finds words in a
text, marks.py the ids that stand there, and tokenizer.py lets a tokenizer hear them, through
instance_class.py; outputs.py and tagging.py do so for text encoders that are not trained through;
saving.py saves both with the words of fused concepts.
"""

from ..._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "embedding": ["install_rows", "rows_of", "uninstall_rows"],
        "instance_class": ["InstanceMixin"],
        "outputs": [
            "PLACES",
            "TYPED",
            "install_vectors",
            "reading",
            "uninstall_vectors",
            "with_vector",
            "without_vectors",
        ],
        "rows": ["VECTORS", "TriggerRows", "Word"],
        "saving": ["SavesWords", "with_words"],
        "tagging": ["TagsWords"],
        "tokenizer": [
            "heard_words",
            "known_tokens",
            "listen",
            "new_ids",
            "plain_ids",
            "stop_listening",
        ],
        "words": ["find_words", "put_names", "token_names"],
    },
)
