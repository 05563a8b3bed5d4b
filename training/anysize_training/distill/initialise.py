"""Making the student before training: which teacher layers are kept, and what the student starts from (paper, 2.1)."""

import copy

import torch
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize.family.assembly import kept_layers
from anysize.family.bank import Bank
from anysize.family.blocks import BlockMap
from anysize.family.delta import delta_student
from anysize_training.distill.recipe import KeptLayers, Student


def block_map(student: Student, teacher_layers: int) -> BlockMap:
    """The block map that a recipe asks for."""
    choice = student.initialise
    if isinstance(choice, KeptLayers):
        return BlockMap(choice.layers, teacher_layers)
    return BlockMap.every_nth(teacher_layers, n=choice.n, first=choice.first, last=choice.last)


def initial_bank(student: Student, teacher: PreTrainedModel, architecture: Architecture, *, seed: int) -> Bank:
    """Teacher and untrained student: layer i starts as teacher layer l_i, embedding and head as the teacher's.

    Args:
        student: its kind, rank and kept layers.
        teacher: the trained teacher.
        architecture: where its parts are.
        seed: of the first factor of `delta` updates; a `full` student starts without chance.
    """
    blocks = block_map(student, len(architecture.layers_of(teacher)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if student.kind == "delta":
            made = delta_student(teacher, architecture, blocks, student.rank)
        else:
            made = copy.deepcopy(kept_layers(teacher, architecture, blocks))
    return Bank(architecture, blocks, teacher, made)
