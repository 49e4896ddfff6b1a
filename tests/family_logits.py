"""Our logits beside those of transformers, for a config of a family."""

import json

import torch
from family_bases import type_of
from family_models import in_file, theirs_of

from minipuzzle import families
from minipuzzle.errors import UserError
from minipuzzle.model.hybrid import HybridLM

OURS = {}  # {architecture: (tensors, logits)}: most edits of a config change nothing of it


@torch.no_grad()
def ours_of(arch, names, tensors, tokens):
    """Our logits of the tensors of transformers' model; as a checkpoint is read, by names and
    shapes.
    """
    read = {}
    for tensor in arch.tensors():
        theirs = in_file(tensors, names[tensor.name], tensor)
        if theirs is None or theirs.shape != tensor.shape:
            raise UserError("Not in the file.", got=theirs, allowed=tensor.shape, next="")
        read[tensor.name] = theirs
    before, logits = OURS.get(arch, ({}, None))
    if before.keys() == read.keys() and all(torch.equal(before[n], read[n]) for n in read):
        return logits
    model = HybridLM(arch, device="cpu", dtype=torch.float32).eval()
    ours = model.state_dict()
    for name, values in read.items():
        ours[name].copy_(values)
    OURS[arch] = read, model(tokens)
    return OURS[arch][1]


def difference(name, fields):
    """The largest difference from transformers' logits, as a part of the largest one; None where
    one of the two refuses.
    """
    tokens = torch.randint(1, 118, (2, 40), generator=torch.Generator().manual_seed(1))
    family = families.find(type_of(name))
    try:
        arch = family.architecture(json.loads(json.dumps(fields)))
    except UserError:
        return None
    try:
        theirs = theirs_of(type_of(name), json.loads(json.dumps(fields)))
        with torch.no_grad():
            want = theirs(tokens, use_cache=False).logits
    except Exception:  # a dozen types, from a failed check to a shape that does not fit
        return None
    try:
        got = ours_of(arch, family.names(arch), theirs.state_dict(), tokens)
    except UserError:
        return None
    return ((got - want).abs().max() / want.abs().max()).item()
