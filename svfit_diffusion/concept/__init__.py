"""The concept file: format, checks, four-bit packing, self-check, atomic writes, the Hub.

concept.py is `Concept`, file.py reads and writes it; header.py refuses invalid files before
anything in them is used, by the checks of untrusted.py, which know no concepts; common.py says
which projection takes which number of a common vector; packing.py packs deltas into four bits and
unpacks them; self_check.py computes eight numbers that identify the basis; atomic.py writes a file
completely or not at all; hub.py finds a concept by its path or Hub id, and downloads it. Nothing
here needs torch.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "atomic": ["atomic_write", "free_path", "fsync_path", "remove_leftovers", "replace_file"],
        "common": ["COMMON_SCALE", "TURNED", "place_numbers", "places_of"],
        "concept": ["Concept", "Trigger"],
        "file": ["layout_hash", "pack_ranks", "read_concept", "to_bytes", "write_concept"],
        "header": ["MAX_FILE_BYTES", "unpack_ranks"],
        "hub": ["HUB_FILE", "locate"],
        "packing": ["blocks", "pack", "round_to_four_bits", "round_vector", "unpack"],
        "self_check": [
            "COARSE_TOLERANCE",
            "PROBES",
            "SELF_CHECK_TOLERANCE",
            "self_check_common",
            "self_check_deviation",
            "self_check_rows",
        ],
        "untrusted": ["Refused", "check_tensors", "printable", "read_header", "read_json"],
    },
)
