"""Lazy rows: any order of touching and settling gives the bits of the whole-tensor update."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.errors import ModelError
from weft.native import available
from weft.native.adamw import Step, adamw
from weft.native.table import History, Table, catch_up, update_rows

needs_kernels = pytest.mark.skipif(not available(), reason="no compiled kernels: run `python hatch_build.py`")
ROWS = 9


def fresh(width, *, twin=True):
    param = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(5))
    zeros = [torch.zeros(ROWS, width) for _ in range(2)]
    return Table(param, *zeros, torch.zeros(ROWS, dtype=torch.int32), param.bfloat16() if twin else None)


def same(lazy, dense):
    pairs = [(lazy.param, dense.param), (lazy.exp_avg, dense.exp_avg), (lazy.exp_avg_sq, dense.exp_avg_sq)]
    if dense.twin is not None:
        pairs.append((lazy.twin, dense.twin))
    return all(torch.equal(a, b) for a, b in pairs)


def dense_step(dense, rows, grads, step, grad_scale):
    full = torch.zeros(dense.param.shape, dtype=grads.dtype)
    full[rows] = grads
    adamw(
        [dense.param],
        [full],
        exp_avgs=[dense.exp_avg],
        exp_avg_sqs=[dense.exp_avg_sq],
        step=step,
        twins=[dense.twin],
        grad_scale=grad_scale,
    )


some_rows = st.lists(st.integers(0, ROWS - 1), unique=True, max_size=5).map(sorted)
# What happens in one step: rows read before it, rows with a gradient, whether all is settled afterwards.
happenings = st.lists(
    st.tuples(some_rows, some_rows, st.sampled_from([0, 0, 0, 1, 2])), min_size=1, max_size=12
)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    happenings=happenings,
    width=st.sampled_from([1, 5, 16, 64, 70, 128, 133]),
    half=st.booleans(),
    twin=st.booleans(),
    weight_decay=st.sampled_from([0.0, 0.01, 0.3]),
    grad_scale=st.sampled_from([1.0, 3.0]),
)
def test_any_interleaving_gives_the_bits_of_the_dense_update(
    happenings, width, half, twin, weight_decay, grad_scale
):
    lazy, dense, history = fresh(width, twin=twin), fresh(width, twin=twin), History()
    generator = torch.Generator().manual_seed(1)
    for number, (read, touched, settle) in enumerate(happenings, start=1):
        catch_up(lazy, torch.tensor(read, dtype=torch.int64), history)
        if read:
            assert torch.equal(lazy.param[read], dense.param[read])
        step = Step(0.1 / number, 0.9, 0.98, 1e-8, weight_decay, number)
        grads = torch.randn(len(touched), width, generator=generator).to(
            torch.bfloat16 if half else torch.float32
        )
        rows = torch.tensor(touched, dtype=torch.int64)
        history.append(step)
        update_rows(lazy, rows, grads, history=history, grad_scale=grad_scale)
        dense_step(dense, rows, grads, step, grad_scale)
        if settle:
            catch_up(lazy, None, history)
            assert same(lazy, dense)
        if settle == 2:
            history.restart()
    catch_up(lazy, None, history)
    assert same(lazy, dense)
    assert lazy.seen.tolist() == [len(happenings)] * ROWS


@needs_kernels
def test_a_row_that_never_had_a_gradient_only_decays():
    table, history = fresh(32), History()
    before = table.param.clone()
    for number in range(1, 151):  # more than the history first has room for
        history.append(Step(0.1, 0.9, 0.99, 1e-8, 0.01, number))
    catch_up(table, torch.tensor([2, 7]), history)
    torch.testing.assert_close(table.param[[2, 7]], before[[2, 7]] * 0.999**150, rtol=1e-5, atol=0)
    assert torch.equal(table.param[3], before[3])
    assert table.seen.tolist() == [0, 0, 150, 0, 0, 0, 0, 150, 0]
    assert torch.equal(table.twin[2], table.param[2].bfloat16())


@needs_kernels
def test_a_step_is_applied_once_however_often_it_is_asked_for():
    table, history = fresh(8), History()
    history.append(Step(0.1, 0.9, 0.99, 1e-8, 0.0, 1))
    rows, grads = torch.tensor([1, 4]), torch.ones(2, 8)
    update_rows(table, rows, grads, history=history)
    once = table.param.clone()
    update_rows(table, rows, grads, history=history)
    catch_up(table, rows, history)
    assert torch.equal(table.param, once)


@needs_kernels
def test_bits_do_not_depend_on_the_number_of_threads(threads):
    def run(count):
        threads(count)
        param = torch.randn(500, 20, generator=torch.Generator().manual_seed(0))
        table = Table(param, torch.zeros(500, 20), torch.zeros(500, 20), torch.zeros(500, dtype=torch.int32))
        history = History()
        for number in range(1, 5):
            history.append(Step(0.1, 0.9, 0.99, 1e-8, 0.01, number))
            update_rows(
                table,
                torch.arange(number, 500, number + 1),
                torch.ones(len(range(number, 500, number + 1)), 20),
                history=history,
            )
        catch_up(table, None, history)
        return param

    assert torch.equal(run(1), run(3))


@needs_kernels
def test_rows_and_tables_that_do_not_fit_are_refused():
    table, history = fresh(8), History()
    history.append(Step(0.1, 0.9, 0.99, 1e-8, 0.0, 1))
    for rows in ([3, 3], [4, 2], [-1, 2], [0, ROWS]):
        with pytest.raises(ModelError, match=r"rise strictly within 0\.\.8"):
            catch_up(table, torch.tensor(rows), history)
    with pytest.raises(ModelError, match="int64"):
        catch_up(table, torch.tensor([1], dtype=torch.int32), history)
    with pytest.raises(ModelError, match="one gradient per row"):
        update_rows(table, torch.tensor([1]), torch.ones(2, 8), history=history)
    history.restart()
    with pytest.raises(ModelError, match="must have had 1 to 1 steps, but they have had 0 to 0"):
        catch_up(table, None, history)
    with pytest.raises(ModelError, match="dense fp32"):
        Table(
            torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3).double(), torch.zeros(2, dtype=torch.int32)
        )


def test_without_kernels_it_says_so(monkeypatch):
    monkeypatch.setattr("weft.native.table.library", lambda: None)
    with pytest.raises(ModelError, match="compiled kernels must be in use"):
        catch_up(fresh(8), None, History())
