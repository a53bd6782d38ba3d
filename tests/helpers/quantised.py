"""A stand-in for a quantised Linear and its backend in peft."""

import torch
from torch import nn


class Quantised(nn.Module):
    """Stands for a Linear of a quantisation library: integers and a scale for each row."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features, self.bias = (
            linear.in_features,
            linear.out_features,
            None,
        )
        self.scale = linear.weight.data.abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight.data / self.scale).round().to(torch.int8), False)

    def forward(self, x):
        return x @ (self.weight * self.scale).T


class QuantisedBackend:
    supports_merge, backend_name, layer_type = True, "int8", "linear"

    def get_base_weight(self, base):
        return base.weight * base.scale

    def set_base_weight(self, layer, weight):
        base = layer.get_base_layer()
        base.scale = weight.abs().amax(1, keepdim=True) / 127
        base.weight.data = (weight / base.scale).round().to(torch.int8)

    def maybe_clone_base_result(self, x):
        return x.clone()
