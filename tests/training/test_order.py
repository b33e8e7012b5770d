"""Mini-batches, epochs and shuffling."""

import pytest
import torch

from unstick.errors import BadRecipe
from unstick.training.order import BatchOrder


@pytest.mark.parametrize("shuffle", ["epoch", "once", "never"])
@pytest.mark.parametrize(("samples", "size"), [(10, 3), (10, 5), (10, 1), (10, 10), (7, None)])
def test_an_epoch_visits_every_sample_once(samples, size, shuffle):
    order = BatchOrder(samples, size, seed=3, shuffle=shuffle)
    for epoch in range(3):
        rows = [order.next() for _ in range(order.batches)]
        assert order.epoch == epoch
        assert order.ends_epoch
        assert torch.cat(rows).sort().values.tolist() == list(range(samples))


def test_reshuffling_draws_a_new_order_each_epoch_and_once_does_not():
    def epochs(shuffle):
        order = BatchOrder(50, 50 // 2, seed=0, shuffle=shuffle)
        return [torch.cat([order.next(), order.next()]).tolist() for _ in range(3)]

    each, once, never = map(epochs, ("epoch", "once", "never"))
    assert len(set(map(tuple, each))) == 3
    assert len(set(map(tuple, once))) == 1
    assert once[0] != list(range(50)) == never[0]


def test_a_smaller_last_batch_can_be_left_out():
    order = BatchOrder(10, 4, seed=0, drop_last=True)

    assert [len(order.next()) for _ in range(4)] == [4, 4, 4, 4]
    assert order.epoch == 1


def test_the_seed_alone_decides():
    first, same, other = (BatchOrder(100, 7, seed=seed) for seed in (5, 5, 6))
    torch.manual_seed(1)  # global randomness has no say

    a, b, c = ([order.next().tolist() for _ in range(40)] for order in (first, same, other))
    assert a == b != c


@pytest.mark.parametrize("shuffle", ["epoch", "once", "never"])
@pytest.mark.parametrize("stop", [0, 1, 4, 5, 13])
def test_an_order_goes_on_exactly_where_it_was(stop, shuffle):
    whole, before = (BatchOrder(13, 3, seed=1, shuffle=shuffle) for _ in range(2))
    after = BatchOrder(13, 3, seed=1, shuffle=shuffle)
    expected = [whole.next().tolist() for _ in range(30)]

    first = [before.next().tolist() for _ in range(stop)]
    after.load_state_dict(before.state_dict())

    assert first + [after.next().tolist() for _ in range(30 - stop)] == expected


def test_whole_epochs_are_those_of_single_batches():
    one, many = (BatchOrder(11, 4, seed=2) for _ in range(2))
    for _ in range(3):
        rows = torch.cat([one.next() for _ in range(one.batches)])
        assert torch.equal(rows, many.next_epoch())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected 1 to 10"),
        ({"batch_size": 11}, "batch_size is 11"),
        ({"batch_size": 2, "shuffle": "always"}, "shuffle is 'always'"),
    ],
)
def test_what_is_out_of_range_is_refused(given, said):
    with pytest.raises(BadRecipe, match=said):
        BatchOrder(10, seed=0, **given)
