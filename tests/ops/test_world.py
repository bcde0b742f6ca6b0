"""Two processes with unequal shares of a batch do what one process does with all of it."""

from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing

from reference_impl.losses import ghm_c, ghm_c_counts
from reference_impl.ops.world import world_mean, world_sum
from reference_impl.sampling import prime_sample_attention

SHARES = (5, 18)


def test_a_single_process_is_the_world() -> None:
    counts = torch.tensor([3, 4], requires_grad=False)
    assert world_sum(counts).equal(counts)
    assert world_mean(counts).tolist() == [3.0, 4.0]
    x = torch.ones(2, requires_grad=True)
    assert not world_sum(x * 2).requires_grad


def test_unequal_shares_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(one_process, args=(tmp_path,), nprocs=len(SHARES))
    together = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(SHARES))]
    loss, gradient = train_step(*batch())
    torch.testing.assert_close(together[0]["gradient"], together[1]["gradient"], rtol=0, atol=0)
    torch.testing.assert_close(together[0]["gradient"], gradient, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(sum(result["loss"] for result in together) / len(SHARES), loss, rtol=1e-12, atol=1e-15)
    assert [result["counts"] for result in together] == [[6, 15], [6, 15]]


def test_reweighting_keeps_the_sum_over_all_processes(tmp_path: Path) -> None:
    """Prime sample attention in each process, scaled by sums over both: positives and negatives keep theirs, in no process alone."""
    multiprocessing.spawn(one_process, args=(tmp_path,), nprocs=len(SHARES))
    before, after = torch.stack([torch.load(tmp_path / f"{rank}.pt")["reweighted"] for rank in range(len(SHARES))]).unbind(1)
    torch.testing.assert_close(after.sum(0), before.sum(0), rtol=1e-12, atol=0)
    assert ((after - before).abs() > 1e-3).all()


def one_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = distributed.FileStore(str(folder / "store"), len(SHARES))
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=len(SHARES))
    loss, gradient = train_step(*(x.split(SHARES)[rank] for x in batch()))
    distributed.all_reduce(gradient)
    own = torch.tensor([2, 5]) * (rank + 1)
    counts = world_sum(own).tolist()
    assert own.tolist() == [2 * (rank + 1), 5 * (rank + 1)]
    found = {"loss": loss, "gradient": gradient / len(SHARES), "counts": counts, "reweighted": reweighted(rank)}
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    n = sum(SHARES)
    features = torch.randn(n, 7, generator=generator, dtype=torch.float64)
    return features, torch.randint(0, 4, (n,), generator=generator), torch.rand(n, generator=generator) < 0.8


def train_step(features: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of a linear classifier and its gradient, as `DistributedDataParallel` would have them before it averages over processes."""
    weight = torch.linspace(-1, 1, 21, dtype=torch.float64).view(7, 3).requires_grad_()
    logits = features @ weight
    counts = world_sum(ghm_c_counts(logits, labels, valid, bins=10))
    loss = ghm_c(logits, labels, valid, counts).sum() / world_mean(valid.sum()).clamp(min=1)
    (gradient,) = torch.autograd.grad(loss, weight)
    return loss.detach(), gradient


def reweighted(rank: int) -> Tensor:
    """Losses of positives and of negatives before and after, as a caller of several processes keeps their sum."""
    n = SHARES[rank]
    iou, score, loss = torch.rand(3, n, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)
    positive = torch.arange(n) % 2 == 0
    weight = prime_sample_attention(iou, score, torch.arange(n) % 3, torch.arange(n) // 4, positive, ~positive)
    masks = torch.stack((positive, ~positive))
    before, after = (masks * loss).sum(-1), (masks * weight * loss).sum(-1)
    return torch.stack((before, after * world_sum(before) / world_sum(after)))
