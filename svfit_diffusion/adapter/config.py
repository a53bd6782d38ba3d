"""SVFitConfig: which projections SVFit trains and how many singular values of each, for peft."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from peft import PeftConfig, PeftType

from ..settings import check_common_size
from .basis import Rank, parse_rank

PROJECTIONS = (
    *("to_q", "to_k", "to_v", "to_out.0"),  # diffusers' attention
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),  # its second stream (MMDiT)
    *("q_proj", "k_proj", "v_proj", "out_proj", "o_proj"),  # transformers' attention
    *("query", "key", "value"),
)


def peft_type(name: str) -> PeftType:
    """The PeftType member called `name`, added to the enum if peft does not have it."""
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        setattr(PeftType, name, member)  # since Python 3.12 `PeftType.NAME` is read from the class
        PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
        PeftType._member_names_.append(name)
    return PeftType[name]


@dataclass
class SVFitConfig(PeftConfig):
    """Which projections SVFit trains, and how many singular values of each.

    Raises ValueError when `r` is no rank rule (basis.parse_rank), or `common` no size.
    """

    r: Rank = field(
        default=16,
        metadata={"help": "top singular values trained: a number, 'full' or 'energy=0.99'"},
    )
    target_modules: list[str] | str | None = field(
        default=PROJECTIONS,
        metadata={"help": "names of the Linear modules to adapt, or a regular expression"},
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "names of modules not to adapt, or a regular expression"}
    )
    rank_pattern: dict[str, Rank] = field(
        default_factory=dict, metadata={"help": "module name -> rank, where it is not `r`"}
    )
    common: int = field(
        default=0,
        metadata={
            "help": "size of a vector that all adapted modules have in common, a power of two; 0: "
            "none"
        },
    )
    base_dtype: str | None = field(
        default=None,
        metadata={"help": "precision the base is published in; None: as its weights are loaded"},
    )
    basis_from: str | None = field(
        default=None,
        metadata={"help": "folder of the weight files to take the basis from, if not the model's"},
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "modules trained and saved whole, such as a classifier"}
    )
    init_weights: bool = field(
        default=True, metadata={"help": "deltas start at zero, which is the base model exactly"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("SVFIT")
        self.r = parse_rank(self.r)
        check_common_size(self.common, "common")
        self.rank_pattern = {name: parse_rank(rank) for name, rank in self.rank_pattern.items()}
        for name in ("target_modules", "exclude_modules"):
            if isinstance(value := getattr(self, name), list | tuple):
                setattr(self, name, set(value))
        dtype = getattr(torch, self.base_dtype or "float32", None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(
                f"base_dtype is {self.base_dtype!r}, but must name a torch dtype such as 'float16'."
            )
