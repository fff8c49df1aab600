from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from semires_trainer.teacher import EmaTeacher

TENSORS = load_file(Path(__file__).parents[1] / "data" / "vectors" / "loss" / "ema.safetensors")


class Small(nn.Module):
    """The module of the vectors: floating parameters and buffers, and integer buffers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)
        self.register_buffer("relative_position_index", torch.zeros(529, dtype=torch.int64))
        self.register_buffer("flags", torch.zeros(4, dtype=torch.int64))


def state(prefix):
    names = [name for name in TENSORS if name.startswith(f"{prefix}.")]
    return {name.removeprefix(f"{prefix}."): TENSORS[name] for name in names}


@pytest.mark.parametrize("rate", [0.9996, 0.996])
def test_three_updates_give_the_official_average_and_intact_integers(rate):
    teacher, student = Small(), Small()
    teacher.load_state_dict(state("teacher.start"))
    ema = EmaTeacher(teacher, student)

    for step in (1, 2, 3):
        student.load_state_dict(state(f"student.step_{step}"))
        ema.update(rate)

        found = teacher.state_dict()
        for name, expected in state(f"teacher.rate_{rate}.step_{step}").items():
            tolerance = 1e-6 * expected.abs().max().item() if expected.is_floating_point() else 0
            torch.testing.assert_close(found[name], expected, rtol=0, atol=tolerance)


def test_the_student_is_left_alone():
    teacher, student = Small(), Small()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}

    EmaTeacher(teacher, student).update(0.5)

    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())


def test_a_student_in_bfloat16_is_averaged_in_float32():
    teacher, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(teacher.weight)
    nn.init.constant_(student.weight, 2.0)

    EmaTeacher(teacher, student).update(0.9996)

    assert teacher.weight.item() == pytest.approx(1.0004, abs=1e-7)


def test_a_teacher_that_cannot_hold_an_average_is_refused():
    with pytest.raises(ValueError, match=r"weight: torch\.bfloat16 cannot hold a moving average"):
        EmaTeacher(nn.Linear(1, 1).bfloat16(), nn.Linear(1, 1))


def test_models_of_other_architecture_are_refused_by_name():
    with pytest.raises(ValueError, match=r"differ in 2 tensors, the first are 1\.bias, 1\.weight"):
        EmaTeacher(nn.Sequential(nn.Linear(1, 1)), nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)))


def test_tensors_of_other_shape_are_refused_by_name():
    with pytest.raises(ValueError, match=r"weight: teacher has shape \(2, 1\), student \(3, 1\)"):
        EmaTeacher(nn.Linear(1, 2), nn.Linear(1, 3))


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"EMA decay must be in \[0, 1\]"):
        EmaTeacher(nn.Linear(1, 1), nn.Linear(1, 1)).update(decay)


def test_tensors_replaced_after_construction_are_followed():
    teacher, student = Small(), Small()
    ema = EmaTeacher(teacher, student)
    replacement = {name: torch.ones_like(tensor) for name, tensor in student.state_dict().items()}
    student.load_state_dict(replacement, assign=True)

    ema.update(0.0)

    assert all(torch.equal(tensor, replacement[name]) for name, tensor in teacher.state_dict().items())


def test_a_tied_tensor_is_averaged_once():
    def tied():
        model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        model[1].weight = model[0].weight
        return model

    teacher, student = tied(), tied()
    nn.init.zeros_(teacher[0].weight)
    nn.init.ones_(student[0].weight)

    EmaTeacher(teacher, student).update(0.75)

    assert teacher[1].weight.item() == 0.25


def test_an_infinite_mask_that_is_not_saved_stays_as_it_is():
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(1, 1)
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]), persistent=False)

    teacher = Masked()

    EmaTeacher(teacher, Masked()).update(0.9)

    assert teacher.mask.tolist() == [0.0, -torch.inf]


def test_a_removed_tensor_is_named():
    teacher, student = nn.Linear(1, 1), nn.Linear(1, 1)
    ema = EmaTeacher(teacher, student)
    student.bias = None

    with pytest.raises(ValueError, match="'bias' was removed"):
        ema.update(0.9)
