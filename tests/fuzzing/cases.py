"""Strategies for whole cases: a file of any format, maybe changed, and how to read it."""

from __future__ import annotations

from hypothesis import strategies as st

from fuzzing import transforms
from fuzzing.model import Case
from fuzzing.nifti_cases import nifti_cases
from fuzzing.text_cases import text_cases


def transform_cases() -> st.SearchStrategy[Case]:
    """Files of transforms and of numpy."""
    return transforms.itk_cases() | transforms.matrix_cases() | transforms.numpy_cases()


def reader_cases() -> st.SearchStrategy[Case]:
    """Cases of every format."""
    formats = (nifti_cases, text_cases, transform_cases)
    return st.integers(0, 9).flatmap(lambda k: formats[(k > 4) + (k > 7)]())
